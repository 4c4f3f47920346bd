"""The objectives of chapters 5 and 7, what measures them, and the data they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_images, tiny_vae
from torch.distributions import Independent, Normal, kl_divergence

from vae_tutorial import MLP, VAE, Decoder, Encoder, MeanFieldGaussian, StandardNormal, data, elbo
from vae_tutorial.evaluation import (
    active_units,
    calibration,
    evaluate_elbo,
    latent_usage,
)
from vae_tutorial.likelihoods import Gaussian, binarize
from vae_tutorial.objectives import beta_nll_elbo, free_bits_elbo, kl_per_dimension
from vae_tutorial.posteriors import FullCovarianceGaussian
from vae_tutorial.randomness import seeded
from vae_tutorial.schedules import Cyclical


def gaussian_vae(noise="pixelwise", shape=(1, 4, 4), latent_dim=2, spread=2.0) -> VAE:
    with seeded(0):
        posterior, likelihood = MeanFieldGaussian(latent_dim), Gaussian(shape, noise=noise)
        vae = VAE(
            Encoder(MLP(shape, posterior.param_shape, (8,)), posterior),
            Decoder(MLP(latent_dim, likelihood.param_shape, (8,)), likelihood),
            StandardNormal(latent_dim),
        )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(spread)
    return vae


# --------------------------------------------------------------------------- KL per dimension


def test_kl_per_dimension_is_torchs_and_adds_up():
    q = tiny_vae(latent_dim=5, spread=3.0).encoder(random_images(6))
    each = kl_per_dimension(q)
    standard = Normal(torch.zeros(5), torch.ones(5))
    assert torch.allclose(each, kl_divergence(q.base_dist, standard), atol=1e-5)
    whole = kl_divergence(q, Independent(standard, 1))
    assert torch.allclose(each.sum(-1), whole, atol=1e-4)


def test_kl_per_dimension_refuses_dependent_dimensions():
    q = FullCovarianceGaussian(2)(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="mean-field"):
        kl_per_dimension(q)


# --------------------------------------------------------------------------------- free bits


def test_free_bits_of_zero_is_the_plain_elbo():
    vae, x = tiny_vae(spread=2.0), random_images(6)
    with seeded(1):
        plain = elbo(vae, x, beta=0.7)
    with seeded(1):
        free = free_bits_elbo(vae, x, free_nats=0.0, beta=0.7)
    assert torch.allclose(free["loss"].mean(), plain["loss"].mean(), rtol=1e-5)
    assert torch.allclose(free["kl"], plain["kl"])
    assert torch.allclose(free["reconstruction"], plain["reconstruction"])


def test_free_bits_take_the_larger_of_each_dimensions_mean_and_the_floor():
    vae, x = tiny_vae(latent_dim=4, spread=2.0), random_images(8)
    with torch.no_grad():
        means = kl_per_dimension(vae.encoder(x)).mean(0).numpy()
    floor = float(np.median(means))  # two dimensions above, two below
    free = free_bits_elbo(vae, x, free_nats=floor)
    expected = np.maximum(means, floor).sum()
    assert free["free_kl"].shape == (8,)
    np.testing.assert_allclose(free["free_kl"].detach().numpy(), expected, rtol=1e-5)
    parts = free["reconstruction"] + free["free_kl"]
    assert torch.allclose(free["loss"], parts)


def test_no_gradient_presses_a_dimension_below_its_free_nats():
    vae, x = tiny_vae(spread=0.5), random_images(6)
    terms = free_bits_elbo(vae, x, free_nats=50.0)
    terms["free_kl"].mean().backward()
    gradients = [p.grad for p in vae.encoder.parameters()]
    assert all(g is None or not g.abs().any() for g in gradients)
    vae.zero_grad()
    free_bits_elbo(vae, x, free_nats=0.0)["free_kl"].mean().backward()
    assert any(p.grad.abs().any() for p in vae.encoder.parameters())


# ---------------------------------------------------------------------------------- beta-NLL


@pytest.mark.parametrize("noise", ["homoscedastic", "imagewise", "pixelwise"])
def test_beta_nll_of_zero_is_the_plain_objective(noise):
    vae, x = gaussian_vae(noise), random_images(5, (1, 4, 4))
    terms, gradients = {}, {}
    for name, objective in (
        ("plain", lambda: elbo(vae, x, samples=3)),
        ("beta-NLL", lambda: beta_nll_elbo(vae, x, nll_beta=0.0, samples=3)),
    ):
        vae.zero_grad()
        with seeded(2):
            terms[name] = objective()
        terms[name]["loss"].mean().backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in vae.parameters()])
    for term in ("loss", "reconstruction", "kl"):
        assert torch.allclose(terms["plain"][term], terms["beta-NLL"][term], rtol=1e-5, atol=1e-4)
    assert torch.allclose(gradients["plain"], gradients["beta-NLL"], rtol=1e-4, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(nll_beta=st.floats(0, 1), seed=st.integers(0, 1000))
def test_beta_nll_weights_the_gradients_of_each_pixel(nll_beta, seed):
    """d/d mean = sigma^(2b - 2) (mean - x), d/d sigma^2 = sigma^(2b) (1/sigma^2 - (x - m)^2/sigma^4)/2."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    variance = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64) + 0.05
    variance.requires_grad_()
    x = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)

    class Given(torch.nn.Module):
        def encoder(self, x):
            return Independent(Normal(torch.zeros(len(x), 1), torch.ones(len(x), 1)), 1)

        def decoder(self, z):
            return Independent(Normal(mean.expand(1, 2, 1, 3, 3), variance.sqrt()), 3)

        def prior(self):
            return StandardNormal(1)()

    beta_nll_elbo(Given(), x, nll_beta=nll_beta)["loss"].sum().backward()
    v = variance.detach()
    weight = v**nll_beta
    torch.testing.assert_close(mean.grad, weight * (mean.detach() - x) / v)
    squares = (x - mean.detach()) ** 2
    torch.testing.assert_close(variance.grad, weight * (1 / v - squares / v**2) / 2)


