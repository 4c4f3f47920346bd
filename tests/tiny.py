"""Small models, data and trainings that several test files use."""

import torch
from torch import nn

import vae_tutorial as vt
from vae_tutorial.randomness import seeded


def tiny_vae(
    shape=(1, 28, 28), latent_dim=2, hidden=(8,), *, greys=True, seed=0, bound=10.0, spread=1.0
) -> vt.VAE:
    """A VAE of MLPs with drawn weights; ``spread`` above 1 makes its distributions less flat."""
    with seeded(seed):
        posterior = vt.MeanFieldGaussian(latent_dim, bound)
        encoder = vt.Encoder(vt.MLP(shape, posterior.param_shape, hidden), posterior)
        decoder = vt.Decoder(vt.MLP(latent_dim, shape, hidden), vt.Bernoulli(shape, greys=greys))
        vae = vt.VAE(encoder, decoder, vt.StandardNormal(latent_dim))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(spread)
    return vae


def tiny_autoencoder(shape=(1, 28, 28), latent_dim=2, hidden=(8,), *, seed=0) -> vt.Autoencoder:
    """A plain autoencoder of MLPs."""
    with seeded(seed):
        decoder = vt.Decoder(vt.MLP(latent_dim, shape, hidden), vt.Bernoulli(shape, greys=True))
        return vt.Autoencoder(vt.MLP(shape, latent_dim, hidden), decoder)


def random_images(n=4, shape=(1, 28, 28), *, binary=False, seed=0) -> torch.Tensor:
    """Float images in [0, 1], or of zeros and ones."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return x.round() if binary else x


# What trains in a moment: rows of six numbers, 5 steps an epoch, and a few that are held out.
ROWS, HELD_OUT, STEPS = random_images(50, (6,), seed=1), random_images(7, (6,), seed=2), 5


class Squeeze(vt.Part):
    """Six numbers through ``width`` and back, with or without batch normalization."""

    def __init__(self, width=3, norm=False):
        super().__init__()
        self.down, self.up = nn.Linear(6, width), nn.Linear(width, 6)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()

    def forward(self, x):
        return self.up(self.norm(self.down(x)).tanh())


def squeeze(width=3, norm=False, seed=0) -> Squeeze:
    with seeded(seed):
        return Squeeze(width, norm)


def noisy_error(model, x, *, noise=0.1, weight=1.0):
    """The squared error from noisy examples: an objective that draws."""
    error = (model(x + noise * torch.randn_like(x)) - x).square().sum(1)
    return {"loss": weight * error, "error": error}


def train(model=None, objective=noisy_error, data=ROWS, **settings):
    """Three epochs on the CPU; returns the model and its history."""
    model = squeeze() if model is None else model
    settings = {"epochs": 3, "batch_size": 10, "held_out": HELD_OUT, "progress": False} | settings
    return model, vt.fit(model, objective, data, device="cpu", **settings)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """The same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
