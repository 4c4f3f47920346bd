"""Posteriors and likelihoods beyond the plain VAE's, each against an independent computation."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import vae_tutorial as vt
from vae_tutorial.evaluation import evaluate_elbo
from vae_tutorial.likelihoods import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    _ContinuousBernoulli,
    log_normalizer,
)
from vae_tutorial.objectives import full_gaussian_kl, kl_divergence, kl_monte_carlo
from vae_tutorial.posteriors import FullCovarianceGaussian, MeanFieldGaussian
from vae_tutorial.schedules import LinearWarmUp, OneCycle

SHAPE = (1, 4, 4)
LOGITS = st.floats(-100, 100)
GREYS = torch.arange(256, dtype=torch.float64) / 255


# -------------------------------------------------------------------- full-covariance posterior


def full(batch: int, d: int, seed: int = 0):
    posterior = FullCovarianceGaussian(d)
    generator = torch.Generator().manual_seed(seed)
    return posterior(torch.randn(batch, *posterior.param_shape, generator=generator).double())


@pytest.mark.parametrize("d", [1, 2, 5])
def test_full_covariance_density_is_scipys(d):
    q = full(3, d)
    z = q.sample((4,))  # (S, B, D)
    for i in range(3):
        expected = scipy.stats.multivariate_normal(q.mean[i], q.covariance_matrix[i]).logpdf(
            z[:, i]
        )
        np.testing.assert_allclose(q.log_prob(z)[:, i], np.atleast_1d(expected), rtol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_full_covariance_kl(d):
    q = full(4, d)
    prior = torch.distributions.MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double())
    closed = full_gaussian_kl(q.mean, q.scale_tril)
    torch.testing.assert_close(closed, torch.distributions.kl_divergence(q, prior))
    z = q.sample((40_000,))
    estimate = kl_monte_carlo(q, prior, z)
    error = (q.log_prob(z) - prior.log_prob(z)).std(0) / 200  # of a mean of 40,000
    assert ((closed - estimate).abs() < 5 * error).all()
    # The objective takes the closed form, without a look at z.
    chosen = kl_divergence(q, vt.StandardNormal(d)(), None)
    torch.testing.assert_close(chosen, closed)


def test_full_covariance_without_correlations_is_mean_field():
    d = 4
    parameters = torch.randn(3, 2 * d, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([parameters, torch.zeros(3, d * (d - 1) // 2)], dim=1)
    a, b = MeanFieldGaussian(d)(parameters), FullCovarianceGaussian(d)(padded)
    z = a.sample((6,))
    torch.testing.assert_close(a.log_prob(z), b.log_prob(z))
    prior = vt.StandardNormal(d)()
    torch.testing.assert_close(kl_divergence(a, prior, z), kl_divergence(b, prior, z))


def test_full_covariance_samples_have_its_moments():
    q = full(1, 3)
    torch.manual_seed(0)
    z = q.sample((200_000,))[:, 0]
    torch.testing.assert_close(z.mean(0), q.mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.T.cov(), q.covariance_matrix[0], atol=0.05, rtol=0.02)


@given(st.floats(-100, 100), st.integers(1, 4))
def test_full_covariance_stays_positive_and_finite(value, d):
    posterior = FullCovarianceGaussian(d)
    q = posterior(torch.full((2, *posterior.param_shape), value, requires_grad=True))
    assert (q.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    kl = full_gaussian_kl(q.mean, q.scale_tril)
    assert torch.isfinite(kl).all()
    assert (kl > -1e-3).all()


def test_gradients_reach_every_parameter_of_the_posterior():
    posterior = FullCovarianceGaussian(3)
    parameters = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)

    def kl(p):
        q = posterior(p)
        return full_gaussian_kl(q.mean, q.scale_tril)

    assert torch.autograd.gradcheck(kl, (parameters,))
    posterior(parameters).rsample((5,)).square().sum().backward()
    assert (parameters.grad != 0).all()


# ------------------------------------------------------------------------ continuous Bernoulli


def quad(function, logit: float) -> float:
    """An integral over [0, 1], with the mass at an end resolved."""
    edge = min(0.5, 30 / max(1.0, abs(logit)))
    breaks = [edge, 1 - edge]
    return scipy.integrate.quad(function, 0, 1, points=breaks, limit=200)[0]


@pytest.mark.parametrize("logit", [-100.0, -8.0, -0.2, -1e-3, 0.0, 0.05, 0.0999, 0.1001, 3.0, 60.0])
def test_continuous_bernoulli_by_quadrature(logit):
    p = _ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))

    def density(x):
        return float(p.log_prob(torch.tensor(x, dtype=torch.float64)).exp())

    assert quad(density, logit) == pytest.approx(1, abs=1e-8)
    mean = quad(lambda x: x * density(x), logit)
    assert float(p.mean) == pytest.approx(mean, abs=1e-7)
    variance = quad(lambda x: (x - mean) ** 2 * density(x), logit)
    assert float(p.variance) == pytest.approx(variance, rel=1e-5)


@given(LOGITS)
def test_continuous_bernoulli_normalizer(logit):
    # log of the integral's closed form in another form: log(l (1 + e^-l) / (1 - e^-l)), l > 0.
    size = abs(logit)
    expected = (
        math.log(2)
        if size < 1e-7
        else math.log(size) + math.log1p(math.exp(-size)) - math.log(-math.expm1(-size))
    )
    assert float(log_normalizer(torch.tensor(logit))) == pytest.approx(expected, abs=2e-6)


def test_continuous_bernoulli_agrees_with_torchs_where_that_is_stable():
    logits = torch.tensor([-6.0, -2.0, 0.7, 4.0], dtype=torch.float64)
    ours, torchs = (
        _ContinuousBernoulli(logits),
        torch.distributions.ContinuousBernoulli(logits=logits),
    )
    x = torch.rand(50, 4, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(x), torchs.log_prob(x))
    torch.testing.assert_close(ours.mean, torchs.mean)
    torch.testing.assert_close(ours.variance, torchs.variance)


@pytest.mark.parametrize("logit", [-30.0, -1.0, 0.0, 2.0, 30.0])
def test_continuous_bernoulli_samples(logit):
    p = _ContinuousBernoulli(torch.tensor(logit))
    torch.manual_seed(0)
    x = p.rsample((100_000,))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert float(x.mean()) == pytest.approx(float(p.mean), abs=5 * float(p.variance) ** 0.5 / 316)
    assert float(x.var()) == pytest.approx(float(p.variance), rel=0.03)


def test_gradients_of_the_continuous_bernoulli():
    logits = torch.tensor(
        [-30.0, -0.11, -1e-4, 0.0, 0.0999, 5.0], dtype=torch.float64, requires_grad=True
    )
    x = torch.linspace(0, 1, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: _ContinuousBernoulli(v).log_prob(x), (logits,))
    assert torch.autograd.gradcheck(lambda v: _ContinuousBernoulli(v).mean, (logits,))


# ------------------------------------------------------------------------- discretized logistic


def one_pixel(location_logit: float, log_scale: float):
    likelihood = DiscretizedLogistic((1, 1, 1))
    return likelihood(torch.tensor([location_logit, log_scale]).double().reshape(1, 2, 1, 1))


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_discretized_logistic_sums_to_one(location_logit, log_scale):
    p = one_pixel(location_logit, log_scale)
    logs = p.log_prob(GREYS.reshape(256, 1, 1, 1, 1))
    assert torch.isfinite(logs).all()
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("location_logit", "log_scale"), [(0.0, -3.0), (2.0, -5.0), (-4.0, 0.0)])
def test_discretized_logistic_is_scipys_logistic_over_bins(location_logit, log_scale):
    p = one_pixel(location_logit, log_scale)
    base = p.base_dist
    logistic = scipy.stats.logistic(float(base.location.squeeze()), float(base.scale.squeeze()))
    edges = (np.arange(255) + 0.5) / 255
    expected = np.diff(np.concatenate([[0], logistic.cdf(edges), [1]]))
    found = p.log_prob(GREYS.reshape(256, 1, 1, 1, 1)).exp().flatten()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    mean = float((expected * GREYS.numpy()).sum())
    assert float(p.mean.squeeze()) == pytest.approx(mean, abs=1e-9)
    variance = float((expected * (GREYS.numpy() - mean) ** 2).sum())
    assert float(p.variance.squeeze()) == pytest.approx(variance, abs=1e-9)
    torch.manual_seed(0)
    x = p.sample((50_000,)).flatten()
    assert set((x * 255).round().int().tolist()) <= set(range(256))
    spread = float(np.sqrt((expected * (GREYS.numpy() - float(p.mean.squeeze())) ** 2).sum()))
    assert float(x.mean()) == pytest.approx(float(p.mean.squeeze()), abs=5 * spread / 223)


def test_gradients_of_the_discretized_logistic():
    likelihood = DiscretizedLogistic((1, 1, 3))
    parameters = torch.tensor([0.3, -2.0, 4.0, -3.0, -1.0, -6.0], dtype=torch.float64).reshape(
        1, 2, 1, 3
    )
    x = torch.tensor([0, 128, 255], dtype=torch.float64).reshape(1, 1, 3) / 255
    assert torch.autograd.gradcheck(
        lambda p: likelihood(p).log_prob(x), (parameters.requires_grad_(),)
    )


def test_one_learnt_scale_for_all_pixels():
    likelihood = DiscretizedLogistic((3, 4, 4), noise="homoscedastic")
    assert likelihood.param_shape == (3, 4, 4)
    assert [p.shape for p in likelihood.parameters()] == [()]
    torch.manual_seed(0)
    logits, x = torch.randn(2, 5, 3, 4, 4), torch.rand(5, 3, 4, 4)
    scales = torch.full((2, 5, 3, 4, 4), float(likelihood.log_scale.detach()))
    both = DiscretizedLogistic((3, 4, 4))(torch.cat([logits, scales], dim=-3))
    torch.testing.assert_close(likelihood(logits).log_prob(x), both.log_prob(x))
    likelihood(logits).log_prob(x).sum().backward()
    assert likelihood.log_scale.grad != 0


@pytest.mark.parametrize("value", [-0.5, 1.5, 200.0, math.nan])
@pytest.mark.parametrize("likelihood", [ContinuousBernoulli, DiscretizedLogistic, vt.Bernoulli])
def test_values_outside_the_support_are_named(likelihood, value):
    p = likelihood((1, 2, 2))
    p = p(torch.zeros(1, *p.param_shape))
    with pytest.raises(ValueError, match=r"some (values|pixels) lie elsewhere"):
        p.log_prob(torch.full((1, 1, 2, 2), value))


def test_an_unbounded_continuous_bernoulli_pays_for_black_without_end():
    black = torch.zeros(1, 1, 1)
    free, bound = (ContinuousBernoulli((1, 1, 1), logit_bound=b) for b in (None, 10.0))
    paid = [float(free(torch.full((1, 1, 1), v)).log_prob(black)) for v in (-1e2, -1e4, -1e6)]
    assert np.diff(paid) == pytest.approx(np.log([100, 100]), rel=1e-3)
    assert float(bound(torch.full((1, 1, 1), -1e6)).log_prob(black)) < math.log(10.01)


# ------------------------------------------------------------------------------------ Gaussian


@pytest.mark.parametrize("noise", ["homoscedastic", "imagewise", "pixelwise"])
def test_gaussian_is_scipys(noise):
    likelihood = Gaussian((3, 4, 4), noise=noise)
    torch.manual_seed(0)
    p = likelihood(torch.randn(2, 5, *likelihood.param_shape).double())
    assert p.batch_shape == (2, 5)
    assert p.event_shape == (3, 4, 4)
    x = torch.rand(5, 3, 4, 4).double()
    expected = scipy.stats.norm(p.mean.detach(), p.stddev.detach()).logpdf(x).sum((2, 3, 4))
    np.testing.assert_allclose(p.log_prob(x).detach(), expected, rtol=1e-7)
    scales = p.stddev.detach().flatten(2)
    distinct = {"homoscedastic": 1, "imagewise": 10, "pixelwise": 2 * 5 * 48}[noise]
    assert len(scales.unique()) == distinct
    if noise == "imagewise":
        assert (scales == scales[..., :1]).all()


def test_fixed_noise_is_the_squared_error():
    likelihood = Gaussian(SHAPE, scale=0.2)
    torch.manual_seed(0)
    p, x = likelihood(torch.randn(3, *SHAPE)), torch.rand(3, *SHAPE)
    squared = (x - p.mean).square().sum((1, 2, 3))
    constant = 16 * (math.log(0.2) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(-p.log_prob(x), squared / (2 * 0.2**2) + constant)
    assert not list(likelihood.parameters())


def test_learnt_noise_finds_the_mean_squared_error():
    likelihood = Gaussian(SHAPE)
    torch.manual_seed(0)
    logits, x = torch.randn(40, *SHAPE), torch.rand(40, *SHAPE)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood(logits).log_prob(x)).mean().backward()
        optimizer.step()
    rms = (x - torch.sigmoid(logits)).square().mean().sqrt()
    assert float(likelihood(logits).stddev.detach().mean()) == pytest.approx(float(rms), rel=1e-3)


@given(LOGITS, st.sampled_from(["homoscedastic", "imagewise", "pixelwise"]))
def test_every_likelihood_is_finite_at_extremes(value, noise):
    x = torch.tensor([0.0, 1.0, 0.5, 1 / 255]).reshape(1, 2, 2)
    likelihoods = (
        vt.Bernoulli((1, 2, 2), greys=True),
        ContinuousBernoulli((1, 2, 2)),
        DiscretizedLogistic((1, 2, 2)),
        DiscretizedLogistic((1, 2, 2), noise="homoscedastic"),
        Gaussian((1, 2, 2), noise=noise),
    )
    for likelihood in likelihoods:
        parameters = torch.full((1, *likelihood.param_shape), value, requires_grad=True)
        log_prob = likelihood(parameters).log_prob(x)
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all(), likelihood
        assert torch.isfinite(parameters.grad).all(), likelihood
        assert torch.isfinite(likelihood(parameters).mean).all(), likelihood
        assert (likelihood(parameters).variance >= 0).all(), likelihood


def test_noise_stays_within_its_bounds():
    likelihood = Gaussian(SHAPE, noise="pixelwise", smallest_scale=0.05)
    scales = likelihood(
        torch.cat(
            [
                torch.zeros(2, *SHAPE),
                torch.tensor([-99.0, 99.0]).reshape(2, 1, 1, 1).expand(2, *SHAPE),
            ],
            1,
        )
    ).stddev
    assert float(scales.min()) == pytest.approx(0.05, rel=1e-5)
    assert float(scales.max()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(SHAPE, noise="rowwise"), "one of homoscedastic.*got 'rowwise'"),
        (lambda: Gaussian(SHAPE, noise="pixelwise", scale=0.1), "noise='homoscedastic'"),
        (lambda: Gaussian(SHAPE, scale=0.001), "at least smallest_scale=0.01"),
        (lambda: FullCovarianceGaussian(0), "at least 1, got 0"),
        (lambda: FullCovarianceGaussian(2, log_variance_bound=-1), "positive or None"),
        (lambda: FullCovarianceGaussian(2)(torch.zeros(3, 4)), "needs 5 numbers"),
        (lambda: ContinuousBernoulli((4, 4)), r"\(C, H, W\)"),
        (lambda: ContinuousBernoulli(SHAPE, logit_bound=0), "logit_bound must be positive"),
        (lambda: DiscretizedLogistic(SHAPE, noise="imagewise"), "pixelwise or homoscedastic"),
        (lambda: Gaussian(SHAPE, noise="imagewise")(torch.zeros(2, 16)), r"\(\.\.\., 17\)"),
    ],
)  # fmt: skip
def test_misuse_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------- a whole model with a known optimum


def test_a_linear_vae_reaches_probabilistic_pca():
    """The exact maximum likelihood of Tipping & Bishop (1999), equations 3, 8 and A.5 to A.7."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(10, 2)) * [1, 0.7]
    x = rng.normal(size=(1000, 2)) @ loadings.T + 0.7 * rng.normal(size=(1000, 10))
    x = 0.5 + 0.45 * x / np.abs(x).max()  # within [0, 1], as images are

    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    noise = eigenvalues[2:].mean()  # the maximum likelihood sigma^2
    log_determinant = np.log(eigenvalues[:2]).sum() + 8 * np.log(noise)
    best = 0.5 * (10 * np.log(2 * np.pi) + log_determinant + 10)  # nats an example

    shape = (1, 1, 10)
    posterior = MeanFieldGaussian(2)
    likelihood = Gaussian(shape, bounded_mean=False, smallest_scale=1e-3)
    torch.manual_seed(0)
    vae = vt.VAE(
        vt.Encoder(vt.MLP(shape, posterior.param_shape, ()), posterior),
        vt.Decoder(vt.MLP(2, likelihood.param_shape, ()), likelihood),
        vt.StandardNormal(2),
    )
    images = torch.from_numpy(x).float().reshape(-1, *shape)
    # Warm-up: with the noise still wide, the full KL term would switch a latent off for good.
    vt.fit(vae, partial(vt.elbo, samples=4), images, epochs=600, batch_size=100, learning_rate=OneCycle(0.1),
           schedules={"beta": LinearWarmUp()}, device="cpu", progress=False)  # fmt: skip
    reached = evaluate_elbo(vae, images, samples=100)["test_negative_elbo"]
    assert best - 0.01 < reached < best + 0.05
    learnt = float(likelihood(torch.zeros(1, *shape)).stddev.detach().mean())
    assert learnt == pytest.approx(noise**0.5, rel=0.02)
