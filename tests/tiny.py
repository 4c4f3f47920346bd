"""Small models that several test files use."""

from __future__ import annotations

import torch

from vae_tutorial import MLP, VAE, Autoencoder, Bernoulli, MeanFieldGaussian, StandardNormal
from vae_tutorial.randomness import seeded
from vae_tutorial.vae import Decoder, Encoder


def tiny_vae(
    shape=(1, 28, 28), latent_dim=2, hidden=(8,), *, greys=True, seed=0, bound=10.0, spread=1.0
) -> VAE:
    """A VAE of MLPs with drawn weights; ``spread`` above 1 makes its distributions less flat."""
    with seeded(seed):
        posterior, likelihood = MeanFieldGaussian(latent_dim, bound), Bernoulli(shape, greys=greys)
        encoder = Encoder(MLP(shape, posterior.param_shape, hidden), posterior)
        decoder = Decoder(MLP(latent_dim, shape, hidden), likelihood)
        vae = VAE(encoder, decoder, StandardNormal(latent_dim))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(spread)
    return vae


def tiny_autoencoder(shape=(1, 28, 28), latent_dim=2, hidden=(8,), *, seed=0) -> Autoencoder:
    """A plain autoencoder of MLPs."""
    with seeded(seed):
        decoder = Decoder(MLP(latent_dim, shape, hidden), Bernoulli(shape, greys=True))
        return Autoencoder(MLP(shape, latent_dim, hidden), decoder)


def random_images(n=4, shape=(1, 28, 28), *, binary=False, seed=0) -> torch.Tensor:
    """Float images in [0, 1], or of zeros and ones."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return x.round() if binary else x
