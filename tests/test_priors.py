"""Priors: the standard normal and its closed-form KL, and the flow that is learnt."""

import numpy as np
import pytest
import scipy.stats
import torch
from tiny import random_images, tiny_vae
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, kl_divergence

from vae_tutorial import VAE, elbo, objectives
from vae_tutorial.posteriors import FullCovarianceGaussian, MeanFieldGaussian
from vae_tutorial.priors import (
    AutoregressiveFlow,
    MixtureOfGaussians,
    StackedFlow,
    StandardNormal,
    VampPrior,
    negative_log_density,
)
from vae_tutorial.randomness import seeded


def drawn_flow(latent_dim: int, hidden: list[int]) -> AutoregressiveFlow:
    """A flow that is far from the identity."""
    with seeded(0), torch.no_grad():
        flow = AutoregressiveFlow(latent_dim, hidden).double()
        flow.gain.normal_()
        for parameter in flow.made.parameters():
            parameter.mul_(2)
    return flow


@pytest.mark.parametrize("d", [1, 2, 20])
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_kl_of_a_full_covariance(d, size):
    """Near the prior, in float32, torch's formula is off by 1e-6, and as often below zero as above."""
    posterior, prior = FullCovarianceGaussian(d, None), StandardNormal(d)()
    generator = torch.Generator().manual_seed(0)
    parameters = size * torch.randn(500, *posterior.param_shape, generator=generator)
    q = posterior(parameters.double())
    expected = 0.5 * (q.mean**2 + q.variance - 1 - parameters[:, d : 2 * d]).sum(1)
    kl = objectives.kl_divergence(posterior(parameters), prior, None)  # None: no look at any z
    torch.testing.assert_close(kl, expected.float(), rtol=5e-3, atol=1e-10)
    for scale in (1e-2, 1e-5, 0.0):  # at last float64 is not enough either
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


@pytest.mark.parametrize(
    ("family", "size"),
    [(MeanFieldGaussian, 1e18), (FullCovarianceGaussian, 1e12), (MeanFieldGaussian, 1.0)],
)
def test_kl_of_any_network_output_is_finite(family, size):
    posterior = family(2)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * posterior.param_shape[0])
    kl = kl_divergence(posterior(signs * size), StandardNormal(2)())
    assert kl.isfinite().all()
    assert (kl > -1e-6).all()


def test_latents_to_noise_and_back():
    flow, z = drawn_flow(5, [16, 16]), torch.randn(4, 7, 5).double()
    p, (epsilon, log_determinant) = flow(), flow.to_noise(z)
    shift, log_scale = flow.conditionals(z)
    torch.testing.assert_close(shift + epsilon * log_scale.exp(), z)
    torch.testing.assert_close(flow.from_noise(epsilon), z)
    torch.testing.assert_close(p.log_prob(z), flow.base().log_prob(epsilon) + log_determinant)
    assert (p.batch_shape, p.event_shape) == ((), (5,))


def test_gradients_reach_every_weight_and_extreme_latents_stay_finite():
    flow = drawn_flow(3, [6]).float()
    z = torch.tensor([[1e3, -1e3, 50.0], [0.0, 0.0, 0.0]]).requires_grad_()
    log_prob = flow().log_prob(z)
    log_prob.sum().backward()
    for numbers in (log_prob, z.grad, *(parameter.grad for parameter in flow.parameters())):
        assert numbers.isfinite().all()
        assert numbers.any()


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
    assert vae.prior.gain.grad.abs().min() > 0  # from where it starts it can learn


