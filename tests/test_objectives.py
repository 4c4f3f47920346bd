"""The ELBO's family and the divergences in it, against quadrature, NumPy, SciPy and Monte Carlo."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from tiny import random_images, tiny_vae
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torch_kl

import vae_tutorial as vt
from vae_tutorial import elbo
from vae_tutorial import objectives as o
from vae_tutorial.evaluate import importance_weighted_bound
from vae_tutorial.likelihoods import Gaussian
from vae_tutorial.models.ladder import HierarchicalVAE, LadderVAE
from vae_tutorial.posteriors import FullCovarianceGaussian
from vae_tutorial.randomness import seeded

SQUARE = (1, 2, 2)  # so few pixels that all 16 binary images can be listed
ALL_SQUARES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).reshape(16, *SQUARE)


def numpy_log_likelihood(logits, x) -> np.ndarray:
    """sum x log y + (1 - x) log(1 - y) in float64, straight from its definition."""
    y = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    x = x.double().numpy()
    return (x * np.log(y) + (1 - x) * np.log(1 - y)).sum((-3, -2, -1))


def gaussian_vae(noise="pixelwise", shape=(1, 4, 4)) -> vt.VAE:
    with seeded(0):
        likelihood, plain = Gaussian(shape, noise=noise), tiny_vae(shape)
        decoder = vt.Decoder(vt.MLP(2, likelihood.param_shape, (8,)), likelihood)
        vae = vt.VAE(plain.encoder, decoder, plain.prior)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(2)
    return vae


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-4, 3))
def test_gaussian_kl_is_the_integral(mean, log_variance):
    q, p = stats.norm(mean, math.exp(log_variance / 2)), stats.norm()
    scale = q.std()
    integral, _ = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), mean - 12 * scale, mean + 12 * scale
    )
    ours = o.gaussian_kl(torch.tensor([mean]).double(), torch.tensor([log_variance]).double())
    assert float(ours) == pytest.approx(integral, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("samples", [1, 8])
def test_kl_monte_carlo_is_unbiased(samples):
    mean, log_variance = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    q, p = Independent(Normal(mean, (log_variance / 2).exp()), 1), vt.StandardNormal(3)()
    with seeded(0):
        each = torch.stack([o.kl_monte_carlo(q, p, q.rsample((samples,))) for _ in range(3000)])
    error = each.std() / math.sqrt(len(each))
    assert abs(each.mean() - o.gaussian_kl(mean, log_variance)) < 4 * error < 0.4


@given(st.floats(-20, 20), st.floats(-5, 1))
def test_gaussian_kl_is_never_negative(mean, exponent):
    # Log-variances near zero are where the rounding of exp(v) - 1 - v shows.
    log_variance = torch.linspace(-1, 1, 1001).unsqueeze(1) * 10**exponent
    assert (o.gaussian_kl(torch.full_like(log_variance, mean), log_variance) >= 0).all()
    assert (o.gaussian_kl(torch.zeros_like(log_variance), log_variance) >= 0).all()


def test_kl_per_dimension_is_torchs_and_refuses_dependent_dimensions():
    q, standard = tiny_vae(latent_dim=5, spread=3.0).encoder(random_images(6)), Normal(0.0, 1.0)
    assert torch.allclose(o.kl_per_dimension(q), torch_kl(q.base_dist, standard), atol=1e-5)
    with pytest.raises(ValueError, match="mean-field"):
        o.kl_per_dimension(FullCovarianceGaussian(2)(torch.zeros(3, 5)))


def test_binary_cross_entropy_is_its_definition():
    logits = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    x = random_images(7, (3, 4, 5))
    ours = o.binary_cross_entropy(logits, x)
    np.testing.assert_allclose(ours, -numpy_log_likelihood(logits, x), rtol=1e-5)
    torch.testing.assert_close(-vt.Bernoulli((3, 4, 5), greys=True)(logits).log_prob(x), ours)


@pytest.mark.parametrize(("logit", "x", "expected"), [(100, 0, 100), (100, 1, 0), (-100, 1, 100)])
def test_binary_cross_entropy_of_extreme_logits(logit, x, expected):
    image = torch.full((1, 1, 1, 1), float(x))
    logits = torch.full((1, 1, 1, 1), float(logit), requires_grad=True)
    value = o.binary_cross_entropy(logits, image)
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


def test_bounds_on_the_exact_log_likelihood():
    """Of all sixteen images of four binary pixels, by quadrature over z."""
    vae = tiny_vae(SQUARE, greys=False, seed=1).requires_grad_(False)
    for parameter in vae.decoder.parameters():
        parameter.mul_(4)
    axis = torch.linspace(-7, 7, 281)
    z = torch.cartesian_prod(axis, axis)
    joint = vae.decoder(z.unsqueeze(1)).log_prob(ALL_SQUARES) + vae.prior().log_prob(z)[:, None]
    exact = joint.double().logsumexp(0) + 2 * math.log(float(axis[1] - axis[0]))
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-4)
    best = importance_weighted_bound(vae, ALL_SQUARES, samples=50_000, batch_size=2)
    torch.testing.assert_close(best, exact, atol=0.03, rtol=0)
    with seeded(0):
        bound = -elbo(vae, ALL_SQUARES, samples=10_000)["loss"]
    assert (bound < exact + 0.03).all()
    assert float(bound.mean()) + 0.1 < float(exact.mean())


def test_bits_per_dimension_of_a_uniform_byte_is_eight():
    assert o.bits_per_dimension(3 * 4 * 5 * math.log(256), (3, 4, 5)) == pytest.approx(8)


def test_free_bits_take_the_larger_of_each_dimensions_mean_and_the_floor():
    vae, x = tiny_vae(latent_dim=4, spread=2.0), random_images(8)
    with seeded(1), torch.no_grad():
        plain = elbo(vae, x)
    with torch.no_grad():
        means = o.kl_per_dimension(vae.encoder(x)).mean(0).numpy()
    floor = float(np.median(means))  # two dimensions above, two below
    with seeded(1), torch.no_grad():
        free = o.free_bits_elbo(vae, x, free_nats=floor, beta=0.7)
    np.testing.assert_allclose(
        free["free_kl"], np.full(8, np.maximum(means, floor).sum()), rtol=1e-5
    )
    plain["loss"] = plain["reconstruction"] + 0.7 * free["free_kl"]
    torch.testing.assert_close(free, plain | {"free_kl": free["free_kl"]})


def test_no_gradient_presses_a_dimension_below_its_free_nats():
    vae, x = tiny_vae(spread=0.5), random_images(6)
    for free_nats, moves in ((50.0, False), (0.0, True)):
        vae.zero_grad(set_to_none=False)
        o.free_bits_elbo(vae, x, free_nats=free_nats)["free_kl"].mean().backward()
        assert any(p.grad.abs().any() for p in vae.encoder.parameters()) == moves


@pytest.mark.parametrize("noise", ["homoscedastic", "imagewise", "pixelwise"])
def test_beta_nll_reports_the_plain_likelihood_and_at_zero_is_the_plain_objective(noise):
    vae, x = gaussian_vae(noise), random_images(5, (1, 4, 4))

    def terms_and_gradient(objective, **settings):
        vae.zero_grad()
        with seeded(2):
            terms = objective(vae, x, samples=3, **settings)
        terms["loss"].mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in vae.parameters()])
        return {name: term.detach() for name, term in terms.items()}, gradient

    plain, gradient = terms_and_gradient(elbo)
    same, as_well = terms_and_gradient(o.beta_nll_elbo, nll_beta=0.0)
    expected = plain | {"weighted": plain["reconstruction"]}
    torch.testing.assert_close(same, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(as_well, gradient, rtol=1e-4, atol=1e-3)
    other, _ = terms_and_gradient(o.beta_nll_elbo, nll_beta=0.5, beta=2.0)
    assert not torch.allclose(other["weighted"], plain["reconstruction"])
    expected = plain | {"weighted": other["weighted"]}
    expected["loss"] = other["weighted"] + 2 * plain["kl"]
    torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-4)


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
            return vt.StandardNormal(1)()

    o.beta_nll_elbo(Given(), x, nll_beta=nll_beta)["loss"].sum().backward()
    v = variance.detach()
    weight = v**nll_beta
    torch.testing.assert_close(mean.grad, weight * (mean.detach() - x) / v)
    squares = (x - mean.detach()) ** 2
    torch.testing.assert_close(variance.grad, weight * (1 / v - squares / v**2) / 2)


@pytest.mark.parametrize(("message", "objective", "settings"), [
    ("nll_beta", o.beta_nll_elbo, {"nll_beta": 1.5}),
    ("samples", o.beta_nll_elbo, {"samples": 0}),
    ("free_nats", o.free_bits_elbo, {"free_nats": -0.1}),
    ("samples", o.free_bits_elbo, {"samples": 0}),
    ("Gaussian", o.beta_nll_elbo, {}),
])  # fmt: skip
def test_bad_settings_of_the_objectives_are_named(message, objective, settings):
    with pytest.raises(ValueError, match=message):
        objective(tiny_vae(), random_images(2), **settings)


# ---------------------------------------------------------------- importance weights as an objective


def gradients(vae, x, repeats=1, **arguments) -> dict[str, torch.Tensor]:
    """Mean gradient of the loss over ``repeats`` draws, all in one batch."""
    vae.zero_grad()
    o.iwae_elbo(vae, x.repeat(repeats, 1, 1, 1), **arguments)["loss"].mean().backward()
    return {name: parameter.grad.clone() for name, parameter in vae.named_parameters()}


def test_iwae_is_the_importance_weighted_bound():
    """The value, and the gradient, which autograd finds from the definition without any weights."""
    shape = (1, 8, 8)
    vae, x = tiny_vae(shape, spread=2.0), random_images(3, shape, binary=True)
    with seeded(5):
        found = o.iwae_elbo(vae, x, samples=7)
    with seeded(5):
        q = vae.encoder(x)
        z = q.rsample((7,))
        log_w = vae.decoder(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
    expected = -log_w.double().exp().mean(0).log()  # no trick needed here
    torch.testing.assert_close(found["loss"].double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["negative_elbo"], -log_w.mean(0))
    torch.testing.assert_close(
        found["loss"].detach().double(),
        -importance_weighted_bound(vae, x, samples=7, seed=5),
        rtol=1e-5,
        atol=1e-4,
    )
    vae.zero_grad()
    found["loss"].mean().backward()
    ours = {name: p.grad.clone() for name, p in vae.named_parameters()}
    vae.zero_grad()
    (-(log_w.logsumexp(0) - math.log(7)).mean()).backward()
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "how", [{"kept": 1}, {"kept": 3}, {"doubly": True}, {"kept": 2, "doubly": True}]
)
@pytest.mark.parametrize("samples", [1, 4])
def test_every_iwae_gradient_has_the_same_expectation(how, samples):
    """To within what that many draws allow; the decoder's is the same draw by draw if all are kept."""
    vae, x = tiny_vae(SQUARE, latent_dim=1, hidden=(4,), greys=False, spread=3.0), ALL_SQUARES[5:7]
    with seeded(1):
        plain = gradients(vae, x, 30_000, samples=samples)
    with seeded(1):
        other = gradients(vae, x, 30_000, samples=samples, **how)
    largest = max(float(g.abs().max()) for g in plain.values())
    assert largest > 0.1
    for name, gradient in plain.items():
        exact = "decoder" in name and "kept" not in how
        torch.testing.assert_close(
            other[name], gradient, rtol=1e-4 if exact else 0, atol=0.02 * largest
        )
        if "encoder" in name and (samples > 1 or "doubly" in how):
            assert not torch.allclose(
                other[name], gradient, rtol=1e-6, atol=1e-7
            )  # another estimator


