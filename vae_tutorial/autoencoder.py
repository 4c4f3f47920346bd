"""The deterministic autoencoder: an image to a code, the code to an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_tutorial.vae import Decoder


class Autoencoder(nn.Module):
    """Encoder and decoder without any probability over the codes.

    Args:
        encoder: any module from images (B, C, H, W) to codes (B, latent_dim).
        decoder: a :class:`~vae_tutorial.vae.Decoder`: it says which loss a reconstruction has.

    Example:
        >>> from vae_tutorial import MLP, Autoencoder, Bernoulli, Decoder
        >>> shape = (1, 28, 28)
        >>> decoder = Decoder(MLP(2, shape), Bernoulli(shape, greys=True))
        >>> Autoencoder(MLP(shape, 2), decoder).reconstruct(torch.zeros(5, *shape)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, x: Tensor) -> Tensor:
        """The codes (B, latent_dim) of images (B, C, H, W)."""
        return self.encoder(x)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode, decode: the mean image (B, C, H, W), in [0, 1] under a Bernoulli."""
        return self.decoder(self.encode(x)).mean
