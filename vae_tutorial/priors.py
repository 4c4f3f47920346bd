"""Priors p(z): what the latents are assumed to be before any image is seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_tutorial.posteriors import bounded, check_latent_dim


class IndependentStandardNormal(Independent):
    """N(0, I) under a name of its own, so that a closed form can be chosen without a look at numbers."""


class StandardNormal(nn.Module):
    """The centred isotropic Gaussian p(z) = N(z; 0, I), Kingma & Welling (2013), section 3.

    Called without arguments it answers with a distribution of batch shape ``()`` and event shape
    ``(latent_dim,)``, on the device that the module was moved to.

    Args:
        latent_dim: D, the number of latent dimensions.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        # Buffers travel with .to(device); they never change, so no file has to keep them.
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        return IndependentStandardNormal(Normal(self.mean, self.scale, validate_args=False), 1)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}"


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero by a mask.

    The mask is a buffer and is applied in every forward pass, so no optimizer step can fill in a
    weight that must be zero: Germain et al. (2015), equation 8.

    Args:
        mask: (out_features, in_features), of zeros and ones.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """A masked autoencoder: output i of an input z depends on z_1, ..., z_(i-1) alone.

    Each unit gets a degree. Input i has degree i; a hidden unit with degree m may look at units
    of degree at most m, and output i at hidden units of degree below i: Germain et al. (2015),
    equations 12 and 13. Degrees of hidden units go round 1, ..., D - 1, so that no draw decides
    what can be learnt.

    Args:
        latent_dim: D.
        outputs: numbers for each dimension.
        hidden: widths of the hidden layers.

    Shape:
        ``(..., D) -> (..., outputs, D)``
    """

    def __init__(
        self, latent_dim: int, outputs: int = 2, hidden: Sequence[int] = (512, 512)
    ) -> None:
        super().__init__()
        self.latent_dim, self.outputs = check_latent_dim(latent_dim), outputs
        degrees = [torch.arange(1, latent_dim + 1)]
        degrees += [torch.arange(width) % max(1, latent_dim - 1) + 1 for width in hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(degrees):
            layers += [MaskedLinear(after[:, None] >= before), nn.ReLU()]
        last = degrees[0].repeat(outputs)  # all first outputs, then all second ones
        self.layers = nn.Sequential(*layers, MaskedLinear(last[:, None] > degrees[-1]))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(-1, (self.outputs, self.latent_dim))


class _Autoregressive(Distribution):
    """What :class:`AutoregressiveFlow` answers with: batch shape (), event shape (D,)."""

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, flow: AutoregressiveFlow) -> None:
        self.flow = flow
        super().__init__(torch.Size(), torch.Size((flow.latent_dim,)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        epsilon, log_determinant = self.flow.to_noise(value)
        return self.flow.base().log_prob(epsilon) + log_determinant

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.flow.from_noise(self.flow.base().rsample(tuple(sample_shape)))


class AutoregressiveFlow(nn.Module):
    """A learnt prior: an affine autoregressive flow from latents to noise, with a MADE inside.

    epsilon_i = (z_i - m_i(z_<i)) exp(-s_i(z_<i)), with epsilon ~ N(0, I). The Jacobian is
    triangular, so log p(z) = log N(epsilon; 0, I) - sum_i s_i is exact, in one pass. This is the
    prior of the variational lossy autoencoder (Chen et al. 2017, section 3.2); sampling inverts
    the map, one dimension after the other: D passes.

    At the start m and s are zero, and the prior is the standard normal.

    Args:
        latent_dim: D.
        hidden: widths of the MADE's hidden layers.
        log_scale_bound: s is squashed smoothly to plus or minus this.

    Called without arguments it answers with a distribution of batch shape ``()`` and event shape
    ``(latent_dim,)``.
    """

    def __init__(
        self, latent_dim: int, hidden: Sequence[int] = (512, 512), log_scale_bound: float = 5.0
    ) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        if not log_scale_bound > 0:
            raise ValueError(f"log_scale_bound must be positive, got {log_scale_bound}")
        self.log_scale_bound = log_scale_bound
        self.made = MADE(latent_dim, 2, hidden)
        self.base = StandardNormal(latent_dim)
        self.gain = nn.Parameter(torch.empty(2, latent_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The gain of shifts and log-scales starts at zero: the flow starts as the identity."""
        nn.init.zeros_(self.gain)

    def conditionals(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, each (..., D): of z_i given z_<i the mean, and the logarithm of the scale."""
        shift, log_scale = (self.gain * self.made(z)).unbind(-2)  # each (..., D)
        return shift, bounded(log_scale, self.log_scale_bound)

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., D) to epsilon (..., D), and log |det d epsilon / d z| (...)."""
        shift, log_scale = self.conditionals(z)
        return (z - shift) * torch.exp(-log_scale), -log_scale.sum(-1)

    def from_noise(self, epsilon: Tensor) -> Tensor:
        """epsilon (..., D) to z (..., D): the inverse, one dimension at a time."""
        z = torch.zeros_like(epsilon)
        for i in range(self.latent_dim):  # dimension i needs those before it
            shift, log_scale = self.conditionals(z)
            new = shift[..., i] + epsilon[..., i] * torch.exp(log_scale[..., i])
            z = torch.cat([z[..., :i], new.unsqueeze(-1), z[..., i + 1 :]], dim=-1)
        return z

    def forward(self) -> Distribution:
        return _Autoregressive(self)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, log_scale_bound={self.log_scale_bound}"
