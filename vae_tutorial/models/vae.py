"""The variational autoencoder: an encoder, a decoder and a prior, which answer with distributions.

Notation as in Kingma & Welling (2013): x an image, z a latent, q(z|x) the approximate posterior,
p(x|z) the likelihood, p(z) the prior. B is the batch, S the number of Monte Carlo samples, D the
latent dimension.
"""

from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_tutorial.networks import device_of
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part


class Encoder(Part):
    """x -> q(z|x): a network, and the posterior that its numbers are the parameters of.

    The network maps (B, C, H, W) to ``(B, *posterior.param_shape)``; a ValueError where it declares
    another ``out_shape``.

    Example:
        >>> from vae_tutorial import MLP, MeanFieldGaussian
        >>> encoder = Encoder(MLP((1, 28, 28), 4), MeanFieldGaussian(latent_dim=2))
        >>> encoder(torch.zeros(16, 1, 28, 28)).rsample((3,)).shape  # S, B, D
        torch.Size([3, 16, 2])
    """

    def __init__(self, network: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        _check_fit(network, posterior, "posterior")
        self.network, self.posterior = network, posterior

    def forward(self, x: Tensor) -> Distribution:
        """Images (B, C, H, W) to q(z|x), batch shape (B,) and event shape (D,)."""
        return self.posterior(self.network(x))


class Decoder(Part):
    """z -> p(x|z): a network, and the likelihood that its numbers are the parameters of.

    The network maps (N, D) to ``(N, *likelihood.param_shape)``; a ValueError where it declares
    another ``out_shape``. Any number of leading axes is folded into its batch: latents (S, B, D) take
    one pass, not S of them.

    Example:
        >>> from vae_tutorial import MLP, Bernoulli
        >>> decoder = Decoder(MLP(2, (1, 28, 28)), Bernoulli((1, 28, 28)))
        >>> decoder(torch.zeros(3, 16, 2)).log_prob(torch.ones(16, 1, 28, 28)).shape  # S, B
        torch.Size([3, 16])
    """

    def __init__(self, network: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        _check_fit(network, likelihood, "likelihood")
        self.network, self.likelihood = network, likelihood

    def forward(self, z: Tensor) -> Distribution:
        """Latents (..., D) to p(x|z), batch shape (...) and event shape (C, H, W)."""
        leading = z.shape[:-1]
        parameters = self.network(z.reshape(prod(leading), z.shape[-1]))  # (S*B, ...)
        return self.likelihood(parameters.reshape(*leading, *parameters.shape[1:]))


class VAE(Part):
    """A latent-variable model p(x|z) p(z) with an approximate posterior q(z|x).

    There is deliberately no ``forward``: :meth:`sample`, :meth:`reconstruct` and
    :func:`vae_tutorial.objectives.elbo` are three different things.

    Args:
        encoder, decoder: map images to q(z|x), and latents to p(x|z).
        prior: called without arguments, answers with p(z).

    Example:
        >>> from vae_tutorial import MLP, Bernoulli, MeanFieldGaussian, StandardNormal
        >>> encoder = Encoder(MLP((1, 28, 28), 4), MeanFieldGaussian(latent_dim=2))
        >>> decoder = Decoder(MLP(2, (1, 28, 28)), Bernoulli((1, 28, 28), greys=True))
        >>> VAE(encoder, decoder, StandardNormal(2)).sample(16, seed=0).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, prior: nn.Module) -> None:
        super().__init__()
        ours, theirs = encoder.posterior.latent_dim, prior.latent_dim
        if ours != theirs:
            raise ValueError(f"needs one latent_dim: the posterior has {ours}, the prior {theirs}")
        seen = getattr(encoder.network, "in_shape", None)
        drawn = getattr(decoder.likelihood, "image_shape", seen)
        if seen is not None and tuple(seen) != tuple(drawn):
            raise ValueError(f"the encoder reads images of shape {seen}, the decoder gives {drawn}")
        self.encoder, self.decoder, self.prior = encoder, decoder, prior

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
        """Draw n new images (n, C, H, W) from the model: z from the prior, then x from p(x|z).

        Without ``pixels`` the mean of p(x|z) stands for x, as in nearly all figures in the
        literature; it is smoother than a true sample.
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
        got = f"{type(head).__name__} needs {needed}, the network gives {tuple(given)}"
        raise ValueError(f"{got}; build it with out_shape={what}.param_shape")
