"""The conditional VAE: a label goes into the encoder, into the decoder, and where wanted the prior.

Notation as in Kingma et al. (2014): y a label, one of K whole numbers from 0, q(z|x,y) the
approximate posterior, p(x|y,z) the likelihood. A label tensor has any shape that broadcasts against
the batch: (B,) gives each image its own label, (K, 1) gives every image all K of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_tutorial.evaluate import log_weights, per_example
from vae_tutorial.networks import as_shape, device_of
from vae_tutorial.objectives import elbo
from vae_tutorial.posteriors import MeanFieldGaussian
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part


class LabelledMLP(Part):
    """A multi-layer perceptron that reads a label beside its input.

    Its first layer is linear in the input and in the label written as a one-hot vector. So it is the
    sum of two parts, W x and one vector for each label. For all K labels of one image W x is computed
    once. The labels' vectors start at zero: at first all classes are alike.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        classes: K, how many labels there are.
        hidden: widths of the hidden layers, at least one.
        activation: the non-linearity between layers.

    Shape:
        inputs ``(..., *in_shape)`` and labels ``(...)``, int64, which broadcast, to
        ``(..., *out_shape)``.

    Example:
        >>> network = LabelledMLP((1, 28, 28), 4, classes=10, hidden=(64,))
        >>> x = torch.zeros(16, 1, 28, 28)
        >>> network(x, torch.zeros(16, dtype=torch.int64)).shape
        torch.Size([16, 4])
        >>> network(x, torch.arange(10).unsqueeze(1)).shape  # every label for every image
        torch.Size([10, 16, 4])
    """

    def __init__(
        self, in_shape: int | Sequence[int], out_shape: int | Sequence[int], classes: int,
        hidden: Sequence[int] = (300,), activation: type[nn.Module] = nn.SiLU,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_shape = as_shape(in_shape, "in_shape")
        self.out_shape = as_shape(out_shape, "out_shape")
        (self.classes,) = as_shape((classes,), "classes")
        widths = as_shape([*hidden], "hidden")
        self.first = nn.Linear(prod(self.in_shape), widths[0])
        self.label = nn.Embedding(self.classes, widths[0])
        nn.init.zeros_(self.label.weight)
        layers: list[nn.Module] = []
        for pair in pairwise([*widths, prod(self.out_shape)]):
            layers += [activation(), nn.Linear(*pair)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n = len(self.in_shape)
        if tuple(x.shape[-n:]) != self.in_shape or y.dtype != torch.int64:
            got = f"{tuple(x.shape)} and labels of {y.dtype}"
            raise ValueError(f"expected inputs (..., {self.in_shape}), int64 labels, got {got}")
        hidden = self.first(x.flatten(-n)) + self.label(y)  # the labels broadcast here
        out = self.layers(hidden)
        return out.unflatten(-1, self.out_shape)


class ConditionalEncoder(Part):
    """(x, y) -> q(z|x,y): a network of images and labels, and the posterior that it feeds.

    Example:
        >>> network = LabelledMLP((1, 28, 28), 4, classes=10, hidden=(64,))
        >>> encoder = ConditionalEncoder(network, MeanFieldGaussian(2))
        >>> encoder(torch.zeros(16, 1, 28, 28), torch.arange(10).unsqueeze(1)).batch_shape
        torch.Size([10, 16])
    """

    def __init__(self, network: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        _check_fit(network, posterior)
        self.network, self.posterior = network, posterior

    def forward(self, x: Tensor, y: Tensor) -> Distribution:
        """Images (B, C, H, W) and labels (...) that broadcast against (B,), to q(z|x,y)."""
        # Densities need more than the three digits that bfloat16 has.
        return self.posterior(self.network(x, y).float())


class ConditionalDecoder(Part):
    """(z, y) -> p(x|y,z): a network of latents and labels, and the likelihood that it feeds.

    Example:
        >>> from vae_tutorial import Bernoulli
        >>> network = LabelledMLP(2, (1, 28, 28), classes=10, hidden=(64,))
        >>> decoder = ConditionalDecoder(network, Bernoulli((1, 28, 28)))
        >>> decoder(torch.zeros(3, 16, 2), torch.zeros(16, dtype=torch.int64)).batch_shape
        torch.Size([3, 16])
    """

    def __init__(self, network: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        _check_fit(network, likelihood)
        self.network, self.likelihood = network, likelihood

    def forward(self, z: Tensor, y: Tensor) -> Distribution:
        """Latents (..., D) and labels that broadcast against (...), to p(x|y,z)."""
        return self.likelihood(self.network(z, y))


class ClassPrior(Part):
    """p(z|y): a mean-field Gaussian for each label, learnt; at the start all are N(0, I).

    Called with labels (...), it gives a distribution of batch shape (...) and event shape (D,).

    Args:
        latent_dim: D.
        classes: K.

    Example:
        >>> ClassPrior(2, classes=10)(torch.tensor([3, 4, 5])).batch_shape
        torch.Size([3])
    """

    def __init__(self, latent_dim: int, classes: int) -> None:
        super().__init__()
        self.gaussian = MeanFieldGaussian(latent_dim)
        self.latent_dim = self.gaussian.latent_dim
        (self.classes,) = as_shape((classes,), "classes")
        self.numbers = nn.Embedding(self.classes, 2 * latent_dim)
        nn.init.zeros_(self.numbers.weight)

    def forward(self, y: Tensor) -> Distribution:
        return self.gaussian(self.numbers(y))


@dataclass(frozen=True)
class Given:
    """A conditional VAE under labels that are given: what :func:`~vae_tutorial.elbo` reads."""

    encoder: Callable[[Tensor], Distribution]
    decoder: Callable[[Tensor], Distribution]
    prior: Callable[[], Distribution]


class ConditionalVAE(Part):
    """p(x|y,z) p(z|y) with q(z|x,y): Sohn et al. (2015), section 4.1; M2's parts in Kingma (2014).

    Args:
        encoder, decoder: of images or latents, and labels.
        prior: either takes labels (:class:`ClassPrior`), or none, and is then the same for all.

    Example:
        >>> from vae_tutorial import Bernoulli, StandardNormal
        >>> shape = (1, 28, 28)
        >>> encoder = ConditionalEncoder(LabelledMLP(shape, 4, 10), MeanFieldGaussian(2))
        >>> decoder = ConditionalDecoder(LabelledMLP(2, shape, 10), Bernoulli(shape))
        >>> model = ConditionalVAE(encoder, decoder, StandardNormal(2))
        >>> model.sample(torch.tensor([7, 7, 3]), seed=0).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(
        self, encoder: ConditionalEncoder, decoder: ConditionalDecoder, prior: nn.Module
    ) -> None:
        super().__init__()
        ours, theirs = encoder.posterior.latent_dim, prior.latent_dim
        if ours != theirs:
            raise ValueError(f"needs one latent_dim: the posterior has {ours}, the prior {theirs}")
        parts = (encoder.network, decoder.network, prior)
        counts = {part.classes for part in parts if hasattr(part, "classes")}
        if len(counts) != 1:
            raise ValueError(f"needs one number of classes in all parts, got {sorted(counts)}")
        (self.classes,) = counts
        self.encoder, self.decoder, self.prior = encoder, decoder, prior

    @property
    def latent_dim(self) -> int:
        """D, the number of latent dimensions."""
        return self.prior.latent_dim

    def prior_of(self, y: Tensor) -> Distribution:
        """p(z|y) of labels (...); without a batch where the prior knows no labels."""
        return self.prior(y) if hasattr(self.prior, "classes") else self.prior()

    def given(self, y: Tensor) -> Given:
        """The VAE that is left once the labels are given: an encoder, a decoder and a prior."""
        return Given(
            lambda x: self.encoder(x, y), lambda z: self.decoder(z, y), lambda: self.prior_of(y)
        )

    def all_labels(self) -> Tensor:
        """Labels (K, 1): against a batch (B,) every image gets every label."""
        return torch.arange(self.classes, device=device_of(self)).unsqueeze(1)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The posterior means (..., D) of images (B, C, H, W) under labels."""
        return self.encoder(x, y).mean

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The mean images (..., C, H, W) of latents (..., D) under labels that broadcast."""
        return self.decoder(z, y).mean

    @torch.no_grad()
    def sample(self, y: Tensor, *, seed: int | None = None) -> Tensor:
        """A mean image for each label (n,): z from the prior, then the mean of p(x|y,z)."""
        with seeded(seed):
            z = self.prior_of(y).expand(y.shape).sample()
        return self.decode(z, y)


