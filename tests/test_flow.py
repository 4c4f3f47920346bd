"""The autoregressive flow prior: its structure, its density, its samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_images, tiny_vae
from torch.distributions import MultivariateNormal

from vae_tutorial import elbo, fit
from vae_tutorial.objectives import kl_divergence, kl_monte_carlo
from vae_tutorial.priors import MADE, AutoregressiveFlow, MaskedLinear
from vae_tutorial.randomness import seeded
from vae_tutorial.vae import VAE


def drawn_flow(latent_dim=5, hidden=(16, 16), seed=0, **kwargs) -> AutoregressiveFlow:
    """A flow that is far from the identity."""
    with seeded(seed):
        flow = AutoregressiveFlow(latent_dim, hidden, **kwargs).double()
        with torch.no_grad():
            flow.gain.normal_()
            for parameter in flow.made.parameters():
                parameter.mul_(2)
    return flow


@settings(deadline=None, max_examples=20)
@given(d=st.integers(1, 9), hidden=st.lists(st.integers(1, 20), min_size=0, max_size=3))
def test_made_is_autoregressive(d, hidden):
    with seeded(d):
        made = MADE(d, 2, hidden).double()
    z = torch.randn(d, generator=torch.Generator().manual_seed(1)).double()
    jacobian = torch.autograd.functional.jacobian(made, z)  # (2, D, D)
    assert made(z).shape == (2, d)
    assert not jacobian.triu().any()  # output i does not move with z_i, z_(i+1), ...


def test_made_uses_everything_that_it_may():
    made = MADE(6, 2, (64, 64)).double()
    z = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    for output in range(2):
        for i in range(6):
            (gradient,) = torch.autograd.grad(made(z)[:, output, i].sum(), z)
            assert gradient[:, :i].abs().sum(0).gt(0).all()


def test_training_cannot_fill_in_a_masked_weight():
    made = MADE(4, 1, (12,))
    optimizer = torch.optim.Adam(made.parameters(), 0.1)
    x = torch.randn(50, 4)
    for _ in range(5):
        optimizer.zero_grad()
        (made(x).squeeze(-2) - x).square().mean().backward()
        optimizer.step()
    jacobian = torch.autograd.functional.jacobian(lambda z: made(z)[0], torch.randn(4))
    assert not jacobian.triu().any()
    assert all("mask" not in key for key in made.state_dict())  # rebuilt, not stored
    layer = MaskedLinear(torch.tensor([[1, 0]]))
    layer.weight.data.fill_(3.0)
    assert layer(torch.tensor([[0.0, 5.0]])).item() == pytest.approx(layer.bias.item())


def test_the_flow_starts_as_the_standard_normal():
    flow = AutoregressiveFlow(3, (8,))
    z = torch.randn(10, 3)
    assert torch.allclose(flow().log_prob(z), flow.base().log_prob(z))


def test_the_inverse_is_the_inverse():
    flow = drawn_flow()
    epsilon = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(2)).double()
    z = flow.from_noise(epsilon)
    assert z.shape == epsilon.shape
    torch.testing.assert_close(flow.to_noise(z)[0], epsilon)


def test_the_log_determinant_is_autograds():
    flow = drawn_flow()
    for seed in range(3):
        z = torch.randn(5, generator=torch.Generator().manual_seed(seed)).double()
        jacobian = torch.autograd.functional.jacobian(lambda z: flow.to_noise(z)[0], z)
        assert not jacobian.triu(1).any()  # triangular
        _, expected = torch.linalg.slogdet(jacobian)
        torch.testing.assert_close(flow.to_noise(z)[1], expected)


def test_the_density_integrates_to_one():
    flow = drawn_flow(2, (8, 8), seed=3, log_scale_bound=1.0)
    axis = torch.linspace(-40, 40, 1601).double()
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = flow().log_prob(grid).exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=2e-3)


def test_samples_follow_the_density():
    """In two dimensions: the share of samples in the right half against the density's integral."""
    flow = drawn_flow(2, (8, 8), seed=3, log_scale_bound=1.0)
    axis = torch.linspace(-40, 40, 1601).double()
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad(), seeded(0):
        density = flow().log_prob(grid).exp() * float(axis[1] - axis[0]) ** 2
        z = flow().sample((40_000,))
    for region in (lambda p: p[:, 1] > 0, lambda p: (p**2).sum(1) < 2):
        expected = float(density[region(grid)].sum())
        assert float(region(z).double().mean()) == pytest.approx(expected, abs=0.01)


def test_gradients_reach_every_weight_and_pass_gradcheck():
    flow = drawn_flow(3, (6,))
    z = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: flow().log_prob(v), (z,))
    flow().log_prob(z).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    epsilon = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(flow.from_noise, (epsilon,))


def test_a_flow_learns_a_correlated_gaussian():
    """Its best negative log-likelihood is the entropy: an affine flow contains every Gaussian."""
    covariance = torch.tensor([[1.0, 0.9, 0.3], [0.9, 2.0, 0.0], [0.3, 0.0, 0.5]])
    target = MultivariateNormal(torch.tensor([1.0, -2.0, 0.0]), covariance)
    with seeded(0):
        flow = AutoregressiveFlow(3, (32,))
        optimizer = torch.optim.Adam(flow.parameters(), 0.01)
        for step in range(600):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - step / 600)
            loss = -flow().log_prob(target.sample((256,))).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reached = float(-flow().log_prob(target.sample((20_000,))).mean().detach())
    assert reached == pytest.approx(float(target.entropy()), abs=0.03)


def test_a_vae_trains_with_a_flow_prior_and_its_kl_is_monte_carlo():
    vae = tiny_vae(latent_dim=3)
    flowing = VAE(vae.encoder, vae.decoder, AutoregressiveFlow(3, (16,)))
    x = random_images(64)
    q = flowing.encoder(x)
    with seeded(0):
        z = q.sample((50,))
    prior = flowing.prior()
    assert torch.equal(kl_divergence(q, prior, z), kl_monte_carlo(q, prior, z))
    # At the start the prior is N(0, I), so the estimate is near the closed form.
    exact = kl_divergence(q, vae.prior(), z)
    assert float((kl_monte_carlo(q, prior, z) - exact).mean().detach()) == pytest.approx(0, abs=0.1)
    history = fit(flowing, elbo, x, epochs=30, batch_size=32, learning_rate=0.01, progress=False)
    rows = history[history.scope == "epoch"]
    assert rows.loss.iloc[-1] < rows.loss.iloc[0]
    assert flowing.prior.gain.detach().abs().sum() > 0
    assert flowing.sample(5, seed=0).shape == (5, 1, 28, 28)
    assert torch.equal(flowing.sample(5, seed=0), flowing.sample(5, seed=0))


def test_extreme_latents_give_finite_densities():
    flow = drawn_flow(4, (16,)).float()
    z = torch.tensor([[1e3, -1e3, 0.0, 50.0], [0.0, 0.0, 0.0, 0.0]]).requires_grad_()
    log_prob = flow().log_prob(z)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("latent_dim", [0, -1, 2.0, True])
def test_a_flow_needs_a_latent_dimension(latent_dim):
    with pytest.raises(ValueError, match="latent_dim must be a whole number"):
        AutoregressiveFlow(latent_dim)


def test_a_flow_needs_a_positive_bound():
    with pytest.raises(ValueError, match="log_scale_bound must be positive"):
        AutoregressiveFlow(2, log_scale_bound=0)
