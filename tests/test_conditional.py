"""The conditional VAE: its network, bounds and priors against NumPy and quadrature."""

import math

import numpy as np
import pytest
import torch
from tiny import random_images
from torch import nn

from vae_tutorial import Bernoulli, MeanFieldGaussian, StandardNormal, build, spec
from vae_tutorial.models.conditional import (
    ClassPrior,
    ConditionalDecoder,
    ConditionalEncoder,
    ConditionalVAE,
    LabelledMLP,
    conditional_bounds,
    conditional_elbo,
)
from vae_tutorial.randomness import seeded

SHAPE, K = (1, 3, 3), 4
LABELS = torch.tensor([2, 0, 3, 3, 1])
X = random_images(5, SHAPE, binary=True)
GRID = torch.linspace(-9, 9, 6001)  # of a latent of one dimension


def tiny(latent_dim=1, prior=None, seed=0) -> ConditionalVAE:
    """Labels move everything: no parameter is at zero."""
    with seeded(seed), torch.no_grad():
        posterior, likelihood = MeanFieldGaussian(latent_dim), Bernoulli(SHAPE)
        body = LabelledMLP(SHAPE, posterior.param_shape, K, (6,))
        encoder = ConditionalEncoder(body, posterior)
        body = LabelledMLP(latent_dim, SHAPE, K, (5, 6))
        decoder = ConditionalDecoder(body, likelihood)
        model = ConditionalVAE(encoder, decoder, prior or StandardNormal(latent_dim))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.7)
        encoder.network.layers[-1].weight.mul_(0.3)  # a wide posterior: weights stay tame
        encoder.network.layers[-1].bias[latent_dim:] = 0.3
    return model.requires_grad_(False)


