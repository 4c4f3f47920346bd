"""Priors: the standard normal and its closed-form KL, and the flow that is learnt."""

import pytest
import torch
from tiny import random_images, tiny_vae
from torch.distributions import MultivariateNormal, kl_divergence

from vae_tutorial import VAE, elbo, objectives
from vae_tutorial.posteriors import FullCovarianceGaussian, MeanFieldGaussian
from vae_tutorial.priors import AutoregressiveFlow, StandardNormal
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
