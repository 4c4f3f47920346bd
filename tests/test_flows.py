"""Autoregressive transforms: both directions, the determinant, how often they ask."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch.autograd.functional import jacobian
from torch.distributions import ComposeTransform, TransformedDistribution

from vae_tutorial.flows import AutoregressiveTransform, ContinuousFlow, Reverse, slopes_along
from vae_tutorial.networks import MADE
from vae_tutorial.priors import StandardNormal
from vae_tutorial.randomness import seeded

D, BASE = 5, StandardNormal(5).double()()


def drawn(cache_size=0):
    """A transform that is far from the identity, what it asked for, and its network."""
    with seeded(0):
        made = MADE(D, 2, (16,)).double()
    asked = []

    def conditionals(z):
        asked.append(tuple(z.shape))
        shift, log_scale = (3 * made(z)).unbind(-2)
        return shift, torch.tanh(log_scale)

    return AutoregressiveTransform(conditionals, cache_size), asked, made


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


def test_a_linear_chain_is_the_gaussian_that_it_must_be():
    """z_i = a z_(i-1) + b + c epsilon_i: z = A^-1 (b + c epsilon), A bidiagonal."""
    a, b, c = 0.8, 0.3, 0.5

    def conditionals(z):
        before = torch.nn.functional.pad(z[..., :-1], (1, 0))
        return a * before + b, torch.full_like(z, np.log(c))

    p, z = TransformedDistribution(BASE, [AutoregressiveTransform(conditionals)]), noise(2, 7, D)
    inverse = np.linalg.inv(np.eye(D) - a * np.eye(D, k=-1))
    expected = scipy.stats.multivariate_normal(inverse @ np.full(D, b), c**2 * inverse @ inverse.T)
    np.testing.assert_allclose(p.log_prob(z), expected.logpdf(z), rtol=1e-9)
    torch.testing.assert_close(p.transforms[0](z), (z * c + b) @ torch.from_numpy(inverse).T)


def test_there_and_back_and_the_determinant_is_autograds():
    transform, epsilon = drawn()[0], noise(4, 7, D)
    z = transform(epsilon)
    torch.testing.assert_close(transform.inv(z), epsilon)
    jacobians = torch.stack([jacobian(transform, one) for one in epsilon[0]])
    assert not jacobians.triu(1).any()
    found = transform.log_abs_det_jacobian(epsilon, z)[0]
    torch.testing.assert_close(torch.linalg.slogdet(jacobians)[1], found)
    for direction in (transform, transform.inv):
        assert torch.autograd.gradcheck(direction, (noise(2, D).requires_grad_(),))


def test_d_passes_to_draw_and_one_for_the_density():
    transform, asked, _ = drawn()
    p = TransformedDistribution(BASE, [transform])
    z = p.sample((3,))
    assert asked == [(3, D)] * D
    p.log_prob(z)
    assert len(asked) == D + 1
    # In the other direction, as a flow posterior does: torch's cache spares it the D passes back.
    transform, asked, _ = drawn(cache_size=1)
    q = TransformedDistribution(BASE, [transform.inv])
    assert q.log_prob(q.rsample((3,))).shape == (3,)
    assert len(asked) == 1


def test_nothing_stale_is_handed_over():
    transform, _, made = drawn()
    p = TransformedDistribution(BASE, [transform])
    z = p.sample((3,))  # without a gradient, which must not be what log_prob then has
    wanted = torch.autograd.grad(p.log_prob(z.clone()).sum(), made.layers[0].weight)
    found = torch.autograd.grad(p.log_prob(z).sum(), made.layers[0].weight)
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        epsilon = transform.inv(z)
    assert transform.log_abs_det_jacobian(epsilon, z).requires_grad
    p.log_prob(z)
    z += 1
    found, wanted = (transform.log_abs_det_jacobian(epsilon, at) for at in (z, z.clone()))
    torch.testing.assert_close(found, wanted)


def test_it_composes_as_torchs_transforms_do():
    (first, asked, _), second = drawn(), drawn()[0]
    p = TransformedDistribution(BASE, [first, second]).expand((2, 3))
    z = p.rsample((4,))
    assert (p.batch_shape, p.event_shape, z.shape) == ((2, 3), (D,), (4, 2, 3, D))
    both = ComposeTransform([first, second], cache_size=1)
    torch.testing.assert_close(both.inv(z), first.inv(second.inv(z)))
    asked.clear()
    both(both.inv(z))
    assert not asked  # both directions were kept


def test_reversed_order_is_a_flow_between_flows():
    reverse, z = Reverse(), noise(4, D)
    assert torch.equal(reverse(z), z[:, torch.arange(D - 1, -1, -1)])
    assert torch.equal(reverse.inv(reverse(z)), z)
    assert torch.equal(reverse.log_abs_det_jacobian(z, reverse(z)), torch.zeros(4).double())
    cached = reverse.with_cache()
    assert cached.inv(cached(z)) is z
    # After it the first dimension may depend on all others, and the last on none: a full Jacobian.
    both = ComposeTransform([drawn()[0], reverse, drawn()[0]])
    full = jacobian(both, z[0])
    assert full.abs().min() > 0
    found = both.log_abs_det_jacobian(z, both(z))[0]
    torch.testing.assert_close(torch.linalg.slogdet(full)[1], found)


LINEAR = 0.5 * np.array([[0.3, 1.0, 0.0], [-2.0, 0.1, 0.4], [0.0, 0.7, -1.1]])


def linear(z, t):
    """dz/dt = A z, whose solution is the matrix exponential; A is not symmetric."""
    return z @ torch.from_numpy(LINEAR).to(z).T


def curved(z, t):
    return torch.sin(2 * z.roll(1, -1)) + t * z.square().sum(-1, keepdim=True) / 10


def test_a_linear_field_is_the_matrix_exponential():
    grown = scipy.linalg.expm(LINEAR)
    expected = scipy.stats.multivariate_normal(np.zeros(3), grown @ grown.T)
    p = TransformedDistribution(StandardNormal(3).double()(), [ContinuousFlow(linear, steps=40)])
    epsilon = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1)).double()
    transform = p.transforms[0]
    np.testing.assert_allclose(transform(epsilon), epsilon.numpy() @ grown.T, rtol=1e-6)
    np.testing.assert_allclose(transform.inv(transform(epsilon)), epsilon, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(p.log_prob(epsilon), expected.logpdf(epsilon), rtol=1e-6)
    path = transform.path(epsilon)
    assert len(path) == 41
    np.testing.assert_allclose(
        path[20], epsilon.numpy() @ scipy.linalg.expm(LINEAR / 2).T, rtol=1e-6
    )


def test_the_determinant_is_that_of_the_map_that_the_steps_make():
    """Of a field that depends on time; the discretized map itself, by autograd. And of order four."""
    epsilon = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double()
    errors = []
    for steps in (10, 20):
        transform = ContinuousFlow(curved, steps)
        z = transform(epsilon)
        jacobians = torch.stack([jacobian(transform, one) for one in epsilon])
        determinants = torch.linalg.slogdet(jacobians)[1]
        errors.append((transform.log_abs_det_jacobian(epsilon, z) - determinants).abs().max())
    assert errors[0] < 1e-3
    assert 8 < errors[0] / errors[1] < 40


def test_slopes_are_the_jacobians_quadratic_forms():
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).double()
    field = lambda z: curved(z, 0.7)  # noqa: E731
    jacobians = torch.stack([jacobian(field, one) for one in z])
    directions = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(4)).double()
    values, slopes = slopes_along(field, z, directions)
    torch.testing.assert_close(values, field(z))
    torch.testing.assert_close(
        slopes, torch.einsum("kbi,bij,kbj->kb", directions, jacobians, directions)
    )
    traces = torch.einsum("bii->b", jacobians)
    torch.testing.assert_close(slopes_along(field, z, torch.eye(3).double())[1].sum(0), traces)
    # Over all corners of a cube the random signs of Hutchinson's estimate average to the trace.
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=3))).double()
    torch.testing.assert_close(slopes_along(field, z, corners)[1].mean(0), traces)


def test_probes_estimate_the_log_density_without_bias():
    z = torch.randn(3, generator=torch.Generator().manual_seed(5)).double().expand(4000, 3)
    with seeded(0):
        change = ContinuousFlow(linear, 10, probes=1).log_abs_det_jacobian(z, z)
        many = ContinuousFlow(linear, 10, probes=16).log_abs_det_jacobian(z, z)
    truth = np.trace(LINEAR)
    error = change.std() / len(z) ** 0.5
    assert 0.01 < error < 0.05
    assert abs(change.mean() - truth) < 4 * error
    assert 3 < change.std() / many.std() < 5  # a quarter, for sixteen times the probes


def test_a_continuous_flow_hands_over_nothing_stale():
    gain = torch.ones((), dtype=torch.float64, requires_grad=True)
    transform = ContinuousFlow(lambda z, t: gain * linear(z, t), 5)
    p = TransformedDistribution(StandardNormal(3).double()(), [transform])
    z = noise(4, 3)
    with torch.no_grad():
        transform.inv(z)
    transform.log_abs_det_jacobian(z, z).sum().backward()  # not what was found without a graph
    np.testing.assert_allclose(gain.grad, 4 * np.trace(LINEAR), rtol=1e-6)
    asked = []
    counting = ContinuousFlow(lambda z, t: asked.append(1) or linear(z, t), 5)
    TransformedDistribution(StandardNormal(3).double()(), [counting]).log_prob(z)
    assert len(asked) == 20  # one way back gives noise and determinant
    assert torch.autograd.gradcheck(p.log_prob, (noise(2, 3).requires_grad_(),))
    assert transform.with_cache(1).steps == 5
    for wrong in ({"steps": 0}, {"probes": 0}):
        with pytest.raises(ValueError, match="at least one"):
            ContinuousFlow(linear, **wrong)
