"""Priors p(z): what the latents are assumed to be before any image is seen."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.kl import register_kl

from vae_tutorial.flows import AutoregressiveTransform, Reverse
from vae_tutorial.networks import MADE, as_shape, check_latent_dim
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


class StackedFlow(Part):
    """Several flows one behind the other, the dimensions in reversed order between each two.

    A composition of flows is a flow, and its log-determinant is the sum of theirs: Papamakarios et
    al. (2017), section 3.1. What one affine flow cannot bend, two or three can.

    Called, it gives a distribution of batch shape ``()`` and event shape ``(D,)``.

    Args:
        flows: priors such as :class:`AutoregressiveFlow`, all of one ``latent_dim``; the first one
            meets the noise, the last one gives z.

    Example:
        >>> prior = StackedFlow([AutoregressiveFlow(2, hidden=(16,)) for _ in range(3)])
        >>> z = torch.randn(5, 2)
        >>> torch.allclose(prior().log_prob(z), StandardNormal(2)().log_prob(z))  # at the start
        True
    """

    def __init__(self, flows: Sequence[AutoregressiveFlow]) -> None:
        super().__init__()
        sizes = {flow.latent_dim for flow in flows}
        if len(sizes) != 1:
            raise ValueError(
                f"needs at least one flow, and all of one latent_dim, got {sorted(sizes)}"
            )
        (self.latent_dim,) = sizes
        self.flows = nn.ModuleList(flows)
        self.base = StandardNormal(self.latent_dim)

    def forward(self) -> Distribution:
        transforms = [t for flow in self.flows for t in (Reverse(), *flow().transforms)]
        return TransformedDistribution(self.base(), transforms[1:], validate_args=False)


class MixtureOfGaussians(Part):
    """A learnt prior without a network: M Gaussians, each with a weight, a mean, a covariance.

    r(z) = sum_m w_m N(z; mu_m, L_m L_m'), with softmax weights and lower triangular L_m. At the
    start the means are draws of N(0, I), and every covariance is I / 4.

    Called, it gives a distribution of batch shape ``()`` and event shape ``(D,)``.

    Args:
        latent_dim: D.
        components: M.

    Example:
        >>> MixtureOfGaussians(2, components=5)().log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(self, latent_dim: int, components: int = 100) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        (self.components,) = as_shape((components,), "components")
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_diagonals = nn.Parameter(torch.full((components, latent_dim), -math.log(2)))
        self.below = nn.Parameter(torch.zeros(components, latent_dim, latent_dim))

    def forward(self) -> Distribution:
        tril = self.below.tril(-1) + self.log_diagonals.exp().diag_embed()
        parts = MultivariateNormal(self.means, scale_tril=tril, validate_args=False)
        weights = Categorical(logits=self.logits, validate_args=False)
        return MixtureSameFamily(weights, parts, validate_args=False)


class VampPrior(Part):
    """A mixture of the posteriors of M images that are learnt, the "pseudo-inputs" u_m.

    r(z) = 1/M sum_m q(z|u_m), Tomczak & Welling (2018), section 3: an aggregate posterior of M
    images instead of N. The pixels of u_m are sigmoids of free numbers, so they stay in [0, 1].

    Called, it gives a distribution of batch shape ``()`` and event shape ``(D,)``.

    Args:
        encoder: from images to q(z|x). It is part of the prior: freeze it where it must not learn.
        image_shape: (C, H, W).
        components: M.
    """

    def __init__(
        self, encoder: nn.Module, image_shape: Sequence[int], components: int = 100
    ) -> None:
        super().__init__()
        (self.components,) = as_shape((components,), "components")
        self.encoder, self.latent_dim = encoder, encoder.posterior.latent_dim
        shape = as_shape(image_shape, "image_shape")
        self.pixels = nn.Parameter(torch.randn(components, *shape))

    @property
    def pseudo_inputs(self) -> Tensor:
        """The images u_m, (M, C, H, W)."""
        return self.pixels.sigmoid()

    def forward(self) -> Distribution:
        posteriors = self.encoder(self.pseudo_inputs)
        weights = Categorical(logits=self.pixels.new_zeros(self.components), validate_args=False)
        return MixtureSameFamily(weights, posteriors, validate_args=False)


def negative_log_density(prior: nn.Module, z: Tensor) -> dict[str, Tensor]:
    """What a prior costs on points or codes z (B, D): an objective for ``fit`` and ``evaluate``.

    Returns:
        ``nats``, -log r(z), (B,), and the same as ``loss``.
    """
    nats = -prior().log_prob(z)
    return {"loss": nats, "nats": nats}
