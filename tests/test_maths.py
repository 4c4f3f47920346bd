"""Every formula against an independent computation: closed form, quadrature, NumPy, Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.linalg import subspace_angles
from sklearn.neighbors import NearestNeighbors
from tiny import random_images, tiny_autoencoder, tiny_vae
from torch.distributions import MixtureSameFamily, MultivariateNormal, Normal
from torch.distributions import kl_divergence as torch_kl

from vae_tutorial import MLP, Bernoulli, MeanFieldGaussian, StandardNormal, elbo, fit
from vae_tutorial import reconstruction_error as autoencoder_loss
from vae_tutorial.evaluation import (
    evaluate_elbo,
    evaluate_reconstruction,
    importance_weighted_bound,
    moments_from_standard_normal,
    nearest_images,
)
from vae_tutorial.latent import (
    four_corner_images,
    four_corners,
    interpolate,
    linear_grid,
    nearest_to_class_mean,
    pca,
    quantile_grid,
    traverse,
)
from vae_tutorial.likelihoods import binarize
from vae_tutorial.objectives import (
    binary_cross_entropy,
    bits_per_dimension,
    gaussian_kl,
    kl_divergence,
    kl_monte_carlo,
)
from vae_tutorial.posteriors import bounded
from vae_tutorial.randomness import seeded
from vae_tutorial.schedules import Constant, LinearWarmUp, OneCycle

settings.register_profile("book", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("book")

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


# ---------------------------------------------------------------- the Kullback-Leibler divergence


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
    mixture = MixtureSameFamily(torch.distributions.Categorical(torch.ones(2)), twice)
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


# ------------------------------------------------------------------------------- likelihoods


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


def test_bernoulli_is_a_distribution():
    logits = torch.tensor([[1.5, -0.3], [0.0, -4.0]]).reshape(SQUARE)
    total = Bernoulli(SQUARE)(logits).log_prob(ALL_SQUARES).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_binarize_draws_white_as_often_as_the_grey_value_says():
    with seeded(0):
        drawn = binarize(torch.full((20_000, 1, 1, 1), 0.3))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.015)


# ----------------------------------------------------------------------------------- the ELBO


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
    if samples > 1:  # averaging the logits first would be another, and lower, number
        wrong = -numpy_log_likelihood(logits.mean(0), x)
        assert (wrong < terms["reconstruction"].numpy() - 1).all()


def test_loss_of_an_image_does_not_depend_on_its_batch():
    vae, model = tiny_vae(bound=None), tiny_autoencoder()
    with torch.no_grad():  # a posterior without spread: the draws do not matter
        vae.encoder.network.layers[-1].weight[2:] = 0
        vae.encoder.network.layers[-1].bias[2:] = -60
    x = random_images(6)
    for loss in (lambda b: elbo(vae, b)["loss"], lambda b: autoencoder_loss(model, b)["loss"]):
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


def test_evaluation_is_the_plain_elbo_over_all_images(small_world):
    vae, _ = small_world
    numbers = evaluate_elbo(vae, ALL_SQUARES, samples=3, batch_size=7, seed=4)
    with seeded(4), torch.no_grad():
        parts = [elbo(vae, batch, samples=3) for batch in ALL_SQUARES.split(7)]
    loss = torch.cat([p["loss"] for p in parts]).double().numpy()
    assert numbers["test_negative_elbo"] == pytest.approx(loss.mean())
    assert numbers["test_standard_error"] == pytest.approx(loss.std() / 4)
    total = numbers["test_reconstruction"] + numbers["test_kl"]
    assert total == pytest.approx(numbers["test_negative_elbo"])


def test_evaluation_of_an_autoencoder():
    model, x = tiny_autoencoder(), random_images(9)
    with torch.no_grad():
        logits = model.decoder.network(model.encoder(x))
    expected = -numpy_log_likelihood(logits, x)
    numbers = evaluate_reconstruction(model, x, batch_size=4)
    assert numbers["test_reconstruction"] == pytest.approx(expected.mean(), rel=1e-5)
    assert numbers["test_standard_error"] == pytest.approx(expected.std() / 3, rel=1e-3)


def test_bits_per_dimension_of_a_uniform_byte_is_eight():
    assert bits_per_dimension(3 * 4 * 5 * math.log(256), (3, 4, 5)) == pytest.approx(8)


# ------------------------------------------------------------------------------- the posterior


def test_reparameterized_gradient_is_the_analytic_one():
    parameters = torch.tensor([[0.7, math.log(0.5)]], requires_grad=True)
    q = MeanFieldGaussian(1, log_variance_bound=None)(parameters)
    with seeded(0):
        q.rsample((400_000,)).square().mean().backward()
    # E[z^2] = mu^2 + sigma^2, so the gradient is (2 mu, sigma^2) in (mu, log sigma^2).
    torch.testing.assert_close(parameters.grad, torch.tensor([[1.4, 0.5]]), atol=0.01, rtol=0)


def test_posterior_moments_and_density():
    q, mean, log_variance = gaussian(b=2)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, log_variance.exp())
    with seeded(0):
        z = q.rsample((200_000,))
    torch.testing.assert_close(z.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), log_variance.exp(), atol=0, rtol=0.03)
    reference = stats.multivariate_normal(mean[1].numpy(), np.diag(log_variance[1].exp().numpy()))
    np.testing.assert_allclose(q.log_prob(z)[:50, 1], reference.logpdf(z[:50, 1]), rtol=1e-4)


@given(st.floats(-1e30, 1e30), st.floats(0.5, 20))
def test_bounded_stays_within_its_bound(value, bound):
    out = bounded(torch.tensor(value), bound)
    assert abs(float(out)) <= bound * (1 + 1e-6)
    assert float(out) * value >= 0


def test_bounded_is_the_identity_near_zero_and_lets_gradients_through():
    value = torch.tensor([0.0, 0.01, 30.0, -30.0], requires_grad=True)
    out = bounded(value, 10.0)
    out.sum().backward()
    torch.testing.assert_close(out[:2].detach(), value[:2].detach())
    torch.testing.assert_close(value.grad[:2], torch.ones(2))
    assert (value.grad > 0.005).all()  # a hard clamp would leave nothing
    assert bounded(value, None) is value


# ------------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        (Constant(0.3), {0: 0.3, 0.5: 0.3, 1: 0.3}),
        (OneCycle(1e-3), {0: 4e-5, 0.05: 5.2e-4, 0.1: 1e-3, 1: 1e-7}),
        (OneCycle(2.0, warm_up=0.5), {0: 0.08, 0.5: 2.0, 0.75: 1.0001, 1: 2e-4}),
        (LinearWarmUp(), {0: 0, 3 / 14: 0.5, 3 / 7: 1, 0.9: 1, 1: 1}),
        (LinearWarmUp(4.0, fraction=1), {0: 0, 0.25: 1, 1: 4}),
    ],
)
def test_schedules(schedule, ends):
    for progress, value in ends.items():
        assert schedule(progress) == pytest.approx(value)
    path = [schedule(t) for t in np.linspace(0, 1, 5001)]
    assert max(abs(np.diff(path))) < 0.01 * max(path)  # no jump anywhere
    assert eval(repr(schedule)) == schedule  # a configuration names it by its repr


@pytest.mark.parametrize(
    "wrong",
    [lambda: OneCycle(0), lambda: OneCycle(1, warm_up=1), lambda: LinearWarmUp(fraction=0)],
)
def test_schedules_refuse_nonsense(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()


# ---------------------------------------------------------------------------- the latent space


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_interpolations(seed, steps):
    a, b = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)).double()
    b = b * a.norm() / b.norm()
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    line, arc = interpolate(a, b, steps), interpolate(a, b, steps, spherical=True)
    for path in (line, arc):
        torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(line, a + t[:, None] * (b - a))
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(steps))
    angles = torch.arccos((arc @ a / a.norm() ** 2).clamp(-1, 1))
    torch.testing.assert_close(angles, t * angles[-1], atol=1e-6, rtol=0)  # evenly along the arc


def test_spherical_interpolation_of_parallel_codes_is_the_line():
    a = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(interpolate(a, 2 * a, 5, spherical=True), interpolate(a, 2 * a, 5))


def test_traverse_changes_one_dimension():
    code, values = torch.randn(5), torch.linspace(-2, 2, 7)
    codes = traverse(code, 3, values)
    assert torch.equal(codes[:, 3], values)
    kept = [0, 1, 2, 4]
    assert torch.equal(codes[:, kept], code[kept].expand(7, 4))


def test_nearest_images_are_scikit_learns():
    known, labels = random_images(60, (1, 6, 6), seed=1), torch.arange(60) % 7
    images = random_images(9, (1, 6, 6), seed=2)
    distance, votes = nearest_images(images, (known * 255).byte(), labels, k=4)
    model = NearestNeighbors(n_neighbors=4).fit((known * 255).byte().flatten(1).numpy() / 255)
    expected, found = model.kneighbors(images.flatten(1).numpy())
    np.testing.assert_allclose(distance, expected[:, 0], rtol=1e-4)
    assert torch.equal(votes, labels[torch.from_numpy(found)])


def test_a_sheet_between_four_images_is_that_between_their_codes():
    vae, x = tiny_vae(spread=2.0), random_images(4)
    sheet = four_corner_images(vae, x, 5)
    assert sheet.shape == (5, 5, 1, 28, 28)
    torch.testing.assert_close(sheet, vae.decode(four_corners(vae.encode(x), 5)))
    corners = torch.stack([sheet[0, 0], sheet[0, -1], sheet[-1, 0], sheet[-1, -1]])
    torch.testing.assert_close(corners, vae.reconstruct(x))
    for bad in ([*x[:3]], [*x[:3], torch.rand(1, 28, 27)]):
        with pytest.raises(ValueError, match=r"four corner images .* of one size"):
            four_corner_images(vae, bad, 5)


def test_four_corners_is_bilinear():
    corners = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    grid = four_corners(corners, 5)
    for i, j in itertools.product(range(5), repeat=2):
        v, u = i / 4, j / 4
        weights = torch.tensor([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u])
        torch.testing.assert_close(grid[i, j], weights @ corners)


def test_grids_are_laid_out_as_pictures():
    even, quantiles = linear_grid(7, 3.0), quantile_grid(7)
    expected = stats.norm.ppf((np.arange(7) + 0.5) / 7)
    for grid, axis in ((even, np.linspace(-3, 3, 7)), (quantiles, expected)):
        columns, rows = np.meshgrid(axis, axis[::-1])  # z_1 grows to the right, z_2 upwards
        np.testing.assert_allclose(grid.numpy(), np.stack([columns, rows], -1), atol=1e-5)


def test_moments_against_torchs_gaussian_kl():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(500, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 0.4
    q = MultivariateNormal(codes.mean(0).double(), torch.from_numpy(np.cov(codes.numpy().T)))
    expected = torch_kl(q, MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double()))
    numbers = moments_from_standard_normal(codes)
    assert numbers["kl"] == pytest.approx(float(expected), rel=1e-4)
    assert numbers["kl_per_dimension"] == pytest.approx(float(expected) / 3, rel=1e-4)
    assert numbers["largest_mean"] == pytest.approx(np.abs(codes.numpy().mean(0)).max(), rel=1e-4)
    std = codes.numpy().std(0, ddof=1)
    assert (numbers["smallest_std"], numbers["largest_std"]) == pytest.approx(
        (std.min(), std.max()), rel=1e-4
    )
    one = moments_from_standard_normal(codes[:, :1])["kl"]
    closed = torch_kl(Normal(codes[:, 0].mean(), codes[:, 0].std()), Normal(0.0, 1.0))
    assert one == pytest.approx(float(closed), rel=1e-4)


def test_pca_is_the_singular_value_decomposition():
    codes = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 5)
    coordinates, shares = pca(codes, 2)
    centred = codes.numpy() - codes.numpy().mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(centred @ vt[:2].T), atol=1e-4)
    np.testing.assert_allclose(shares, (s**2 / (s**2).sum())[:2], rtol=1e-4)


def test_nearest_to_class_mean():
    codes = torch.tensor([[0.0], [1.0], [2.1], [50.0], [10.0], [11.0], [12.5]])
    labels = torch.tensor([3, 3, 3, 8, 5, 5, 5])
    assert nearest_to_class_mean(codes, labels).tolist() == [1, 5, 3]


def test_linear_autoencoder_finds_the_principal_subspace():
    generator = torch.Generator().manual_seed(0)
    x = 0.03 * torch.rand(300, 3, 3, generator=generator)
    x[:, 0] += 0.9 * torch.rand(300, 1, generator=generator)  # a row and a column of one grey each
    x[:, :, 0] += 0.05 + 0.5 * torch.rand(300, 1, generator=generator)
    x = x.unsqueeze(1) / x.max()
    model = tiny_autoencoder((1, 3, 3), hidden=())

    def squared_error(model, x):
        return {"loss": (model.decoder.network(model.encode(x)) - x).square().sum((1, 2, 3))}

    fit(model, squared_error, x, epochs=800, batch_size=300, learning_rate=OneCycle(0.1),
        progress=False, device="cpu")  # fmt: skip
    centred = x.flatten(1).numpy() - x.flatten(1).numpy().mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    learnt = model.decoder.network.layers[0].weight.detach().numpy()
    assert subspace_angles(learnt, vt[:2].T).max() < 0.02
    residual = float(squared_error(model, x)["loss"].mean().detach())
    assert residual == pytest.approx((s[2:] ** 2).sum() / 300, abs=1e-4)


def test_mlp_is_the_matrix_product():
    with seeded(0):
        network = MLP((1, 2, 3), (2, 2), hidden=(5,))
    x = random_images(4, (1, 2, 3))
    (w1, b1), (w2, b2) = [(m.weight, m.bias) for m in (network.layers[0], network.layers[2])]
    expected = (x.flatten(1) @ w1.T + b1).clamp(min=0) @ w2.T + b2
    torch.testing.assert_close(network(x), expected.reshape(4, 2, 2))