@pytest.mark.parametrize("family", [StandardNormal, AutoregressiveFlow])
@pytest.mark.parametrize("latent_dim", [0, -1, True, 2.5, "2"])
def test_misuse_is_named(family, latent_dim):
    with pytest.raises(ValueError, match="latent_dim"):
        family(latent_dim)
    with pytest.raises(ValueError, match="log_scale_bound"):
        AutoregressiveFlow(2, log_scale_bound=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_stack_of_flows_has_the_density_of_its_jacobian(count):
    prior = StackedFlow([drawn_flow(4, [16]) for _ in range(count)]).double()
    p, (flow, *more) = prior(), prior.flows
    with seeded(1):
        epsilon = torch.randn(6, 4).double()

    def by_hand(noise):
        """The first flow meets the noise; before each further one the order is reversed."""
        z = flow.from_noise(noise)
        for further in more:
            z = further.from_noise(z.flip(-1))
        return z

    z = by_hand(epsilon)
    volumes = torch.linalg.slogdet(torch.stack([jacobian(by_hand, one) for one in epsilon]))[1]
    expected = scipy.stats.norm.logpdf(epsilon).sum(1) - volumes.detach().numpy()
    np.testing.assert_allclose(p.log_prob(z).detach(), expected, rtol=1e-6)
    with seeded(2):
        drawn = p.sample((3,))
    with seeded(2):
        torch.testing.assert_close(drawn, by_hand(p.base_dist.sample((3,))).detach())


def test_a_stack_integrates_to_one_and_needs_flows_of_one_size():
    with seeded(0):
        prior = StackedFlow([drawn_flow(2, [8]).float() for _ in range(2)])
    axis = torch.linspace(-25, 25, 1001)
    with torch.no_grad():
        density = prior().log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.sum()) * 0.05**2 == pytest.approx(1, abs=0.01)
    for flows in ([], [AutoregressiveFlow(2, (4,)), AutoregressiveFlow(3, (4,))]):
        with pytest.raises(ValueError, match="latent_dim"):
            StackedFlow(flows)


def test_a_mixture_is_scipys_and_learns():
    with seeded(0), torch.no_grad():
        prior = MixtureOfGaussians(3, components=4).double()
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    z, expected = torch.randn(5, 3).double(), 0
    for i, weight in enumerate(prior.logits.softmax(0).tolist()):
        lower = prior.below[i].tril(-1) + prior.log_diagonals[i].exp().diag()
        part = (prior.means[i].detach(), (lower @ lower.T).detach())
        expected += weight * scipy.stats.multivariate_normal(*part).pdf(z)
    log_prob = prior().log_prob(z)
    np.testing.assert_allclose(log_prob.detach().exp(), expected, rtol=1e-9)
    log_prob.sum().backward()
    assert all(parameter.grad.any() for parameter in prior.parameters())
    assert prior().sample((7,)).shape == (7, 3)


def test_a_vampprior_is_the_average_of_the_pseudo_inputs_posteriors():
    encoder = tiny_vae((1, 8, 8), latent_dim=3).encoder
    with seeded(0):
        prior = VampPrior(encoder, (1, 8, 8), components=5)
    assert prior.latent_dim == 3
    assert ((prior.pseudo_inputs > 0) & (prior.pseudo_inputs < 1)).all()
    z = torch.randn(4, 3)
    each = torch.stack([encoder(u[None]).log_prob(z) for u in prior.pseudo_inputs])  # (5, 4)
    torch.testing.assert_close(prior().log_prob(z), each.exp().mean(0).log())
    assert prior().sample((7,)).shape == (7, 3)
    encoder.requires_grad_(False)
    prior().log_prob(z).sum().backward()
    assert prior.pixels.grad.any()


@pytest.mark.parametrize("components", [0, -1, 2.5, "2"])
def test_mixtures_need_components(components):
    with pytest.raises(ValueError, match="components"):
        MixtureOfGaussians(2, components)
    with pytest.raises(ValueError, match="components"):
        VampPrior(tiny_vae().encoder, (1, 8, 8), components)


def test_what_a_prior_costs():
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    terms = negative_log_density(StandardNormal(3).double(), z)
    expected = -scipy.stats.multivariate_normal(np.zeros(3), np.eye(3)).logpdf(z)
    np.testing.assert_allclose(terms["nats"], expected)
    assert terms["loss"] is terms["nats"]
