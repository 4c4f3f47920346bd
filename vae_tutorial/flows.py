"""Flows: invertible maps with a determinant, as transforms of ``torch.distributions``."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.func import jvp, vmap


class AutoregressiveTransform(Transform):
    """From noise to z, one dimension after the other: z_i = m_i(z_<i) + epsilon_i exp(s_i(z_<i)).

    The affine autoregressive flow of Papamakarios et al. (2017), equation 3: D passes. Its inverse,
    epsilon_i = (z_i - m_i) exp(-s_i), takes one (equation 4). The Jacobian is triangular, so
    log |det dz/d epsilon| = sum_i s_i.

    Args:
        conditionals: from z (..., D) to m and s, each (..., D), of which number i depends on z_1,
            ..., z_(i-1) alone, as those of a :class:`~vae_tutorial.networks.MADE`.
        cache_size: 1 keeps the last pair of noise and z, as all of torch's transforms can.

    Example:
        >>> def conditionals(z):  # z_2 is centred on z_1, both scales are 1
        ...     return torch.stack([0 * z[..., 0], z[..., 0]], -1), torch.zeros_like(z)
        >>> transform = AutoregressiveTransform(conditionals)
        >>> transform(torch.tensor([1.0, 2.0])), transform.inv(torch.tensor([1.0, 3.0]))
        (tensor([1., 3.]), tensor([1., 2.]))
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(
        self, conditionals: Callable[[Tensor], tuple[Tensor, Tensor]], cache_size: int = 0
    ) -> None:
        super().__init__(cache_size)
        self.conditionals = conditionals
        self._waiting: tuple = (None, None, None)

    def with_cache(self, cache_size: int = 1) -> AutoregressiveTransform:
        """The same transform with another size of cache."""
        return AutoregressiveTransform(self.conditionals, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(x.shape[-1]):  # each pass sets one more dimension right, for good
            shift, log_scale = self.conditionals(z)
            z = shift + x * torch.exp(log_scale)
        return z

    def _inverse(self, y: Tensor) -> Tensor:
        shift, log_scale = self.conditionals(y)
        # `log_prob` asks for the determinant next. Handed over once, and with its gradient or not
        # at all, so that neither a changed z nor changed weights meet what was computed before.
        self._waiting = (y, torch.is_grad_enabled(), log_scale)
        return (y - shift) * torch.exp(-log_scale)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |det dz/d epsilon| (...), of noise x and z = y, both (..., D)."""
        (known, graph, log_scale), self._waiting = self._waiting, (None, None, None)
        if known is not y or graph != torch.is_grad_enabled():
            _, log_scale = self.conditionals(y)
        return log_scale.sum(-1)


class Reverse(Transform):
    """The dimensions in reversed order: (..., D) to (..., D), and back by the same move.

    A permutation changes no volume, so log |det| = 0. Between two autoregressive transforms it makes
    the second one condition on what the first one left for last: Papamakarios et al. (2017).

    Example:
        >>> Reverse()(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 2., 1.])
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.flip(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero (...), of x and y (..., D)."""
        return torch.zeros_like(x[..., 0])

    def with_cache(self, cache_size: int = 1) -> Reverse:
        """The same transform with another size of cache."""
        return Reverse(cache_size)


def slopes_along(field: Callable[[Tensor], Tensor], z: Tensor, directions: Tensor) -> tuple:
    """A field at z, and e' J e for each direction e, with J = d field / d z at every point.

    Over the D unit vectors these numbers add up to the divergence. Over random directions with mean
    zero and covariance I, each is an unbiased estimate of it: Hutchinson's trick, as in Grathwohl et
    al. (2019), equation 7. Each costs one forward-mode derivative, and no matrix is ever made.

    Args:
        field: from (..., D) to (..., D), each point by itself.
        z: (..., D).
        directions: (K, D), or (K, ..., D) for directions of each point's own.

    Returns:
        The field's values (..., D), and the slopes (K, ...).

    Example:
        >>> field = lambda z: z * torch.tensor([1.0, 2.0])
        >>> slopes_along(field, torch.zeros(3, 2), torch.eye(2))[1].sum(0)  # the divergence
        tensor([3., 3., 3.])
    """

    def slope(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, change = jvp(field, (z,), (direction.expand_as(z),))
        return value, (change * direction).sum(-1)

    with (
        warnings.catch_warnings()
    ):  # torch compiles some derivatives on first use, in a way it regrets
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
        values, slopes = vmap(slope)(directions)
    return values[0], slopes


class ContinuousFlow(Transform):
    """From noise to z along a velocity field: dz/dt = v(z, t), from t = 0 to t = 1.

    A neural ordinary differential equation as a transform (Chen et al. 2018). No triangular network
    is needed: whatever the field, the path back exists, and the density changes along the way by the
    field's divergence, d log p / dt = - div v (their equation 8). So log |det dz / d epsilon| is the
    integral of div v. Classical Runge-Kutta steps of equal length; what they cost in accuracy shows
    when ``steps`` is doubled.

    Args:
        velocity: from z (..., D) and a time, a tensor without axes, to (..., D); each point by itself.
        steps: Runge-Kutta steps from 0 to 1, four evaluations of the field each.
        probes: ``None`` sums the divergence over all D directions, exactly. A number estimates it
            from so many random signs per point, the same ones along the whole way. The logarithm
            of the density is then unbiased, the density itself is not.
        cache_size: as for all of torch's transforms.

    Example:
        >>> import math
        >>> transform = ContinuousFlow(lambda z, t: math.log(2) * z)  # all numbers double
        >>> z = transform(torch.ones(2))
        >>> z.round(decimals=3), transform.log_abs_det_jacobian(torch.ones(2), z) / math.log(2)
        (tensor([2., 2.]), tensor(2.))
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        steps: int = 20,
        probes: int | None = None,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size)
        if steps < 1 or (probes is not None and probes < 1):
            raise ValueError(f"needs at least one step and one probe, got {steps} and {probes}")
        self.velocity, self.steps, self.probes = velocity, steps, probes
        self._waiting: tuple = (None, None, None)

    def with_cache(self, cache_size: int = 1) -> ContinuousFlow:
        """The same transform with another size of cache."""
        return ContinuousFlow(self.velocity, self.steps, self.probes, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return self.path(x)[-1]

    def path(self, noise: Tensor) -> list[Tensor]:
        """Noise (..., D) on its way: ``steps + 1`` points (..., D), the last one is z."""
        points, h = [noise], 1 / self.steps
        for i in range(self.steps):
            points.append(points[-1] + h * self._slope(self.velocity, points[-1], i * h, h))
        return points

    def _inverse(self, y: Tensor) -> Tensor:
        x, change = self._back(y)
        # `log_prob` asks for the determinant next; see AutoregressiveTransform.
        self._waiting = (y, torch.is_grad_enabled(), change)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |det dz/d epsilon| (...), of noise x and z = y, both (..., D)."""
        (known, graph, change), self._waiting = self._waiting, (None, None, None)
        if known is not y or graph != torch.is_grad_enabled():
            _, change = self._back(y)
        return change

    def _back(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The noise (..., D) that y came from, and the integral of the divergence (...)."""
        if self.probes is None:
            directions, weight = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device), 1.0
        else:
            directions = torch.randn(self.probes, *y.shape, dtype=y.dtype, device=y.device).sign()
            weight = 1 / self.probes

        def rates(state: Tensor, t: Tensor) -> Tensor:
            value, slopes = slopes_along(lambda z: self.velocity(z, t), state[..., :-1], directions)
            return torch.cat([value, weight * slopes.sum(0)[..., None]], -1)

        state, h = torch.cat([y, torch.zeros_like(y[..., :1])], -1), 1 / self.steps
        for i in range(self.steps, 0, -1):
            state = state - h * self._slope(rates, state, i * h, -h)
        return state[..., :-1], -state[..., -1]

    @staticmethod
    def _slope(rates: Callable, state: Tensor, t: float, h: float) -> Tensor:
        """The slope of one classical Runge-Kutta step of length h, from time t."""
        start, middle, end = (state.new_tensor(t + part * h) for part in (0.0, 0.5, 1.0))
        first = rates(state, start)
        second = rates(state + h / 2 * first, middle)
        third = rates(state + h / 2 * second, middle)
        return (first + 2 * second + 2 * third + rates(state + h * third, end)) / 6