def conditional_elbo(
    model: ConditionalVAE, x: Tensor, y: Tensor, *, beta: float = 1.0, samples: int = 1
) -> dict[str, Tensor]:
    """The negative bound on log p(x|y): Sohn et al. (2015), equation 4.

    -log p(x|y) <= E_q(z|x,y)[-log p(x|y,z)] + KL(q(z|x,y) || p(z|y)). Given its label a conditional
    VAE is a VAE, so this is :func:`~vae_tutorial.objectives.elbo`. With a uniform p(y), log p(x, y)
    is smaller by log K.

    Args:
        model, x: the model, and images (B, C, H, W).
        y: labels that broadcast against (B,): (B,), or (K, 1) for every label of every image.
        beta, samples: as for :func:`~vae_tutorial.objectives.elbo`.

    Returns:
        Its terms, of the shape that labels and batch broadcast to, in nats.
    """
    return elbo(model.given(y), x, beta=beta, samples=samples)


def conditional_bounds(
    model: ConditionalVAE, images: Tensor, labels: Tensor | None = None, *, samples: int = 100,
    at_once: int = 50, batch_size: int = 50, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Importance-weighted lower bounds on log p(x|y), float64, in nats.

    As :func:`~vae_tutorial.evaluate.importance_weighted_bound`, given labels. The logarithm of the
    average over all K labels of exp(bound) is a bound on the model's own log p(x), where p(y) is
    uniform: the average of estimates of p(x|y) is one of p(x).

    Args:
        model, images: the model, and images (N, C, H, W).
        labels: (N,), each image's own, or ``None`` for all of them.
        samples: S, draws for each image and label.
        at_once: how many of them pass through the decoder together.
        batch_size: images at a time.
        seed: of the draws.

    Returns:
        (N,), or (N, K) where no labels were given.
    """
    if samples < 1 or at_once < 1:
        raise ValueError(f"samples and at_once must be at least 1, got {samples} and {at_once}")
    parts = [min(at_once, samples - done) for done in range(0, samples, at_once)]

    def bound(model: ConditionalVAE, x: Tensor, *y: Tensor) -> dict[str, Tensor]:
        draw = log_weights(model.given(y[0] if y else model.all_labels()), x)
        total = torch.stack([draw(count).logsumexp(0) for count in parts]).logsumexp(0)
        return {"bound": (total - math.log(samples)).movedim(-1, 0)}  # (B,) or (B, K)

    data = (images,) if labels is None else (images, labels)
    return per_example(model, bound, data, batch_size=batch_size, seed=seed)["bound"]


def _check_fit(network: nn.Module, head: nn.Module) -> None:
    """The network must give as many numbers as the posterior or likelihood reads."""
    given, needed = getattr(network, "out_shape", None), tuple(head.param_shape)
    if given is not None and tuple(given) != needed:
        got = f"{type(head).__name__} needs {needed}, the network gives {tuple(given)}"
        raise ValueError(f"{got}; build it with out_shape={needed}, its param_shape")
