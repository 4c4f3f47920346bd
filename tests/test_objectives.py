"""The ELBO's family and the divergences in it, against quadrature, NumPy, SciPy and Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from tiny import random_images, tiny_autoencoder, tiny_vae
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.distributions import kl_divergence as torch_kl

from vae_tutorial import (
    MLP,
    VAE,
    Bernoulli,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    elbo,
    reconstruction_error,
)  # fmt: skip
from vae_tutorial.evaluate import importance_weighted_bound
from vae_tutorial.likelihoods import Gaussian
from vae_tutorial.objectives import (
    beta_nll_elbo,
    binary_cross_entropy,
    bits_per_dimension,
    free_bits_elbo,
    gaussian_kl,
    kl_divergence,
    kl_monte_carlo,
    kl_per_dimension,
)  # fmt: skip
from vae_tutorial.posteriors import FullCovarianceGaussian
from vae_tutorial.randomness import seeded

SQUARE = (1, 2, 2)  # so few pixels that all 16 binary images can be listed
ALL_SQUARES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).reshape(16, *SQUARE)


def gaussian(b=5, d=3, seed=0):
    """A mean-field posterior q with drawn parameters, its means and its log-variances."""
    parameters = torch.randn(b, 2 * d, generator=torch.Generator().manual_seed(seed))
    mean, log_variance = parameters.split(d, dim=1)
    return MeanFieldGaussian(d, log_variance_bound=None)(parameters), mean, log_variance


def numpy_log_likelihood(logits, x) -> np.ndarray:
    """sum x log y + (1 - x) log(1 - y) in float64, straight from its definition."""
    y = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    x = x.double().numpy()
    return (x * np.log(y) + (1 - x) * np.log(1 - y)).sum((-3, -2, -1))


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


def test_gaussian_kl_is_torchs():
    q, mean, log_variance = gaussian()
    expected = torch_kl(q, StandardNormal(3)())
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)


@given(st.floats(-3, 3), st.floats(-4, 3))
def test_gaussian_kl_is_the_integral(mean, log_variance):
    q, p = stats.norm(mean, math.exp(log_variance / 2)), stats.norm()
    scale = q.std()
    integral, _ = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), mean - 12 * scale, mean + 12 * scale
    )
    ours = gaussian_kl(torch.tensor([mean]).double(), torch.tensor([log_variance]).double())
    assert float(ours) == pytest.approx(integral, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("samples", [1, 8])
def test_kl_monte_carlo_is_unbiased(samples):
    q, mean, log_variance = gaussian(b=1)
    p = StandardNormal(3)()
    with seeded(0):
        estimates = torch.stack([kl_monte_carlo(q, p, q.rsample((samples,))) for _ in range(3000)])
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - gaussian_kl(mean, log_variance)) < 4 * error
    assert error < 0.1


def test_kl_without_a_closed_form_is_estimated():
    # A mixture of two equal components is the component; torch knows no KL of a mixture.
    q, mean, log_variance = gaussian(b=1)
    twice = gaussian(b=1)[0].expand((2,))
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), twice)
    with seeded(0):
        z = q.rsample((20_000,))
    estimate = kl_divergence(mixture, StandardNormal(3)(), z)
    assert float(estimate.mean()) == pytest.approx(float(gaussian_kl(mean, log_variance)), abs=0.05)


@given(st.floats(-20, 20), st.floats(-5, 1))
def test_gaussian_kl_is_never_negative(mean, exponent):
    # Log-variances near zero are where the rounding of exp(v) - 1 - v shows.
    log_variance = torch.linspace(-1, 1, 1001).unsqueeze(1) * 10**exponent
    assert (gaussian_kl(torch.full_like(log_variance, mean), log_variance) >= 0).all()
    assert (gaussian_kl(torch.zeros_like(log_variance), log_variance) >= 0).all()


@given(st.lists(st.floats(-1e18, 1e18), min_size=4, max_size=4))
def test_kl_of_any_network_output_is_finite(parameters):
    q = MeanFieldGaussian(2)(torch.tensor([parameters]))
    kl = kl_divergence(q, StandardNormal(2)(), q.rsample((1,)))
    assert kl.isfinite().all()
    assert (kl > -1e-6).all()


def test_kl_per_dimension_is_torchs_and_adds_up():
    q = tiny_vae(latent_dim=5, spread=3.0).encoder(random_images(6))
    each = kl_per_dimension(q)
    standard = Normal(torch.zeros(5), torch.ones(5))
    assert torch.allclose(each, torch_kl(q.base_dist, standard), atol=1e-5)
    whole = torch_kl(q, Independent(standard, 1))
    assert torch.allclose(each.sum(-1), whole, atol=1e-4)


def test_kl_per_dimension_refuses_dependent_dimensions():
    q = FullCovarianceGaussian(2)(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="mean-field"):
        kl_per_dimension(q)


def test_binary_cross_entropy_is_its_definition():
    logits = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    x = random_images(7, (3, 4, 5))
    ours = binary_cross_entropy(logits, x)
    np.testing.assert_allclose(ours.numpy(), -numpy_log_likelihood(logits, x), rtol=1e-5)
    torch.testing.assert_close(-Bernoulli((3, 4, 5), greys=True)(logits).log_prob(x), ours)


@pytest.mark.parametrize(("logit", "x", "expected"), [(100, 0, 100), (100, 1, 0), (-100, 1, 100)])
def test_binary_cross_entropy_of_extreme_logits(logit, x, expected):
    image = torch.full((1, 1, 1, 1), float(x))
    logits = torch.full((1, 1, 1, 1), float(logit), requires_grad=True)
    value = binary_cross_entropy(logits, image)
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, abs=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("samples", "beta"), [(1, 1.0), (6, 1.0), (6, 4.0)])
def test_elbo_recomputed_from_the_parts(samples, beta):
    vae, x = tiny_vae(spread=1.5), random_images()
    with seeded(5), torch.no_grad():
        terms = elbo(vae, x, samples=samples, beta=beta)
    with seeded(5), torch.no_grad():
        z = vae.encoder(x).rsample((samples,))
        mean, raw = vae.encoder.network(x).double().numpy().reshape(4, 2, 2).transpose(1, 0, 2)
        logits = torch.stack([vae.decoder.network(one) for one in z])  # one pass a sample
    log_variance = 10 * np.tanh(raw / 10)
    kl = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(1)
    reconstruction = -numpy_log_likelihood(logits, x).mean(0)
    np.testing.assert_allclose(terms["kl"].numpy(), kl, rtol=1e-4)
    np.testing.assert_allclose(terms["reconstruction"].numpy(), reconstruction, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"].numpy(), reconstruction + beta * kl, rtol=1e-5)
    np.testing.assert_allclose(terms["negative_elbo"].numpy(), reconstruction + kl, rtol=1e-5)
    if samples > 1:  # averaging the logits first would be another, and lower, number
        wrong = -numpy_log_likelihood(logits.mean(0), x)
        assert (wrong < terms["reconstruction"].numpy() - 1).all()


def test_loss_of_an_image_does_not_depend_on_its_batch():
    vae, model = tiny_vae(bound=None), tiny_autoencoder()
    with torch.no_grad():  # a posterior without spread: the draws do not matter
        vae.encoder.network.layers[-1].weight[2:] = 0
        vae.encoder.network.layers[-1].bias[2:] = -60
    x = random_images(6)
    for loss in (lambda b: elbo(vae, b)["loss"], lambda b: reconstruction_error(model, b)["loss"]):
        together = loss(x)
        torch.testing.assert_close(torch.cat([loss(one) for one in x.split(1)]), together)
        torch.testing.assert_close(loss(x.flip(0)), together.flip(0))
        torch.testing.assert_close(loss(x.repeat(3, 1, 1, 1)).mean(), together.mean())


@pytest.fixture(scope="module")
def small_world():
    """A VAE of four binary pixels and log p(x) of all sixteen images, by quadrature over z."""
    vae = tiny_vae(SQUARE, greys=False, seed=1)
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(4)
    axis = torch.linspace(-7, 7, 281)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        joint = vae.decoder(z.unsqueeze(1)).log_prob(ALL_SQUARES) + vae.prior().log_prob(z)[:, None]
    exact = joint.double().logsumexp(0) + 2 * math.log(float(axis[1] - axis[0]))
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-4)
    return vae, exact


def test_bounds_rise_to_the_exact_log_likelihood(small_world):
    vae, exact = small_world
    repeats = 1000
    many = ALL_SQUARES.repeat(repeats, 1, 1, 1)

    def mean_and_error(values):
        values = values.reshape(repeats, 16).mean(1)
        return float(values.mean()), float(values.std() / math.sqrt(repeats))

    with seeded(0), torch.no_grad():
        bounds = [mean_and_error(-elbo(vae, many)["loss"].double())]
    for k in (1, 4, 64):
        values = importance_weighted_bound(vae, many, samples=k, batch_size=4000)
        bounds.append(mean_and_error(values))
    (lower, e0), (one, e1), (four, _), (many_samples, e64) = bounds
    assert lower == pytest.approx(one, abs=4 * (e0 + e1))
    assert one + 0.05 < four < many_samples + 4 * e64
    assert many_samples - 4 * e64 < float(exact.mean())
    assert lower + 0.1 < float(exact.mean())
    best = importance_weighted_bound(vae, ALL_SQUARES, samples=50_000, batch_size=2)
    torch.testing.assert_close(best, exact, atol=0.03, rtol=0)


def test_bits_per_dimension_of_a_uniform_byte_is_eight():
    assert bits_per_dimension(3 * 4 * 5 * math.log(256), (3, 4, 5)) == pytest.approx(8)


def test_free_bits_of_zero_is_the_plain_elbo():
    vae, x = tiny_vae(spread=2.0), random_images(6)
    with seeded(1):
        plain = elbo(vae, x, beta=0.7)
    with seeded(1):
        free = free_bits_elbo(vae, x, free_nats=0.0, beta=0.7)
    assert torch.allclose(free["loss"].mean(), plain["loss"].mean(), rtol=1e-5)
    assert torch.allclose(free["kl"], plain["kl"])
    assert torch.allclose(free["reconstruction"], plain["reconstruction"])
    assert torch.allclose(free["negative_elbo"], plain["negative_elbo"])


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
    with pytest.raises(ValueError, match="nll_beta"):
        beta_nll_elbo(vae, x, nll_beta=1.5)
    with pytest.raises(ValueError, match="samples"):
        beta_nll_elbo(vae, x, samples=0)
    with pytest.raises(ValueError, match="Gaussian"):
        beta_nll_elbo(tiny_vae(), random_images(2))
    with pytest.raises(ValueError, match="free_nats"):
        free_bits_elbo(vae, x, free_nats=-0.1)
    with pytest.raises(ValueError, match="samples"):
        free_bits_elbo(vae, x, samples=0)


def test_closed_form_kl_has_one_number_per_example_even_where_q_is_the_same_for_all():
    q = MeanFieldGaussian(2)(torch.zeros(1, 4)).expand((5,))
    assert kl_divergence(q, StandardNormal(2)(), q.sample((1,))).shape == (5,)
    point = Independent(Normal(torch.zeros(2), torch.ones(2)), 1).expand((4,))
    kl = kl_divergence(point, StandardNormal(2)(), point.sample((1,)))
    assert kl.tolist() == [0.0] * 4
