"""Priors p(z): what the latents are assumed to be before any image is seen."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from vae_tutorial.posteriors import check_latent_dim


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