def test_beta_nll_reports_the_plain_likelihood():
    vae, x = gaussian_vae(), random_images(5, (1, 4, 4))
    with seeded(3):
        plain = elbo(vae, x)
    with seeded(3):
        weighted = beta_nll_elbo(vae, x, nll_beta=0.5, beta=2.0)
    assert torch.allclose(plain["reconstruction"], weighted["reconstruction"], rtol=1e-5)
    assert torch.allclose(weighted["loss"], weighted["weighted"] + 2 * weighted["kl"])
    assert not torch.allclose(weighted["weighted"], weighted["reconstruction"])


def test_bad_settings_of_the_objectives_are_named():
    vae, x = gaussian_vae(), random_images(2, (1, 4, 4))
    with pytest.raises(ValueError, match="nll_beta must lie in"):
        beta_nll_elbo(vae, x, nll_beta=1.5)
    with pytest.raises(ValueError, match="samples"):
        beta_nll_elbo(vae, x, samples=0)
    with pytest.raises(ValueError, match="needs a Gaussian likelihood"):
        beta_nll_elbo(tiny_vae(), random_images(2))
    with pytest.raises(ValueError, match="must not be negative"):
        free_bits_elbo(vae, x, free_nats=-0.1)
    with pytest.raises(ValueError, match="samples"):
        free_bits_elbo(vae, x, samples=0)


# ---------------------------------------------------------------------------------- schedules


def test_a_cyclical_schedule_climbs_and_stays_in_each_cycle():
    beta = Cyclical(value=2.0, cycles=4, fraction=0.5)
    assert beta(0.0) == beta(0.25) == beta(0.5) == 0.0  # a cycle begins at zero
    assert beta(0.0625) == pytest.approx(1.0)  # half-way up the first climb
    assert beta(0.125) == beta(0.2) == pytest.approx(2.0)
    assert beta(0.8125) == pytest.approx(1.0)  # the same in the last cycle
    assert beta(1.0) == 2.0  # training ends at the full value
    for bad in ({"cycles": 0}, {"fraction": 0.0}, {"fraction": 1.5}):
        with pytest.raises(ValueError, match="cycles >= 1"):
            Cyclical(**bad)


@given(progress=st.floats(0, 1), cycles=st.integers(1, 10), fraction=st.floats(0.01, 1))
def test_a_cyclical_schedule_stays_between_zero_and_its_value(progress, cycles, fraction):
    assert 0 <= Cyclical(3.0, cycles, fraction)(progress) <= 3.0


