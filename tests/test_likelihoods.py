"""Likelihoods, each against an independent computation."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from sklearn.decomposition import PCA
from torch.autograd import gradcheck

import vae_tutorial as vt
from vae_tutorial import likelihoods
from vae_tutorial.likelihoods import (
    Bernoulli,
    BetaBinomial,
    ContinuousBernoulli,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Gaussian,
    NegativeBinomial,
    Observed,
    Poisson,
)
from vae_tutorial.schedules import LinearWarmUp, OneCycle

PIXEL, SHAPE = (1, 1, 1), (1, 4, 4)
GREYS = torch.arange(256, dtype=torch.float64) / 255
NOISES = ["homoscedastic", "imagewise", "pixelwise"]
KINDS = [
    Bernoulli,
    partial(Bernoulli, greys=True),
    ContinuousBernoulli,
    BetaBinomial,
    DiscretizedLogistic,
    partial(DiscretizedLogistic, noise="homoscedastic"),
    *(partial(DiscretizedGaussian, noise=noise) for noise in NOISES),
    partial(Gaussian, scale=0.2),
    *(partial(Gaussian, noise=noise) for noise in NOISES),
]
every_kind = pytest.mark.parametrize("kind", KINDS)

# ------------------------------------------------------------------------- what they all keep to


@every_kind
def test_one_number_per_image_whatever_stands_in_front(kind):
    likelihood = kind([3, 4, 5])  # a list, which is what a file keeps of a tuple
    torch.manual_seed(0)
    p, x = likelihood(torch.randn(2, 7, *likelihood.param_shape)), torch.rand(7, 3, 4, 5).round()
    assert (p.batch_shape, p.event_shape) == ((2, 7), (3, 4, 5))
    assert p.mean.shape == p.variance.shape == p.sample().shape == (2, 7, 3, 4, 5)
    torch.testing.assert_close(p.log_prob(x), p.base_dist.log_prob(x).flatten(2).sum(-1))
    assert p.log_prob(p.sample()).isfinite().all()  # what it draws lies in its support


@every_kind
def test_finite_at_extremes(kind):
    likelihood = kind((1, 2, 2))
    values = torch.linspace(-100, 100, 81).reshape(-1, *[1] * len(likelihood.param_shape))
    parameters = values.repeat(1, *likelihood.param_shape).requires_grad_()
    p, x = likelihood(parameters), torch.tensor([0.0, 1.0, 0.5, 1 / 255]).reshape(1, 2, 2)
    log_prob = p.log_prob(x.round() if kind is Bernoulli else x)
    log_prob.sum().backward()
    assert all(numbers.isfinite().all() for numbers in (log_prob, parameters.grad, p.mean))
    assert (p.variance >= 0).all()


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind in KINDS[:9] for value in (-0.5, 1.5, 200.0)]
    + [(kind, math.nan) for kind in KINDS]
    + [(Bernoulli, 0.5)],
)
def test_values_outside_the_support(kind, value, monkeypatch):
    """An error on the CPU; elsewhere an impossible image, found out without a look at it."""
    likelihood, x = kind((1, 2, 2)), torch.ones(3, 1, 2, 2)
    p = likelihood(torch.zeros(3, *likelihood.param_shape))
    expected = p.log_prob(x)
    x[1, 0, 0, 1] = value
    with pytest.raises(ValueError, match="lie elsewhere"):
        p.log_prob(x)
    monkeypatch.setattr(likelihoods, "free_to_read", lambda value: False)
    expected[1] = -math.inf
    torch.testing.assert_close(p.log_prob(x), expected)


@every_kind
def test_no_other_device_is_made_to_wait(kind):
    """On "meta" there are no numbers: reading one back is an error."""
    likelihood = kind(SHAPE).to("meta")
    parameters = torch.zeros(3, *likelihood.param_shape, device="meta", requires_grad=True)
    log_prob = likelihood(parameters).log_prob(torch.zeros(3, *SHAPE, device="meta"))
    assert log_prob.shape == (3,)
    log_prob.sum().backward()


# --------------------------------------------------------------------------- black, white, grey


def test_bernoulli_is_a_distribution_over_images_and_greys_are_the_cross_entropy():
    logits = torch.tensor([[[1.5, -0.3], [0.0, -4.0]]]).double()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).reshape(16, 1, 2, 2)
    assert float(Bernoulli((1, 2, 2))(logits).log_prob(every).exp().sum()) == pytest.approx(1)
    x, y = torch.tensor([[[0.2, 1.0], [0.5, 0.0]]]).double(), 1 / (1 + torch.exp(-logits))
    expected = (x * y.log() + (1 - x) * (1 - y).log()).sum()
    torch.testing.assert_close(Bernoulli((1, 2, 2), greys=True)(logits).log_prob(x), expected)


def test_binarize():
    torch.manual_seed(0)
    levels = torch.tensor([0, 102, 255], dtype=torch.uint8).repeat(9000, 1)
    drawn, labels = likelihoods.binarize(levels, "labels")
    assert labels == "labels"
    for images in (drawn, likelihoods.binarize(levels / 255)):
        assert set(images.unique().tolist()) == {0.0, 1.0}
        assert images.mean(0).tolist() == pytest.approx([0, 0.4, 1], abs=0.02)


def quad(function, logit: float) -> float:
    """An integral over [0, 1], with the mass at an end resolved."""
    edge = min(0.5, 30 / max(1.0, abs(logit)))
    return scipy.integrate.quad(function, 0, 1, points=[edge, 1 - edge], limit=200)[0]


@pytest.mark.parametrize("logit", [-100, -8, -0.2, -1e-3, 0, 0.05, 0.0999, 0.1001, 0.49, 0.51, 60])
def test_continuous_bernoulli_by_quadrature(logit):
    p = likelihoods._ContinuousBernoulli(torch.tensor(float(logit)).double())

    def density(x):
        return float(p.log_prob(torch.tensor(x, dtype=torch.float64)).exp())

    assert quad(density, logit) == pytest.approx(1, abs=1e-8)
    mean = quad(lambda x: x * density(x), logit)
    assert float(p.mean) == pytest.approx(mean, abs=1e-9)
    variance = quad(lambda x: (x - mean) ** 2 * density(x), logit)
    assert float(p.variance) == pytest.approx(variance, rel=2e-6)


def test_log_normalizer_in_float32_and_finite_gradients_in_any_precision():
    logits = torch.cat([torch.linspace(-100, 100, 2001), torch.tensor([0.0, 1e-9, 1e-4, 0.0999])])
    size = logits.abs().double().clamp(min=1e-7)  # another form, for l > 0
    expected = size.log() + torch.exp(-size).log1p() - (-torch.expm1(-size)).log()
    torch.testing.assert_close(
        likelihoods.log_normalizer(logits).double(), expected, rtol=0, atol=2e-6
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        some = logits.to(dtype).requires_grad_()
        p = likelihoods._ContinuousBernoulli(some)
        (likelihoods.log_normalizer(some) + p.mean + p.variance + p.rsample()).sum().backward()
        assert some.grad.isfinite().all()


def test_gradients():
    x = GREYS[[0, 51, 102, 153, 204, 255]]
    logits = torch.tensor([-30.0, -0.11, -1e-4, 0.0, 0.0999, 5.0]).double().requires_grad_()
    assert gradcheck(lambda v: likelihoods._ContinuousBernoulli(v).log_prob(x), logits)
    assert gradcheck(lambda v: likelihoods._ContinuousBernoulli(v).mean, logits)
    likelihood, x = DiscretizedLogistic((1, 1, 3)), GREYS[[0, 128, 255]].reshape(1, 1, 3)
    raw = torch.tensor([0.3, -2.0, 4.0, -3.0, -1.0, -6.0]).double().reshape(1, 2, 1, 3)
    for function in (lambda p: likelihood(p).log_prob(x), lambda p: likelihood(p).variance):
        assert gradcheck(function, raw.requires_grad_())


@pytest.mark.parametrize(
    "logit", [-30, -1, -0.0301, -0.0299, -1e-3, 1e-7, 0, 0.0299, 0.0301, 1, 30]
)
def test_draws_of_the_continuous_bernoulli_invert_its_distribution_function(logit):
    """Value and gradient, where a series takes over and beyond."""
    logits = torch.full((500,), float(logit)).double().requires_grad_()
    torch.manual_seed(0)
    x = likelihoods._ContinuousBernoulli(logits).rsample()
    x.sum().backward()
    torch.manual_seed(0)
    u = torch.rand(500, dtype=torch.float64).numpy()
    u = 1 - u if logit > 0 else u  # mirrored: either is a fair draw

    def inverse(v):
        return np.log1p(u * np.expm1(v)) / v

    small, h = abs(logit) < 1e-6, 1.7e-3
    expected = u if small else inverse(logit)
    np.testing.assert_allclose(x.detach(), expected, atol=1e-7 if small else 1e-9)
    slope = (inverse(logit + h) - inverse(logit - h)) / (2 * h)  # near 0: u (1 - u) / 2
    np.testing.assert_allclose(logits.grad, slope, atol=1e-6)


def test_an_unbounded_continuous_bernoulli_pays_for_black_without_end():
    black = torch.zeros(PIXEL)
    free, bound = (ContinuousBernoulli(PIXEL, logit_bound=b) for b in (None, 10.0))
    paid = [float(free(torch.full(PIXEL, v)).log_prob(black)) for v in (-1e2, -1e4, -1e6)]
    assert np.diff(paid) == pytest.approx(np.log([100, 100]), rel=1e-3)
    assert float(bound(torch.full(PIXEL, -1e6)).log_prob(black)) < math.log(10.01)
    # The mean of the blackest pixel is the bound's reciprocal: 0.1, and 0.01 by default.
    means = [float(p(torch.full(PIXEL, -1e6)).mean) for p in (bound, ContinuousBernoulli(PIXEL))]
    assert means == pytest.approx([0.1, 0.01], abs=1e-4)


# ------------------------------------------------------------------------- discretized logistic


def logistic_bins(location, scale) -> np.ndarray:
    """The probabilities of the 256 levels, in float64."""
    edges = (np.arange(255) + 0.5) / 255
    return np.diff(np.concatenate([[0], scipy.stats.logistic(location, scale).cdf(edges), [1]]))


@pytest.mark.parametrize("noise", ["pixelwise", "homoscedastic"])
@pytest.mark.parametrize(
    ("logit", "log_scale"), [(0, -3), (2, -5), (-4, 0), (100, -100), (-100, 100), (-100, -100)]
)
def test_discretized_logistic_is_scipys_logistic_over_bins(logit, log_scale, noise):
    likelihood = DiscretizedLogistic(PIXEL, noise=noise).double()
    parameters = torch.tensor([float(logit), log_scale]).double().reshape(1, 2, 1, 1)
    if noise == "homoscedastic":
        likelihood.requires_grad_(False).log_scale.fill_(log_scale)
        parameters = parameters[:, :1]
    p = likelihood(parameters)
    scale = math.exp(4 * math.tanh((log_scale + 3) / 4) - 3)
    expected = logistic_bins(1 / (1 + math.exp(-logit)), scale)
    found = p.log_prob(GREYS.reshape(256, 1, 1, 1))
    assert found.isfinite().all()
    np.testing.assert_allclose(found.exp(), expected, atol=1e-12)
    mean = float((expected * GREYS.numpy()).sum())
    variance = float((expected * (GREYS.numpy() - mean) ** 2).sum())
    assert (float(p.mean), float(p.variance)) == pytest.approx((mean, variance), abs=1e-9)
    torch.manual_seed(0)
    x = p.sample((50_000,)).flatten()
    torch.testing.assert_close(x * 255, (x * 255).round())
    assert float(x.mean()) == pytest.approx(mean, abs=5 * variance**0.5 / 223)


@pytest.mark.parametrize("scale", [0.00095, 0.001, 0.01, 0.3, 2.5])
def test_moments_of_a_discretized_logistic_in_float32(scale):
    location, scales, levels = torch.linspace(0, 1, 64), torch.full((64,), scale), GREYS.numpy()
    p = likelihoods._DiscretizedLogistic(location, scales)
    bins = np.stack([logistic_bins(at, scales[0].double()) for at in location.double()])
    mean = bins @ levels
    np.testing.assert_allclose(p.mean, mean, atol=2e-6)
    np.testing.assert_allclose(p.variance, (bins * (levels - mean[:, None]) ** 2).sum(1), rtol=1e-3)


# ------------------------------------------------------------------------ discretized Gaussian


def gaussian_bins(mean, scale) -> np.ndarray:
    """The probabilities of the 256 levels, in float64; each bin from the tail that is nearer."""
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    normal = scipy.stats.norm(mean, scale)
    return np.where(edges[1:] < mean, np.diff(normal.cdf(edges)), -np.diff(normal.sf(edges)))


@pytest.mark.parametrize("logit", [0, 2, -6, 100, -100])
@pytest.mark.parametrize("scale", [0.001, 0.01, 0.3, 1])
def test_discretized_gaussian_is_scipys_normal_over_bins(logit, scale):
    likelihood = DiscretizedGaussian(PIXEL, scale=scale, smallest_scale=1e-3)
    p = likelihood(torch.tensor(float(logit)).double().reshape(PIXEL))
    expected = gaussian_bins(1 / (1 + math.exp(-logit)), scale)
    found = p.log_prob(GREYS.reshape(256, 1, 1, 1))
    assert found.isfinite().all()
    np.testing.assert_allclose(found.exp(), expected, rtol=1e-7, atol=1e-14)
    mean = float((expected * GREYS.numpy()).sum())
    variance = float((expected * (GREYS.numpy() - mean) ** 2).sum())
    assert (float(p.mean), float(p.variance)) == pytest.approx((mean, variance), abs=1e-7)
    single = likelihood(torch.full(PIXEL, float(logit))).log_prob(
        GREYS.float().reshape(-1, 1, 1, 1)
    )
    np.testing.assert_allclose(single, found, rtol=2e-4, atol=2e-3)
    torch.manual_seed(0)
    x = p.sample((50_000,)).flatten()
    torch.testing.assert_close(x * 255, (x * 255).round())
    assert float(x.mean()) == pytest.approx(mean, abs=5 * variance**0.5 / 223 + 1e-9)


def test_discretized_gaussian_has_a_gradient_everywhere_and_the_gaussians_parameters():
    likelihood, x = DiscretizedGaussian((1, 1, 3), noise="pixelwise"), GREYS[[0, 128, 255]]
    raw = torch.tensor([[[-2.0, 0.1, 3.0], [-3.0, 0.5, -6.0]]]).double().reshape(2, 1, 3)
    assert gradcheck(lambda v: likelihood(v).log_prob(x.reshape(1, 1, 3)), raw.requires_grad_())
    smooth = Gaussian(SHAPE, noise="imagewise")
    assert DiscretizedGaussian(SHAPE, noise="imagewise").param_shape == smooth.param_shape
    DiscretizedGaussian(SHAPE).load_state_dict(Gaussian(SHAPE).state_dict())


@pytest.mark.parametrize("scale", [0.005, 0.02, 0.2])
def test_dequantized_densities_lie_below_the_probability_of_the_level(scale):
    """Theis et al. (2016): E_u[log p(x + u)] + log(width) <= log P(x), by Jensen's inequality."""
    levels, edge = np.arange(1, 255) / 255, 1 / 510
    normal = scipy.stats.norm(0.4, scale)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    u = levels[:, None] + edge * nodes
    below = (normal.logpdf(u) * weights / 2).sum(1) + math.log(1 / 255)
    p = DiscretizedGaussian(PIXEL, scale=scale, smallest_scale=1e-3)
    logit = torch.tensor(math.log(0.4 / 0.6)).double().reshape(PIXEL)
    exact = p(logit).log_prob(torch.from_numpy(levels).reshape(-1, 1, 1, 1)).numpy()
    assert (below < exact).all()
    near = abs(levels - 0.4) < 2 * scale  # not in the tails, where the density falls steeply
    assert (below > exact - (edge / scale) ** 2)[near].all()


