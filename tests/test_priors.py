"""Priors: the standard normal and its closed-form KL, and the flow that is learnt."""

from __future__ import annotations

import pytest
import torch
from tiny import random_images, tiny_vae
from torch.distributions import MultivariateNormal, kl_divergence

from vae_tutorial import VAE, elbo, objectives
from vae_tutorial.posteriors import FullCovarianceGaussian, MeanFieldGaussian
from vae_tutorial.priors import AutoregressiveFlow, StandardNormal
from vae_tutorial.randomness import seeded


def drawn_flow(latent_dim=5, hidden=(16, 16), seed=0, **kwargs) -> AutoregressiveFlow:
    """A flow that is far from the identity."""
    with seeded(seed), torch.no_grad():
        flow = AutoregressiveFlow(latent_dim, list(hidden), **kwargs).double()
        flow.gain.normal_()
        for parameter in flow.made.parameters():
            parameter.mul_(2)
    return flow


@pytest.mark.parametrize("d", [1, 2, 20])
def test_kl_of_a_full_covariance(d):
    """In closed form, which is what the objective takes, without a look at z; by Monte Carlo."""
    posterior, prior = FullCovarianceGaussian(d), StandardNormal(d).double()()
    torch.manual_seed(0)
    q = posterior(torch.randn(4, *posterior.param_shape).double())
    z = q.sample((40_000,))
    difference = q.log_prob(z) - prior.log_prob(z)
    closed = objectives.kl_divergence(q, prior, None)
    assert ((closed - difference.mean(0)).abs() < 5 * difference.std(0) / 200).all()


def test_kl_near_the_prior_is_small_and_not_negative():
    """In float32 the general formula is off by 1e-6 here, and as often below zero as above."""
    d = 8
    parameters = 1e-4 * torch.randn(500, 44, generator=torch.Generator().manual_seed(0))
    mean, v, below = parameters.double().split([d, d, 28], dim=1)
    expected = 0.5 * (mean**2 + torch.expm1(v) - v).sum(1) + 0.5 * below.square().sum(1)
    posterior, prior = FullCovarianceGaussian(d), StandardNormal(d)()
    kl = kl_divergence(posterior(parameters), prior)
    torch.testing.assert_close(kl, expected.float(), rtol=5e-3, atol=0)
    for scale in (1.0, 1e-2, 1e-5, 0.0):  # at last float64 is not enough either
        assert (kl_divergence(posterior(parameters.double() * scale), prior) >= 0).all()


def test_kl_has_the_shape_of_the_batch_and_a_gradient():
    posterior, prior = FullCovarianceGaussian(3), StandardNormal(3)()
    shared = MultivariateNormal(torch.zeros(5, 3), scale_tril=torch.eye(3))
    assert kl_divergence(shared, prior).shape == (5,)
    assert kl_divergence(shared.expand((2, 5)), prior.expand((2, 5))).shape == (2, 5)
    parameters = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: kl_divergence(posterior(p), prior), (parameters,))
    exact, half = (kl_divergence(posterior(p), prior) for p in (parameters, parameters.half()))
    torch.testing.assert_close(half, exact.float(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("family", "size"), [(MeanFieldGaussian, 1e18), (FullCovarianceGaussian, 1e12),
                                              (MeanFieldGaussian, 1.0)])  # fmt: skip
def test_kl_of_any_network_output_is_finite(family, size):
    posterior = family(2)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * posterior.param_shape[0])
    kl = kl_divergence(posterior(signs * size), StandardNormal(2)())
    assert kl.isfinite().all()
    assert (kl > -1e-6).all()


def test_the_flow_starts_as_the_standard_normal():
    flow, z = AutoregressiveFlow(3, (8,)), torch.randn(10, 3)
    torch.testing.assert_close(flow().log_prob(z), StandardNormal(3)().log_prob(z))
    with seeded(0):
        expected = StandardNormal(3)().sample((4,))
    with seeded(0):
        torch.testing.assert_close(flow().sample((4,)), expected)