# --------------------------------------------------------------------------------- evaluation


def test_latent_usage_against_numpy():
    vae, x = tiny_vae(latent_dim=3, spread=3.0), random_images(50)
    usage = latent_usage(vae, x, batch_size=7)
    with torch.no_grad():
        q = vae.encoder(x)
    mean, scale = q.mean.double().numpy(), q.stddev.double().numpy()
    kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).mean(0)
    np.testing.assert_allclose(usage["kl"], kl, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(usage["activity"], mean.var(0, ddof=1), rtol=1e-4)


def test_a_dimension_that_ignores_the_image_is_not_active():
    vae, x = tiny_vae(latent_dim=3, spread=4.0), random_images(50)
    last = vae.encoder.network.layers[-1]
    with torch.no_grad():  # the mean and log-variance of the second dimension: always zero
        for row in (1, 4):
            last.weight[row] = 0
            last.bias[row] = 0
    usage = latent_usage(vae, x)
    assert usage["kl"][1] == 0
    assert usage["activity"][1] == 0
    expected = int((usage["activity"] > 0.01).sum())
    assert active_units(vae, x) == expected <= 2
    assert active_units(vae, x, threshold=math.inf) == 0
    with pytest.raises(ValueError, match="at least 2"):
        latent_usage(vae, x[:1])


def test_calibration_of_variances_that_are_true():
    generator = torch.Generator().manual_seed(0)
    variances = torch.rand(400, 1, 10, 10, generator=generator) + 0.01
    errors = variances.sqrt() * torch.randn(variances.shape, generator=generator)
    found = calibration(variances, errors, bins=8)
    assert found["predicted"].shape == found["actual"].shape == (8,)
    assert (found["predicted"].diff() > 0).all()
    np.testing.assert_allclose(found["actual"], found["predicted"], rtol=0.06)
    twice = calibration(variances, 2 * errors, bins=8)
    np.testing.assert_allclose(twice["actual"], 4 * found["actual"], rtol=1e-5)


def test_calibration_keeps_every_pixel():
    variances, errors = torch.rand(3, 1, 5, 5), torch.randn(3, 1, 5, 5)
    found = calibration(variances, errors, bins=75)  # one pixel a bin
    order = variances.flatten().argsort()
    assert torch.allclose(found["actual"], errors.flatten().double().square()[order])
    for bins in (0, 76):
        with pytest.raises(ValueError, match="bins"):
            calibration(variances, errors, bins=bins)
    with pytest.raises(ValueError, match="same pixels"):
        calibration(variances, errors[:2])


def test_a_transform_is_part_of_the_evaluation_and_of_its_seed():
    vae, x = tiny_vae(greys=False), random_images(40)
    with pytest.raises(ValueError, match="Binarize"):
        evaluate_elbo(vae, x)
    first, again = (evaluate_elbo(vae, x, transform=binarize, seed=3) for _ in range(2))
    assert first == again
    assert first != evaluate_elbo(vae, x, transform=binarize, seed=4)


# --------------------------------------------------------------------------------------- data


def test_static_binarization_is_drawn_once_with_the_greys_as_probabilities():
    n = 3000
    levels = torch.tensor([0, 1, 64, 128, 254, 255], dtype=torch.uint8)
    images = levels.reshape(1, 1, 1, 6).repeat(n, 1, 1, 1)
    split = data.Split(images, torch.zeros(n, dtype=torch.int64))
    source = data.ImageData("greys", split, split, split, ("one",))
    drawn = data.binarized(source)
    assert drawn.name == "greys-binarized"
    assert drawn.classes == ("one",)
    assert set(drawn.train.images.unique().tolist()) == {0, 255}
    share = (drawn.train.images == 255).float().mean((0, 1, 2))
    p = levels.double() / 255
    error = 4 * (p * (1 - p) / n).sqrt() + 1e-9
    assert ((share - p).abs() <= error).all()
    assert share[0] == 0
    assert share[-1] == 1
    assert drawn.sha256 == data.binarized(source).sha256 != data.binarized(source, seed=1).sha256
    assert not torch.equal(drawn.train.images, drawn.test.images)  # each split has its own draw