# ------------------------------------------------------------------------------------ Gaussian


@pytest.mark.parametrize("shape", [(3, 4, 4), (2,), (5, 7)])
@pytest.mark.parametrize("noise", ["fixed", *NOISES])
def test_gaussian_is_scipys(noise, shape):
    n, first = math.prod(shape), shape[0]
    options = {"scale": 0.2} if noise == "fixed" else {"noise": noise, "largest_scale": 1.5}
    likelihood = Gaussian(list(shape), smallest_scale=0.02, **options)
    wanted = {"imagewise": (n + 1,), "pixelwise": (2 * first, *shape[1:])}.get(noise, shape)
    assert likelihood.param_shape == wanted
    torch.manual_seed(0)
    parameters, x = torch.randn(2, 5, *wanted).double(), torch.rand(5, n).double()
    p, logits = likelihood(parameters), parameters.flatten(2)[..., :n]
    assert (p.batch_shape, p.event_shape) == ((2, 5), shape)
    raw = parameters.flatten(2)[..., n:] if len(wanted) and wanted != shape else torch.tensor(-2.0)
    middle, half = math.log(0.02 * 1.5), math.log(1.5 / 0.02)  # of the log-variances' range
    scale = torch.exp((middle + half * torch.tanh((raw - middle) / half)) / 2)
    reference = scipy.stats.norm(logits.sigmoid(), 0.2 if noise == "fixed" else scale)
    found = p.log_prob(x.reshape(5, *shape)).detach()
    np.testing.assert_allclose(found, reference.logpdf(x).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("log_beta", [-9.0, -1.0, 0.0, 3.0, 5.5])
@pytest.mark.parametrize("log_alpha", [-9.0, -1.0, 0.0, 3.0, 5.5])
def test_beta_binomial_is_scipys(log_alpha, log_beta):
    """Every level, the moments and the draws; in float32, too, as it is trained."""
    raw = [8 * math.atanh((a + 2) / 8) - 2 for a in (log_alpha, log_beta)]
    parameters = torch.tensor(raw, dtype=torch.float64).reshape(1, 2, 1, 1)
    reference = scipy.stats.betabinom(255, math.exp(log_alpha), math.exp(log_beta))
    p, levels = BetaBinomial(PIXEL)(parameters), GREYS.reshape(256, 1, 1, 1)
    expected = reference.logpmf(np.arange(256))
    np.testing.assert_allclose(p.log_prob(levels), expected, rtol=1e-9, atol=1e-9)
    mean, deviation = reference.mean() / 255, reference.std() / 255
    assert (float(p.mean), float(p.stddev)) == pytest.approx((mean, deviation), rel=1e-9)
    torch.manual_seed(0)
    x = p.sample((50_000,)).flatten()
    torch.testing.assert_close(x * 255, (x * 255).round())
    assert float(x.mean()) == pytest.approx(mean, abs=5 * deviation / 223 + 1e-9)
    narrow = BetaBinomial(PIXEL)(parameters.float()).log_prob(levels.float())
    np.testing.assert_allclose(narrow, expected, atol=2e-3)


def test_beta_binomial_gradients_and_bounds():
    likelihood, x = BetaBinomial((1, 1, 3)), GREYS[[0, 128, 255]].reshape(1, 1, 3)
    raw = torch.tensor([0.3, -2.0, 4.0, -3.0, -1.0, -6.0]).double().reshape(1, 2, 1, 3)
    for function in (lambda p: likelihood(p).log_prob(x), lambda p: likelihood(p).variance):
        assert gradcheck(function, raw.requires_grad_())
    for end, log in ((1e4, 6), (-1e4, -10)):
        p = BetaBinomial(PIXEL)(torch.full((1, 2, 1, 1), end)).base_dist
        assert (float(p.alpha), float(p.beta)) == pytest.approx((math.exp(log),) * 2, rel=1e-5)


def test_the_docstrings_first_scales():
    gaussian = float(Gaussian(PIXEL)(torch.zeros(PIXEL)).stddev.detach())
    assert f"starts at {gaussian:.2f}" in Gaussian.__doc__
    p = DiscretizedLogistic(PIXEL, noise="homoscedastic")(torch.zeros(PIXEL))
    assert f"starts at {float(p.base_dist.scale.detach()):.2f}" in DiscretizedLogistic.__doc__


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Gaussian(SHAPE, noise="rowwise"), "rowwise"),
        (lambda: Gaussian(SHAPE, noise="pixelwise", scale=0.1), "homoscedastic"),
        (lambda: Gaussian(SHAPE, scale=0.001), "smallest_scale=0.01"),
        (lambda: Gaussian(SHAPE, smallest_scale=2.0), "largest_scale"),
        (lambda: Gaussian((0,)), "image_shape"),
        (lambda: Gaussian(SHAPE, noise="imagewise")(torch.zeros(2, 16)), r"\(\.\.\., 17\)"),
        (lambda: Bernoulli((8, 8)), r"\(C, H, W\), got \(8, 8\)"),
        (lambda: Bernoulli(SHAPE)(torch.zeros(5, 3, 4, 4)), r"\(\.\.\., 1, 4, 4\), got"),
        (lambda: Bernoulli(SHAPE)(torch.zeros(SHAPE)).log_prob(0.5 * torch.ones(SHAPE)), "greys"),
        (lambda: ContinuousBernoulli((4, 4)), r"\(C, H, W\)"),
        (lambda: ContinuousBernoulli(SHAPE, logit_bound=0), "logit_bound"),
        (lambda: DiscretizedLogistic(SHAPE, noise="imagewise"), "imagewise"),
    ],
)
def test_misuse_is_named(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_a_linear_vae_reaches_probabilistic_pca():
    """The exact maximum likelihood of Tipping & Bishop (1999), as scikit-learn has it."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(10, 2)) * [1, 0.7]
    x = rng.normal(size=(1000, 2)) @ loadings.T + 0.7 * rng.normal(size=(1000, 10))
    x = 0.45 * x / np.abs(x).max() - 0.5
    exact = PCA(2).fit(x)
    best = -exact.score(x)  # nats per example

    posterior = vt.MeanFieldGaussian(2)
    likelihood = Gaussian((10,), bounded_mean=False, smallest_scale=1e-3)
    torch.manual_seed(0)
    vae = vt.VAE(
        vt.Encoder(vt.MLP(10, posterior.param_shape, ()), posterior),
        vt.Decoder(vt.MLP(2, likelihood.param_shape, ()), likelihood),
        vt.StandardNormal(2),
    )
    points = torch.from_numpy(x).float()
    # Warm-up: with the noise still wide, the full KL term would switch a latent off for good.
    vt.fit(vae, partial(vt.elbo, samples=4), points, epochs=600, batch_size=100, learning_rate=OneCycle(0.1),
           schedules={"beta": LinearWarmUp()}, device="cpu", progress=False)  # fmt: skip
    reached = vt.evaluate(vae, partial(vt.elbo, samples=100), points)["negative_elbo"]
    assert best - 0.01 < reached < best + 0.05
    learnt = float(likelihood(torch.zeros(1, 10)).stddev.detach().mean())
    assert learnt == pytest.approx(exact.noise_variance_**0.5, rel=0.02)


# ------------------------------------------------------------------------- counts, and holes


def test_a_negative_binomial_is_that_of_scipy():
    p = NegativeBinomial(3)
    r, exposure = torch.tensor([0.3, 1.0, 12.0]), 2.5
    with torch.no_grad():
        p.log_size.copy_(8 * torch.atanh(r.log() / 8))  # past the smooth bound
    torch.testing.assert_close(p.size, r)
    wanted = torch.tensor([0.1, 4.0, 30.0])  # rates
    rates = 10 * torch.atanh(wanted.log() / 10)
    counts = torch.tensor([[0.0, 0, 0], [1, 2, 3], [7, 0, 200], [0, 90, 61]])
    m = (exposure * wanted).numpy()
    expected = scipy.stats.nbinom(r.numpy(), r.numpy() / (r.numpy() + m)).logpmf(counts).sum(1)
    x = torch.cat([counts, torch.full((4, 1), exposure)], 1)
    q = p(rates.expand(4, 3))
    np.testing.assert_allclose(q.log_prob(x).detach(), expected, rtol=1e-4)
    np.testing.assert_allclose(q.mean[0].detach(), wanted, rtol=1e-4)
    drawn = p(rates).given(torch.tensor([exposure])).sample((100_000,))
    np.testing.assert_allclose(drawn.mean(0), m, rtol=0.05)
    np.testing.assert_allclose(drawn.var(0), m + m**2 / r.numpy(), rtol=0.15)


def test_a_poisson_is_that_of_scipy_and_the_limit_of_the_negative_binomial():
    torch.manual_seed(0)
    poisson, p = Poisson(4).double(), NegativeBinomial(4).double()
    rates = torch.randn(6, 4).double()
    x = torch.cat([torch.randint(0, 9, (6, 4)), torch.rand(6, 1) + 0.5], 1).double()
    m = x[:, 4:] * (10 * torch.tanh(rates / 10)).exp()
    expected = scipy.stats.poisson(m).logpmf(x[:, :4]).sum(1)
    np.testing.assert_allclose(poisson(rates).log_prob(x), expected, rtol=1e-6)
    far = []
    for log_r in (2.0, 4.0, 6.0):
        with torch.no_grad():
            p.log_size.fill_(8 * math.atanh(log_r / 8))
            far.append(np.abs(p(rates).log_prob(x).numpy() - expected).max())
    assert far[0] > 5 * far[1] > 25 * far[2]  # like 1 / r
    assert far[2] < 0.1


@pytest.mark.parametrize("kind", [Poisson, NegativeBinomial])
def test_counts_have_a_probability_that_adds_up_to_one_and_others_are_refused(kind):
    p = kind(1)(torch.tensor([[0.7]]))
    x = torch.stack([torch.arange(400.0), torch.full((400,), 1.7)], 1)
    assert float(p.log_prob(x).detach().exp().sum()) == pytest.approx(1, abs=1e-3)
    for wrong in ([-1.0, 1.0], [0.5, 1.0], [1.0, 0.0], [1.0, -2.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="raw counts"):
            p.log_prob(torch.tensor([wrong]))
    with pytest.raises(ValueError, match="columns"):
        kind(0)
    with pytest.raises(ValueError, match="param_shape"):
        kind(2)(torch.zeros(3, 5))
    extreme = kind(1)(torch.tensor([[1e6], [-1e6]]))
    assert extreme.log_prob(torch.tensor([[3.0, 1.0], [3.0, 1.0]])).isfinite().all()


@pytest.mark.parametrize("noise", NOISES)
def test_missing_entries_have_no_say(noise):
    inner = Gaussian((5,), noise=noise, bounded_mean=False)
    torch.manual_seed(0)
    parameters, x = torch.randn(2, 7, *inner.param_shape), torch.randn(7, 5)
    known = torch.rand(7, 5) < 0.6
    p = Observed(inner)(parameters)
    assert (p.batch_shape, p.event_shape) == ((2, 7), (2, 5))
    found = p.log_prob(torch.stack([x, known.float()], 1)).detach()
    q = inner(parameters).base_dist
    each = scipy.stats.norm(q.mean.detach(), q.stddev.detach()).logpdf(x)
    np.testing.assert_allclose(found, np.where(known, each, 0).sum(-1), rtol=1e-4)
    other = torch.where(known, x, 99.0)
    torch.testing.assert_close(p.log_prob(torch.stack([other, known.float()], 1)).detach(), found)
    assert p.mean.shape == p.sample().shape == (2, 7, 5)
    image = Observed(Gaussian((1, 2, 3), scale=0.5))
    assert image.image_shape == (2, 1, 2, 3)
    whole = torch.stack([torch.rand(4, 1, 2, 3), torch.ones(4, 1, 2, 3)], 1)
    logits = torch.randn(4, 1, 2, 3)
    expected = image.likelihood(logits).log_prob(whole[:, 0])
    torch.testing.assert_close(image(logits).log_prob(whole), expected)
