"""Autoregressive transforms: both directions, the determinant, how often they ask."""

import numpy as np
import scipy.stats
import torch
from torch.autograd.functional import jacobian
from torch.distributions import ComposeTransform, TransformedDistribution

from vae_tutorial.flows import AutoregressiveTransform, Reverse
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