def test_the_encoders_signal_drowns_unless_doubly_reparameterized():
    """Rainforth et al. (2018): the signal-to-noise ratio of the plain one falls with S."""
    vae, x = tiny_vae(SQUARE, latent_dim=1, hidden=(4,), greys=False, spread=3.0), ALL_SQUARES[5:6]

    def ratio(samples: int, doubly: bool) -> float:
        found = []
        with seeded(2):
            for _ in range(400):
                found.append(
                    gradients(vae, x, samples=samples, doubly=doubly)[
                        "encoder.network.layers.2.bias"
                    ]
                )
        drawn = torch.stack(found)
        return float((drawn.mean(0).abs() / drawn.std(0))[0])

    plain, mended = ([ratio(samples, doubly) for samples in (1, 64)] for doubly in (False, True))
    assert plain[1] < 0.5 * plain[0] < mended[1]


def test_iwae_of_nothing_is_refused():
    for wrong in ({"samples": 0}, {"kept": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            o.iwae_elbo(tiny_vae(), random_images(2), **wrong)
    with torch.no_grad():  # evaluation needs no gradient
        assert set(o.iwae_elbo(tiny_vae(), random_images(2), doubly=True)) == {
            "loss",
            "negative_elbo",
        }


@pytest.mark.parametrize("kind", [LadderVAE, HierarchicalVAE])
def test_a_hierarchy_is_trained_on_the_weighted_bound_too(kind):
    with seeded(0):
        model = kind((1, 8, 8), vt.Bernoulli((1, 8, 8)), (3, 2), (16, 8), batch_norm=False)
    x = (torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    with seeded(5):
        terms = o.iwae_elbo(model, x, samples=7)
    terms["loss"].sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with seeded(5):
        weights = model.log_weights(x, 7).double()
    bound = (weights - weights.max()).exp().mean(0).log() + weights.max()  # as it is written
    assert torch.allclose(terms["loss"].double(), -bound, atol=1e-4)
    assert torch.allclose(terms["negative_elbo"].double(), -weights.mean(0), atol=1e-4)
    (-bound).sum().backward()
    for a, p in zip(found, model.parameters(), strict=True):
        assert torch.allclose(a, p.grad, atol=1e-3)
    for wrong in ({"kept": 1}, {"doubly": True}):
        with pytest.raises(ValueError, match="plain gradient"):
            o.iwae_elbo(model, x, **wrong)


def test_label_loss_against_scipy():
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 4
    terms = o.label_loss(lambda x: logits, torch.zeros(9, 1, 2, 2), labels)
    expected = -special.log_softmax(logits.double().numpy(), axis=1)[np.arange(9), labels]
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["bits"], expected / np.log(2), rtol=1e-5)
    assert terms["nats"] is terms["loss"]
    np.testing.assert_array_equal(terms["error"], np.argmax(logits.numpy(), 1) != labels.numpy())
