"""The deterministic autoencoder: an image to a code, the code to an image."""

import torch
from torch import Tensor, nn

from vae_tutorial.models.vae import Decoder
from vae_tutorial.spec import Part


class Autoencoder(Part):
    """Encoder and decoder without any probability over the codes.

    The encoder is any module from images (B, C, H, W) to codes (B, latent_dim); the decoder's
    likelihood says which loss a reconstruction has.

    Example:
        >>> from vae_tutorial import MLP, Autoencoder, Bernoulli, Decoder
        >>> decoder = Decoder(MLP(2, (1, 28, 28)), Bernoulli((1, 28, 28), greys=True))
        >>> Autoencoder(MLP((1, 28, 28), 2), decoder).reconstruct(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Tensor:
        """The codes (B, latent_dim) of images (B, C, H, W)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """The mean images (..., C, H, W) of codes (..., latent_dim)."""
        return self.decoder(z).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode, decode: the mean image (B, C, H, W), in [0, 1] under a Bernoulli."""
        return self.decode(self.encode(x))


def reconstruction_error(model: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    """The plain autoencoder's loss: -log p(x|z) at the one code z of x, (B,), in nats.

    No bound on anything: it does not say how probable an image is, and is not comparable with a
    negative ELBO. ``loss`` and ``reconstruction`` are the same number.
    """
    error = -model.decoder(model.encode(x)).log_prob(x)
    return {"loss": error, "reconstruction": error}
