"""The ladder VAE and the plain hierarchy: merges, KL terms and bounds against other computations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_images
from torch.distributions import Independent, Normal, kl_divergence

from vae_tutorial import Bernoulli, fit
from vae_tutorial.evaluation import evaluate_ladder
from vae_tutorial.ladder import (
    LadderVAE,
    gaussian_kl_between,
    ladder_elbo,
    log_normal,
    precision_weighted,
)
from vae_tutorial.likelihoods import binarize
from vae_tutorial.randomness import seeded

SHAPE = (1, 4, 4)


def tiny(ladder=True, dims=(4, 3, 2), hidden=(8, 7, 6), seed=0) -> LadderVAE:
    """In evaluation mode, where no example depends on the others of its batch."""
    with seeded(seed), torch.no_grad():
        model = LadderVAE(SHAPE, Bernoulli(SHAPE), dims, hidden, ladder=ladder)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(0.5)  # so that averages over draws have a small spread
    return model.eval()


NUMBERS = st.floats(-4, 4)


@settings(deadline=None, max_examples=50)
@given(a=st.tuples(NUMBERS, NUMBERS), b=st.tuples(NUMBERS, NUMBERS))
def test_the_merge_is_the_normalized_product_of_densities(a, b):
    a, b = (tuple(torch.tensor([v], dtype=torch.float64) for v in pair) for pair in (a, b))
    mean, log_variance = precision_weighted(a, b)
    # On a grid: multiply the densities, normalize, take the moments.
    x = torch.linspace(-80, 80, 400_001, dtype=torch.float64)
    product = Normal(a[0], (a[1] / 2).exp()).log_prob(x) + Normal(b[0], (b[1] / 2).exp()).log_prob(
        x
    )
    weight = (product - product.max()).exp()
    weight = weight / weight.sum()
    expected = (weight * x).sum()
    assert float(mean) == pytest.approx(float(expected), abs=1e-4)
    variance = (weight * (x - expected) ** 2).sum()
    assert float(log_variance.exp()) == pytest.approx(float(variance), rel=1e-3, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(numbers=st.tuples(*[NUMBERS] * 4))
def test_kl_and_density_are_torchs(numbers):
    q, p = (
        (torch.tensor([[m, 0.3]]).double(), torch.tensor([[v, -0.5]]).double())
        for m, v in (numbers[:2], numbers[2:])
    )
    dist_q, dist_p = (Independent(Normal(m, (v / 2).exp()), 1) for m, v in (q, p))
    torch.testing.assert_close(gaussian_kl_between(q, p), kl_divergence(dist_q, dist_p))
    z = torch.tensor([[0.7, -1.1]]).double()
    torch.testing.assert_close(log_normal(z, p), dist_p.log_prob(z), rtol=1e-6, atol=1e-6)


def test_a_layer_whose_image_part_knows_nothing_has_no_kl():
    """Posterior and prior agree: the KL term is zero, to rounding."""
    model = tiny()
    with torch.no_grad():
        for says, d in zip(model.says[:2], model.latent_dims[:2], strict=True):
            says.weight.zero_()
            says.bias.zero_()
            says.bias[d:] = 1e4  # the largest log-variance that the bound allows
    model.log_variance_bound = 60.0
    _, kl = model.infer_latents(random_images(5, SHAPE))
    assert float(kl[1].abs().max()) < 1e-6
    assert float(kl[2].abs().max()) < 1e-6
    q = (torch.randn(3, 4), torch.randn(3, 4))
    assert torch.equal(gaussian_kl_between(q, q), torch.zeros(3))


@pytest.mark.parametrize("ladder", [True, False])
def test_the_bound_is_the_mean_of_log_weights(ladder):
    """E[log q(z|x) - log p(x, z)] by hand, from every density along the way."""
    model, x = tiny(ladder).double(), random_images(3, SHAPE, binary=True).double()
    with seeded(0), torch.no_grad():
        terms = ladder_elbo(model, x, samples=4000)
        again = x.repeat(4000, 1, 1, 1)
    with seeded(1), torch.no_grad():
        z, _ = model.infer_latents(again)
        log_p = model.decode(z[1]).log_prob(again)
        log_q = torch.zeros(len(again)).double()
        n = len(again)
        for layer in (1, 2, 3):
            log_p += log_normal(z[layer], model.prior(layer, z.get(layer + 1), n))
        if ladder:
            d, said = again.flatten(1), []
            for up, says in zip(model.up, model.says, strict=True):
                d = up(d)
                said.append(model._gaussian(says(d)))
            log_q += log_normal(z[3], said[2])
            for layer in (1, 2):
                p = model.prior(layer, z[layer + 1], n)
                log_q += log_normal(z[layer], precision_weighted(said[layer - 1], p))
        else:
            for layer, below in ((1, again.flatten(1)), (2, z[1]), (3, z[2])):
                log_q += log_normal(z[layer], model._gaussian(model.infer[layer - 1](below)))
    expected = (log_q - log_p).unflatten(0, (4000, 3)).mean(0)
    torch.testing.assert_close(terms["loss"], expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("ladder", [True, False])
def test_terms_add_up_and_beta_weighs_the_kl(ladder):
    model, x = tiny(ladder), random_images(6, SHAPE, binary=True)
    with seeded(3):
        terms = ladder_elbo(model, x, beta=0.3, samples=2)
    assert set(terms) == {"loss", "reconstruction", "kl", "kl_1", "kl_2", "kl_3"}
    assert all(term.shape == (6,) for term in terms.values())
    torch.testing.assert_close(terms["kl"], terms["kl_1"] + terms["kl_2"] + terms["kl_3"])
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 0.3 * terms["kl"])


def test_one_layer_is_the_plain_vae():
    """With a single layer both kinds are a mean-field VAE: the KL is the usual closed form."""
    model, x = tiny(dims=(3,), hidden=(8,)), random_images(5, SHAPE, binary=True)
    terms = ladder_elbo(model, x)
    mean, log_variance = model._gaussian(model.says[0](model.up[0](x.flatten(1))))
    expected = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    torch.testing.assert_close(terms["kl"], expected)


@pytest.mark.parametrize("ladder", [True, False])
def test_training_lowers_the_bound(ladder):
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(200, *SHAPE, generator=generator) < 0.5).float()
    x[:, :, 2:] = x[:, :, :2]  # the lower half repeats the upper
    history = fit(tiny(ladder), ladder_elbo, x, epochs=60, batch_size=50, learning_rate=1e-2,
                  progress=False)  # fmt: skip
    rows = history[history.scope == "epoch"]
    assert rows.loss.iloc[-1] < rows.loss.iloc[0] - 0.1
    assert rows.loss.iloc[-1] < 16 * math.log(2)


@pytest.mark.parametrize("ladder", [True, False])
def test_normalization_can_be_left_out_and_says_so(ladder):
    with seeded(0):
        bare = LadderVAE(SHAPE, Bernoulli(SHAPE), (3, 2), (8, 7), ladder=ladder, batch_norm=False)
    normalized = tiny(ladder, (3, 2), (8, 7))
    kinds = [{type(layer).__name__ for layer in m.modules()} for m in (bare, normalized)]
    assert "BatchNorm1d" not in kinds[0]
    assert "BatchNorm1d" in kinds[1]
    assert "batch_norm=False" in str(bare)
    assert "batch_norm" not in str(normalized)  # the default is what runs were stored with
    terms = ladder_elbo(bare.train(), random_images(1, SHAPE, binary=True))  # even of one image
    assert all(term.isfinite().all() for term in terms.values())


def test_evaluation_adds_up_and_repeats_itself():
    model, x = tiny(), random_images(40, SHAPE)
    first, again = (
        evaluate_ladder(model, x, samples=3, transform=binarize, batch_size=16) for _ in range(2)
    )
    assert first == again
    parts = first["test_reconstruction"] + first["test_kl"]
    assert first["test_negative_elbo"] == pytest.approx(parts)
    layers = [first[f"test_kl_{i}"] for i in (1, 2, 3)]
    assert first["test_kl"] == pytest.approx(sum(layers))
    assert (
        first["test_negative_elbo"]
        != evaluate_ladder(model, x, samples=3, transform=binarize, batch_size=16, seed=1)[
            "test_negative_elbo"
        ]
    )


def test_held_layers_stay_and_the_others_move():
    model = tiny()
    images, z = model.generate(4, seed=0)
    assert images.shape == (4, *SHAPE)
    assert {k: tuple(v.shape) for k, v in z.items()} == {1: (4, 4), 2: (4, 3), 3: (4, 2)}
    same, again = model.generate(4, seed=0)
    assert torch.equal(images, same)
    held, other = model.generate(4, given={3: z[3], 2: z[2]}, seed=1)
    assert torch.equal(other[3], z[3])
    assert torch.equal(other[2], z[2])
    assert not torch.equal(other[1], z[1])
    assert not torch.equal(held, images)
    assert torch.equal(model.generate(4, given=z, seed=5)[0], images)
    assert torch.equal(again[1], z[1])


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="one hidden width"):
        LadderVAE(SHAPE, Bernoulli(SHAPE), (4, 2), (8,))
    with pytest.raises(ValueError, match="latent_dim must be"):
        LadderVAE(SHAPE, Bernoulli(SHAPE), (4, 0), (8, 8))
    with pytest.raises(ValueError, match="expected images"):
        tiny().infer_latents(torch.zeros(2, 1, 5, 5))
    with pytest.raises(ValueError, match="layers from 1 to 3"):
        tiny().generate(2, given={4: torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="samples"):
        ladder_elbo(tiny(), random_images(2, SHAPE), samples=0)