def test_latents_to_noise_and_back():
    flow, z = drawn_flow(), torch.randn(4, 7, 5).double()
    p, (epsilon, log_determinant) = flow(), flow.to_noise(z)
    shift, log_scale = flow.conditionals(z)
    torch.testing.assert_close(shift + epsilon * log_scale.exp(), z)
    torch.testing.assert_close(flow.from_noise(epsilon), z)
    torch.testing.assert_close(p.log_prob(z), flow.base().log_prob(epsilon) + log_determinant)
    assert (p.batch_shape, p.event_shape) == ((), (5,))


def test_density_adds_up_to_one_and_samples_follow_it():
    flow = drawn_flow(2, (8, 8), seed=3, log_scale_bound=1.0)
    axis = torch.linspace(-40, 40, 801).double()
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad(), seeded(0):
        density = flow().log_prob(grid).exp() * float(axis[1] - axis[0]) ** 2
        z = flow().sample((40_000,))
    assert float(density.sum()) == pytest.approx(1, abs=2e-3)
    for region in (lambda p: p[:, 1] > 0.05, lambda p: (p**2).sum(1) < 2):
        expected = float(density[region(grid)].sum())
        assert float(region(z).double().mean()) == pytest.approx(expected, abs=0.01)


def test_gradients_reach_every_weight_and_extreme_latents_stay_finite():
    flow = drawn_flow(3, (6,)).float()
    z = torch.tensor([[1e3, -1e3, 50.0], [0.0, 0.0, 0.0]]).requires_grad_()
    log_prob = flow().log_prob(z)
    log_prob.sum().backward()
    for numbers in (log_prob, z.grad, *(parameter.grad for parameter in flow.parameters())):
        assert numbers.isfinite().all()


def test_a_flow_learns_a_correlated_gaussian():
    """Its best negative log-likelihood is the entropy: an affine flow contains every Gaussian."""
    covariance = torch.tensor([[1.0, 0.9, 0.3], [0.9, 2.0, 0.0], [0.3, 0.0, 0.5]])
    target = MultivariateNormal(torch.tensor([1.0, -2.0, 0.0]), covariance)
    with seeded(0):
        flow = AutoregressiveFlow(3, (32,))
        optimizer = torch.optim.Adam(flow.parameters(), 0.01)
        for step in range(600):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 600)
            optimizer.zero_grad()
            (-flow().log_prob(target.sample((256,))).mean()).backward()
            optimizer.step()
        reached = float(-flow().log_prob(target.sample((20_000,))).mean().detach())
    assert reached == pytest.approx(float(target.entropy()), abs=0.03)


def test_a_vae_with_a_flow_prior_estimates_its_kl():
    plain = tiny_vae(latent_dim=3)
    vae, x = VAE(plain.encoder, plain.decoder, AutoregressiveFlow(3, (16,))), random_images(64)
    q, p = vae.encoder(x), vae.prior()
    with seeded(0):
        z = q.sample((50,))
    estimate = objectives.kl_divergence(q, p, z)
    assert torch.equal(estimate, objectives.kl_monte_carlo(q, p, z))
    # At the start the prior is N(0, I), so the estimate is near the closed form.
    exact = kl_divergence(q, plain.prior())
    assert float((estimate - exact).mean().detach()) == pytest.approx(0, abs=0.1)
    elbo(vae, x)["loss"].mean().backward()
    assert vae.prior.gain.grad.abs().min() > 0


@pytest.mark.parametrize("family", [StandardNormal, AutoregressiveFlow])
@pytest.mark.parametrize("latent_dim", [0, -1, True, 2.5, "2"])
def test_misuse_is_named(family, latent_dim):
    with pytest.raises(ValueError, match="latent_dim"):
        family(latent_dim)
    with pytest.raises(ValueError, match="log_scale_bound"):
        AutoregressiveFlow(2, log_scale_bound=0)
