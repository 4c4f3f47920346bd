"""Priors p(z): what the latents are assumed to be before any image is seen."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.kl import register_kl

from vae_tutorial.flows import AutoregressiveTransform
from vae_tutorial.networks import MADE, check_latent_dim
from vae_tutorial.posteriors import bounded, check_bound
from vae_tutorial.spec import Part


class IndependentStandardNormal(Independent):
    """N(0, I) under a name of its own, so that a closed form can be chosen without a look at numbers.

    Example:
        >>> p = StandardNormal(2)()
        >>> type(p).__name__, p.event_shape
        ('IndependentStandardNormal', torch.Size([2]))
    """


@register_kl(MultivariateNormal, IndependentStandardNormal)
def _kl_full_standard(q: MultivariateNormal, p: IndependentStandardNormal) -> Tensor:
    """KL(N(mu, L L') || N(0, I)), Rasmussen & Williams (2006), equation A.23: shape (B,), in nats.

    Near the prior it is a small difference of large numbers, which float32 gets wrong by 1e-6. So
    it is computed in float64 (which Apple's GPUs do not have), and rounded up to zero.
    """
    wide = torch.float32 if q.loc.device.type == "mps" else torch.float64
    both = ((q.loc, q.scale_tril), (p.mean, p.stddev.diag_embed()))
    normals = (
        MultivariateNormal(mean.to(wide), scale_tril=tril.to(wide), validate_args=False)
        for mean, tril in both
    )
    kl = kl_divergence(*normals)
    return kl.clamp(min=0).to(torch.promote_types(q.loc.dtype, torch.float32))


class StandardNormal(Part):
    """The centred isotropic Gaussian p(z) = N(z; 0, I), Kingma & Welling (2013), section 3.

    Called, it gives a distribution of batch shape ``()`` and event shape ``(D,)``.

    Args:
        latent_dim: D, the number of latent dimensions.

    Example:
        >>> StandardNormal(2)().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        # Buffers travel with .to(device); they never change, so no file has to keep them.
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        return IndependentStandardNormal(Normal(self.mean, self.scale, validate_args=False), 1)


class AutoregressiveFlow(Part):
    """A learnt prior: standard normal noise through an affine autoregressive flow with a MADE inside.

    The prior of the variational lossy autoencoder (Chen et al. 2017, section 3.2): log p(z) = log
    N(epsilon; 0, I) - sum_i s_i, with m, s and epsilon as in
    :class:`~vae_tutorial.flows.AutoregressiveTransform`. At the start m and s are zero.

    Called, it gives a distribution of batch shape ``()`` and event shape ``(D,)``.

    Args:
        latent_dim: D.
        hidden: widths of the MADE's hidden layers.
        log_scale_bound: s is squashed smoothly to plus or minus this.

    Example:
        >>> prior, z = AutoregressiveFlow(2, hidden=(16,)), torch.randn(5, 2)
        >>> torch.allclose(prior().log_prob(z), StandardNormal(2)().log_prob(z))  # at the start
        True
    """

    def __init__(
        self, latent_dim: int, hidden: Sequence[int] = (512, 512), log_scale_bound: float = 5.0
    ) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        self.log_scale_bound = check_bound(log_scale_bound, "log_scale_bound")
        self.made = MADE(latent_dim, 2, hidden)
        self.base = StandardNormal(latent_dim)
        self.gain = nn.Parameter(torch.zeros(2, latent_dim))  # so the flow starts as the identity

    def conditionals(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """m and s, each (..., D): of z_i given z_<i the mean, and the logarithm of the scale."""
        shift, log_scale = (self.gain * self.made(z)).unbind(-2)  # each (..., D)
        return shift, bounded(log_scale, self.log_scale_bound)

    def to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., D) to epsilon (..., D), and log |det d epsilon / d z| (...)."""
        inverse = AutoregressiveTransform(self.conditionals).inv
        epsilon = inverse(z)
        return epsilon, inverse.log_abs_det_jacobian(z, epsilon)

    def from_noise(self, epsilon: Tensor) -> Tensor:
        """epsilon (..., D) to z (..., D): one dimension after the other."""
        return AutoregressiveTransform(self.conditionals)(epsilon)

    def forward(self) -> Distribution:
        transform = AutoregressiveTransform(self.conditionals)
        return TransformedDistribution(self.base(), [transform], validate_args=False)
