"""The variational autoencoder: an encoder, a decoder and a prior.

Each part answers with a :class:`torch.distributions.Distribution`. Notation as in Kingma &
Welling (2013): x an image, z a latent, q(z|x) the approximate posterior, p(x|z) the likelihood,
p(z) the prior. B is the batch, S the number of Monte Carlo samples, D the latent dimension.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_tutorial.networks import device_of
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part


class Encoder(Part):
    """x -> q(z|x): a network, and the posterior that its numbers are the parameters of.

    Args:
        network: maps (B, C, H, W) to ``(B, *posterior.param_shape)``.
        posterior: maps those parameters to a distribution over latents.

    Raises:
        ValueError: when the network gives another number of parameters than the posterior needs.

    Example:
        >>> from vae_tutorial import MLP, MeanFieldGaussian
        >>> posterior = MeanFieldGaussian(latent_dim=2)
        >>> encoder = Encoder(MLP((1, 28, 28), posterior.param_shape), posterior)
        >>> encoder(torch.zeros(16, 1, 28, 28)).rsample((3,)).shape  # S, B, D
        torch.Size([3, 16, 2])
    """

    def __init__(self, network: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        _check_fit(network, posterior, "posterior")
        self.network = network
        self.posterior = posterior

    def forward(self, x: Tensor) -> Distribution:
        """Images (B, C, H, W) to q(z|x), batch shape (B,) and event shape (D,)."""
        return self.posterior(self.network(x))


class Decoder(Part):
    """z -> p(x|z): a network, and the likelihood that its numbers are the parameters of.

    Any number of leading axes is folded into the batch: latents (S, B, D) take one pass through
    the network, not S of them.

    Args:
        network: maps (N, D) to ``(N, *likelihood.param_shape)``.
        likelihood: maps those parameters to a distribution over images.

    Raises:
        ValueError: when the network gives another number of parameters than the likelihood needs.

    Example:
        >>> from vae_tutorial import MLP, Bernoulli
        >>> decoder = Decoder(MLP(2, (1, 28, 28)), Bernoulli((1, 28, 28)))
        >>> decoder(torch.zeros(3, 16, 2)).log_prob(torch.ones(16, 1, 28, 28)).shape  # S, B
        torch.Size([3, 16])
    """

    def __init__(self, network: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        _check_fit(network, likelihood, "likelihood")
        self.network = network
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> Distribution:
        """Latents (..., D) to p(x|z), batch shape (...) and event shape (C, H, W)."""
        leading = z.shape[:-1]
        parameters = self.network(z.reshape(prod(leading), z.shape[-1]))  # (S*B, ...)
        return self.likelihood(parameters.reshape(*leading, *parameters.shape[1:]))


class VAE(Part):
    """A latent-variable model p(x|z) p(z) with an approximate posterior q(z|x).

    There is deliberately no ``forward``: sampling, reconstructing and evaluating the ELBO are
    three different things, and each has a name of its own (:meth:`sample`, :meth:`reconstruct`,
    :func:`vae_tutorial.objectives.elbo`).

    Args:
        encoder: maps images to q(z|x).
        decoder: maps latents to p(x|z).
        prior: called without arguments, answers with p(z).

    Example:
        >>> from vae_tutorial import MLP, Bernoulli, MeanFieldGaussian, StandardNormal
        >>> shape, posterior = (1, 28, 28), MeanFieldGaussian(latent_dim=2)
        >>> likelihood = Bernoulli(shape, greys=True)
        >>> encoder = Encoder(MLP(shape, posterior.param_shape), posterior)
        >>> decoder = Decoder(MLP(2, likelihood.param_shape), likelihood)
        >>> VAE(encoder, decoder, StandardNormal(2)).sample(16, seed=0).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, prior: nn.Module) -> None:
        super().__init__()
        dims = (encoder.posterior.latent_dim, prior.latent_dim)
        if dims[0] != dims[1]:
            raise ValueError(
                f"the posterior has latent_dim={dims[0]} and the prior latent_dim={dims[1]}; "
                "give both the same."
            )
        seen = getattr(encoder.network, "in_shape", None)
        drawn = getattr(decoder.likelihood, "image_shape", None)
        if seen is not None and drawn is not None and tuple(seen) != tuple(drawn):
            raise ValueError(
                f"the encoder reads images of shape {tuple(seen)} and the decoder gives {tuple(drawn)}; "
                "build both for the same image shape."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior

    @property
    def latent_dim(self) -> int:
        """D, the number of latent dimensions."""
        return self.prior.latent_dim

    def encode(self, x: Tensor) -> Tensor:
        """The posterior means (B, D) of images (B, C, H, W): what is usually taken as their code."""
        return self.encoder(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """The mean images (..., C, H, W) of latents (..., D): for a Bernoulli, probabilities."""
        return self.decoder(z).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Through the posterior **mean** and back: the mean image (B, C, H, W). Nothing is drawn."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, pixels: bool = False) -> Tensor:
        """Draw new images from the model: z from the prior, then x from p(x|z).

        Args:
            n: how many.
            seed: makes the draw repeatable.
            pixels: draw the pixels, too. By default the mean of p(x|z) is returned, as nearly all
                figures in the literature do; it is smoother than a true sample.

        Returns:
            Images (n, C, H, W).
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        with seeded(seed):
            z = self.prior().sample((n,)).to(device_of(self))
            likelihood = self.decoder(z)
            return likelihood.sample() if pixels else likelihood.mean


def _check_fit(network: nn.Module, head: nn.Module, what: str) -> None:
    """A network that declares its out_shape must give what the head's param_shape asks for."""
    given, needed = getattr(network, "out_shape", None), tuple(head.param_shape)
    if given is not None and tuple(given) != needed:
        raise ValueError(
            f"the network gives {tuple(given)} numbers an example, but {type(head).__name__} needs "
            f"{needed}; build the network with out_shape={what}.param_shape."
        )