def log_joint(model, x, y, z) -> np.ndarray:
    """log p(x|y,z) + log p(z|y) of one image, one label and latents (G, 1), by NumPy in float64."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    z = z.double().numpy()
    silu = lambda a: a / (1 + np.exp(-a))  # noqa: E731
    of = "decoder.network."
    one_hot = np.eye(K)[y]
    # The first layer reads z and the one-hot label side by side.
    first = np.hstack([w[of + "first.weight"], w[of + "label.weight"].T])
    hidden = np.hstack([z, np.tile(one_hot, (len(z), 1))]) @ first.T + w[of + "first.bias"]
    hidden = silu(hidden) @ w[of + "layers.1.weight"].T + w[of + "layers.1.bias"]
    logits = silu(hidden) @ w[of + "layers.3.weight"].T + w[of + "layers.3.bias"]
    x = x.double().flatten().numpy()
    likelihood = (x * logits - np.logaddexp(0, logits)).sum(1)
    mean, log_variance = 0.0, 0.0
    if "prior.numbers.weight" in w:
        mean, log_variance = w["prior.numbers.weight"][y]
        log_variance = 10 * np.tanh(log_variance / 10)
    density = -0.5 * ((z[:, 0] - mean) ** 2 / np.exp(log_variance) + log_variance)
    return likelihood + density - 0.5 * math.log(2 * math.pi)


def exact(model, x, y) -> float:
    """log p(x|y), the integral over the latent added up on a grid."""
    step = float(GRID[1] - GRID[0])
    return float(np.logaddexp.reduce(log_joint(model, x, y, GRID[:, None])) + math.log(step))


def test_a_label_is_a_one_hot_vector_beside_the_input():
    with seeded(0):
        network = LabelledMLP(SHAPE, 3, K, (6,), nn.Tanh).requires_grad_(False)
        nn.init.normal_(network.label.weight)
    together = nn.Linear(9 + K, 6)
    weight = torch.cat([network.first.weight, network.label.weight.T], 1)
    together.load_state_dict({"weight": weight, "bias": network.first.bias})
    beside = torch.cat([X.flatten(1), torch.eye(K)[LABELS]], 1)
    torch.testing.assert_close(network(X, LABELS), network.layers(together(beside)))


def test_at_the_start_all_labels_are_alike():
    network = LabelledMLP(SHAPE, 3, K).requires_grad_(False)
    every = network(X, torch.arange(K).unsqueeze(1))
    assert every.shape == (K, 5, 3)
    torch.testing.assert_close(every, every[:1].expand_as(every))
    assert float(every.std()) > 0


def test_all_labels_at_once_are_the_labels_one_by_one():
    model = tiny(2)
    with seeded(0):
        at_once = conditional_elbo(model, X, model.all_labels(), samples=3)
    noise_of = {}
    with seeded(0):
        noise = torch.randn(3, K, 5, 2)
    for k in range(K):
        y = torch.full((5,), k)
        q = model.encoder(X, y)
        z = q.mean + q.stddev * noise[:, k]
        noise_of[k] = -model.decoder(z, y).log_prob(X).mean(0)
    assert at_once["loss"].shape == (K, 5)
    torch.testing.assert_close(at_once["reconstruction"], torch.stack([*noise_of.values()]))


@pytest.mark.parametrize("prior", [None, ClassPrior(1, K)])
def test_the_bound_is_below_the_exact_conditional_likelihood_and_reaches_it(prior):
    model = tiny(prior=prior)
    truth = torch.tensor([exact(model, x, int(y)) for x, y in zip(X, LABELS, strict=True)])
    with seeded(0):
        elbo = -conditional_elbo(model, X, LABELS, samples=20_000)["negative_elbo"]
    assert bool((elbo < truth).all())
    assert float((truth - elbo).max()) > 0.05
    weighted = conditional_bounds(model, X, LABELS, samples=20_000, at_once=7000)
    torch.testing.assert_close(weighted.float(), truth.float(), atol=0.03, rtol=0)


def test_the_bound_is_an_integral_that_quadrature_knows():
    model = tiny(prior=ClassPrior(1, K))
    q = model.encoder(X, LABELS)
    with seeded(1):
        found = -conditional_elbo(model, X, LABELS, samples=50_000)["negative_elbo"]
    for i, y in enumerate(LABELS):
        z, step = GRID.double(), float(GRID[1] - GRID[0])
        mean, scale = float(q.mean[i]), float(q.stddev[i])
        log_q = -0.5 * ((z - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)
        gap = torch.as_tensor(log_joint(model, X[i], int(y), GRID[:, None])) - log_q
        assert float((log_q.exp() * gap).sum() * step) == pytest.approx(float(found[i]), abs=0.03)


def test_the_average_over_labels_is_the_models_own_likelihood():
    model = tiny()
    table = conditional_bounds(model, X, samples=5000, batch_size=2)
    assert table.shape == (5, K)
    exactly = [[exact(model, x, y) for y in range(K)] for x in X]
    np.testing.assert_allclose(table.numpy(), exactly, atol=0.05)


def test_what_a_prior_moves_the_labels_of_a_decoder_can_move_too():
    """p(z|y) = N(m_y, I) under a decoder is N(0, I) under one whose label vectors moved by W m_y."""
    with_prior = tiny(prior=ClassPrior(1, K))
    with_prior.prior.numbers.weight[:, 1] = 0.0
    without = tiny()
    without.load_state_dict(with_prior.state_dict(), strict=False)
    network, means = without.decoder.network, with_prior.prior.numbers.weight[:, :1]
    network.label.weight += means @ network.first.weight.T
    for y in range(K):
        assert exact(with_prior, X[0], y) == pytest.approx(exact(without, X[0], y), abs=1e-5)


def test_at_the_start_every_label_has_a_standard_normal_prior():
    prior = ClassPrior(3, K)(LABELS)
    assert torch.equal(prior.mean, torch.zeros(5, 3))
    assert torch.equal(prior.stddev, torch.ones(5, 3))


def test_samples_are_drawn_under_a_seed_for_the_labels_asked_for():
    for prior in (None, ClassPrior(2, K)):
        model = tiny(2, prior)
        images = model.sample(LABELS, seed=3)
        assert images.shape == (5, *SHAPE)
        assert torch.equal(images, model.sample(LABELS, seed=3))
        z = model.encode(X, LABELS)
        assert not torch.allclose(model.decode(z, LABELS), model.decode(z, LABELS.roll(1)))
        again = build(spec(model))
        again.load_state_dict(model.state_dict())
        assert torch.equal(images, again.sample(LABELS, seed=3))


def test_parts_that_do_not_fit_are_refused():
    posterior, likelihood = MeanFieldGaussian(2), Bernoulli(SHAPE)
    encoder = ConditionalEncoder(LabelledMLP(SHAPE, 4, K), posterior)
    decoder = ConditionalDecoder(LabelledMLP(2, SHAPE, K), likelihood)
    with pytest.raises(ValueError, match="latent_dim"):
        ConditionalVAE(encoder, decoder, StandardNormal(3))
    with pytest.raises(ValueError, match="classes"):
        ConditionalVAE(encoder, decoder, ClassPrior(2, K + 1))
    with pytest.raises(ValueError, match="param_shape"):
        ConditionalEncoder(LabelledMLP(SHAPE, 5, K), posterior)
    with pytest.raises(ValueError, match="hidden"):
        LabelledMLP(SHAPE, 4, K, ())
    with pytest.raises(ValueError, match="int64"):
        encoder(X, LABELS.float())
    with pytest.raises(ValueError, match="expected inputs"):
        encoder(X[..., :2], LABELS)
    with pytest.raises(ValueError, match="at least 1"):
        conditional_bounds(tiny(), X, samples=0)
