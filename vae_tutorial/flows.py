"""Flows: invertible maps with a determinant, as transforms of ``torch.distributions``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Transform, constraints


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
