"""One evaluation for every model, and the other estimators, each computed anew."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors
from tiny import random_images, tiny_autoencoder, tiny_vae
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vae_tutorial import elbo, evaluate, reconstruction_error
from vae_tutorial.data import Split
from vae_tutorial.evaluate import (
    Estimate,
    active_units,
    calibration,
    importance_weighted_bound,
    latent_usage,
    moments_from_standard_normal,
    nearest_images,
    per_example,
    refined_posterior,
)  # fmt: skip
from vae_tutorial.likelihoods import binarize
from vae_tutorial.randomness import seeded


def test_evaluation_is_each_terms_mean_over_all_examples_with_its_standard_error():
    vae, x = tiny_vae(spread=2.0), random_images(16)
    numbers = evaluate(vae, elbo, x, samples=3, batch_size=7, seed=4)
    with seeded(4), torch.no_grad():
        parts = [elbo(vae, batch, samples=3) for batch in x.split(7)]
    for name, value in numbers.items():
        each = torch.cat([p[name] for p in parts]).double().numpy()
        assert value == pytest.approx(each.mean())
        assert value.standard_error == pytest.approx(each.std() / 4)
    assert list(numbers) == ["loss", "negative_elbo", "reconstruction", "kl"]
    stored = (x * 255).byte()
    assert evaluate(vae, elbo, Split(stored, torch.zeros(16))) == evaluate(vae, elbo, (stored,))


def test_an_objective_with_labels_is_evaluated_on_tuples():
    def right(model, x, labels, *, shift=0):
        return {"loss": (x.argmax(1) == labels + shift).float()}

    x, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert evaluate(nn.Identity(), right, (x, labels), shift=1)["loss"] == 0.0
    assert per_example(nn.Identity(), right, (x, labels))["loss"].tolist() == [1, 1, 1, 0]


def test_evaluation_of_an_autoencoder():
    model, x = tiny_autoencoder(), random_images(9)
    with torch.no_grad():
        logits = model.decoder.network(model.encoder(x)).double().numpy()
    each = (np.logaddexp(0, logits) - x.numpy() * logits).sum((1, 2, 3))  # its definition
    for term in per_example(model, reconstruction_error, x, batch_size=4).values():
        np.testing.assert_allclose(term, each, rtol=1e-5)


def test_what_prepares_a_batch_is_part_of_the_evaluation():
    vae, x = tiny_vae(greys=False), random_images(40)
    with pytest.raises(ValueError, match="Binarize"):
        evaluate(vae, elbo, x)
    assert evaluate(vae, elbo, x, prepare=binarize)["loss"] > 0


def test_each_submodule_is_left_in_its_mode_even_after_an_error():
    vae = tiny_vae().train()
    vae.decoder.eval()
    modes = [module.training for module in vae.modules()]
    seen = []

    def watch(model, x):
        seen.append([module.training for module in model.modules()])
        assert not torch.is_grad_enabled()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        evaluate(vae, watch, random_images())
    assert not any(seen[0])
    assert [module.training for module in vae.modules()] == modes


def test_an_estimate_is_a_float_that_keeps_its_error():
    estimate = Estimate(1234.567, 0.0321)
    assert str(estimate) == "1,234.567 ± 0.032"
    assert f"{estimate:.1f}" == "1234.6"
    assert (estimate + 1, copy.deepcopy(estimate).standard_error) == (1235.567, 0.0321)
    assert (str(Estimate(2.5)), str(Estimate(97.3, 12.0))) == ("2.5", "97 ± 12")


def test_importance_weighted_bound_of_one_image_by_hand():
    vae, x = tiny_vae(spread=2.0), random_images(5)
    with seeded(3), torch.no_grad():
        q = vae.encoder(x)
        z = q.rsample((6,))
        prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        weights = (vae.decoder(z).log_prob(x) + prior - q.log_prob(z)).double()
    ours = importance_weighted_bound(vae, x, samples=6, seed=3)
    np.testing.assert_allclose(ours, logsumexp(weights, 0, b=1 / 6), rtol=1e-6)
    with pytest.raises(ValueError, match="samples"):
        importance_weighted_bound(vae, x, samples=0)


class Line(nn.Module):
    """x = z + noise, in one dimension, with a posterior that is 1.3 times too wide."""

    def __init__(self, noise=0.5):
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(noise))

    def prior(self):
        return Independent(Normal(torch.zeros(1), 1.0), 1)

    def encoder(self, x):
        variance = self.noise**2 / (1 + self.noise**2)
        return Independent(Normal(x.flatten(1) / (1 + self.noise**2), 1.3 * variance.sqrt()), 1)

    def decoder(self, z):
        return Independent(Normal(z[..., None, None], self.noise), 3)


def test_importance_weighted_bound_rises_to_the_exact_likelihood():
    x = torch.full((20_000, 1, 1, 1), 0.7)
    truth = Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(0.7, dtype=torch.float64))
    counts, variance = (1, 3, 10, 30), 1.69 / math.sqrt(2 * 1.69 - 1) - 1  # of the weights
    missing = [truth - importance_weighted_bound(Line(), x, samples=s) for s in counts]
    means = [float(m.mean()) for m in missing]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx((1.69 - 1 - math.log(1.69)) / 2, rel=0.05)  # KL(q || p(z|x))
    errors = [float(m.std()) / math.sqrt(len(x)) for m in missing]
    for s, mean, error in list(zip(counts, means, errors, strict=True))[2:]:
        assert mean == pytest.approx(variance / (2 * s), abs=4 * error)


def test_latent_usage_against_numpy():
    vae, x = tiny_vae(latent_dim=3, spread=4.0), random_images(50)
    last = vae.encoder.network.layers[-1]
    with torch.no_grad():  # the mean and log-variance of the second dimension: always zero
        last.weight[[1, 4]] = 0
        last.bias[[1, 4]] = 0
        q = vae.encoder(x)
    usage = latent_usage(vae, x, batch_size=7)
    mean, scale = q.mean.double().numpy(), q.stddev.double().numpy()
    kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).mean(0)
    np.testing.assert_allclose(usage["kl"], kl, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(usage["activity"], mean.var(0, ddof=1), rtol=1e-4)
    assert (usage["kl"][1], usage["activity"][1]) == (0, 0)
    assert active_units(vae, x) == int((usage["activity"] > 0.01).sum()) <= 2
    assert active_units(vae, x, threshold=math.inf) == 0
    with pytest.raises(ValueError, match="at least 2"):
        latent_usage(vae, x[:1])


def test_calibration_against_numpy():
    generator = torch.Generator().manual_seed(0)
    variances = torch.rand(3, 1, 5, 5, generator=generator)
    errors = torch.randn(3, 1, 5, 5, generator=generator)
    v, squares = variances.double().numpy().ravel(), errors.double().numpy().ravel() ** 2
    for bins in (1, 8, 75):
        found = calibration(variances, errors, bins=bins)
        for name, values in {"predicted": v, "actual": squares}.items():
            expected = [part.mean() for part in np.array_split(values[v.argsort()], bins)]
            np.testing.assert_allclose(found[name], expected)
    for bins in (0, 76):
        with pytest.raises(ValueError, match="bins"):
            calibration(variances, errors, bins=bins)
    with pytest.raises(ValueError, match="same pixels"):
        calibration(variances, errors[:2])


def test_nearest_images_are_scikit_learns():
    known, labels = random_images(60, (1, 6, 6), seed=1), torch.arange(60) % 7
    images = random_images(9, (1, 6, 6), seed=2)
    distance, votes = nearest_images(images, (known * 255).byte(), labels, k=4)
    model = NearestNeighbors(n_neighbors=4).fit((known * 255).byte().flatten(1).numpy() / 255)
    expected, found = model.kneighbors(images.flatten(1).numpy())
    np.testing.assert_allclose(distance, expected[:, 0], rtol=1e-4)
    assert torch.equal(votes, labels[torch.from_numpy(found)])
    itself, _ = nearest_images(known, known, labels, k=1)
    assert float(itself.max()) < 1e-6
    for k in (0, 61):
        with pytest.raises(ValueError, match="k must"):
            nearest_images(images, known, labels, k=k)


@pytest.mark.parametrize("d", [1, 3])
def test_moments_against_torchs_gaussian_kl(d):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(500, d, generator=generator) @ torch.randn(d, d, generator=generator) + 0.4
    x = codes.double().numpy()
    q = MultivariateNormal(codes.double().mean(0), torch.tensor(np.cov(x.T)).reshape(d, d))
    standard = MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double())
    kl, std = float(kl_divergence(q, standard)), x.std(0, ddof=1)
    assert moments_from_standard_normal(codes) == pytest.approx(
        {"kl": kl, "kl_per_dimension": kl / d, "smallest_std": std.min(),
         "largest_std": std.max(), "largest_mean": np.abs(x.mean(0)).max()},
        rel=1e-4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="more codes"):
        moments_from_standard_normal(torch.zeros(d, d))


class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz, I), with an encoder that is wrong in mean and width."""

    W = torch.tensor([[1.0, 0.6], [0.0, 1.0], [0.5, -0.3]])

    def encoder(self, x):
        return Independent(Normal(x[:, :2] * 0, torch.full((len(x), 2), 0.9)), 1)

    def prior(self):
        return Independent(Normal(torch.zeros(2), torch.ones(2)), 1)

    def decoder(self, z):
        return Independent(Normal(z @ self.W.T, torch.ones(3)), 1)


def test_a_refined_posterior_is_the_best_mean_field():
    model, x = LinearGaussian(), torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]])
    torch.manual_seed(0)
    q = refined_posterior(model, x, steps=600, samples=64, learning_rate=0.02)
    precision = torch.eye(2) + model.W.T @ model.W  # of the true posterior
    mean = torch.linalg.solve(precision, model.W.T @ x.T).T
    assert torch.allclose(q.mean, mean, atol=0.05)
    best = precision.diagonal().rsqrt().expand(2, 2)  # the reverse KL's: 1 / sqrt(precision_dd)
    assert torch.allclose(q.stddev, best, rtol=0.08)
    model.encoder = lambda x: Normal(x, 1.0)
    with pytest.raises(ValueError, match="mean-field"):
        refined_posterior(model, x)


def test_refining_leaves_the_networks_as_they_are():
    vae = tiny_vae((1, 8, 8), greys=False, spread=3.0)
    x = (torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    q = refined_posterior(vae, x, steps=3)
    assert q.mean.shape == (5, 2)
    assert not q.mean.requires_grad
    assert all(p.grad is None for p in vae.parameters())
