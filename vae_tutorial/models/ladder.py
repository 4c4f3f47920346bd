"""Hierarchies of latents: the ladder VAE, and the plain hierarchical VAE that it improves on.

Both generate from the top down: z_L from N(0, I), then each z_l from p(z_l | z_(l+1)), and the image
from z_1. They differ in how they infer. Layer 1 is next to the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from vae_tutorial.networks import HeLinear
from vae_tutorial.posteriors import MeanFieldGaussian
from vae_tutorial.priors import StandardNormal
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part

Layers = dict[int, Tensor]  # one tensor for each layer, by its number
Drawn = dict[int, tuple[Tensor, Distribution, Distribution]]  # of each layer: z, its q and its p


def precision_weighted(a: Distribution, b: Distribution) -> Distribution:
    """The product of two Gaussian densities, normalized: the merge of Sonderby et al. (2016).

    Both are ``Independent(Normal(mean, scale), 1)`` of event shape (D,), as is the answer: its
    precision is the sum of both precisions, its mean the mean weighted by them. So a Gaussian that
    knows nothing (a huge variance) leaves the other as it is.
    """
    of_a, of_b = 1 / a.variance, 1 / b.variance
    precision = of_a + of_b
    mean = (a.mean * of_a + b.mean * of_b) / precision
    return Independent(Normal(mean, precision.rsqrt(), validate_args=False), 1)


def _hidden(n_in: int, width: int, normalized: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, width):
        layers += [HeLinear(n, width), *[nn.BatchNorm1d(width)] * normalized, nn.SiLU()]
    return nn.Sequential(*layers)


def _mlp(n_in: int, width: int, n_out: int, normalized: bool) -> nn.Sequential:
    return nn.Sequential(*_hidden(n_in, width, normalized), HeLinear(width, n_out))


class Hierarchy(Part):
    """p(x, z_1, ..., z_L), which both models share.

    Each adds a q(z_1, ..., z_L | x): its networks in ``_add_inference``, what they read off an image
    without any draw in ``_read``, its draws in ``_infer``, and how it measures what a layer costs in
    ``_kl``.

    Args:
        image_shape: (C, H, W).
        likelihood: what the decoder's numbers mean.
        latent_dims: dimensions of z_1, ..., z_L.
        hidden: width of the hidden layers at each stage, as many as ``latent_dims``.
        batch_norm: of the hidden layers. Without it fewer of the upper layers of a deep
            stack live (Sonderby et al. 2016; chapter 13 shows it).
        log_variance_bound: log-variances are squashed smoothly to plus or minus this.

    Example:
        >>> from vae_tutorial import Bernoulli
        >>> model = HierarchicalVAE((1, 8, 8), Bernoulli((1, 8, 8)), (4, 2), (32, 16))
        >>> images, z = model.generate(5, seed=0)
        >>> images.shape, z[1].shape, model.prior(1, above=z[2]).event_shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5, 4]), torch.Size([4]))
    """

    def __init__(
        self, image_shape: Sequence[int], likelihood: nn.Module,
        latent_dims: Sequence[int] = (32, 16, 8), hidden: Sequence[int] = (256, 128, 64), *,
        batch_norm: bool = True, log_variance_bound: float | None = 8.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not latent_dims or len(latent_dims) != len(hidden):
            raise ValueError(f"needs as many hidden as latent_dims, got {hidden} and {latent_dims}")
        self.image_shape, self.latent_dims = tuple(image_shape), tuple(latent_dims)
        self.likelihood, dims = likelihood, self.latent_dims
        # From numbers to the Gaussian of a layer, upwards and downwards; no parameters of its own.
        self.gaussians = nn.ModuleList(MeanFieldGaussian(d, log_variance_bound) for d in dims)
        self.top = StandardNormal(dims[-1])
        self._add_inference(hidden, batch_norm)
        self.down = nn.ModuleList(  # p(z_l | z_(l+1)), for l = 1, ..., L - 1
            _mlp(above, width, 2 * d, batch_norm)
            for above, width, d in zip(dims[1:], hidden[1:], dims[:-1], strict=True)
        )
        self.to_image = _mlp(dims[0], hidden[0], prod(likelihood.param_shape), batch_norm)

    def prior(self, layer: int, above: Tensor | None = None) -> Distribution:
        """p(z_layer | above) given latents (N, D) one layer up; at the top N(0, I)."""
        if layer == len(self.latent_dims):
            return self.top()
        return self.gaussians[layer - 1](self.down[layer - 1](above))

    def decoder(self, z_1: Tensor) -> Distribution:
        """z_1 (..., D_1) to p(x|z_1), batch shape (...) and event shape (C, H, W)."""
        numbers = self.to_image(z_1.flatten(0, -2))  # batch norm reads one batch dimension alone
        numbers = numbers.unflatten(0, z_1.shape[:-1])
        return self.likelihood(numbers.unflatten(-1, self.likelihood.param_shape))

    def decode(self, z_1: Tensor) -> Tensor:
        """z_1 (N, D_1) to mean images (N, C, H, W)."""
        return self.decoder(z_1).mean

    def infer_latents(self, x: Tensor) -> tuple[Layers, Layers]:
        """Draw the latents (N, D_l) of every layer l, given images (N, C, H, W); and its KL term.

        The terms, (N,), in nats, are the ladder's in closed form given the layers above, or the
        plain hierarchy's log q - log p at the draw, whose mean over draws is the KL term.
        """
        drawn = self._infer(self._read(self._flat(x)))
        return {k: z for k, (z, _, _) in drawn.items()}, {
            k: self._kl(*of) for k, of in drawn.items()
        }

    def log_weights(self, x: Tensor, samples: int) -> Tensor:
        """log p(x, z) - log q(z|x), (S, B), at S draws of all latents for each image (B, C, H, W)."""
        # What the image says is the same for all draws: read it once.
        read = [says.repeat(samples, 1) for says in self._read(self._flat(x))]
        drawn = self._infer(read)
        z_1 = drawn[1][0].unflatten(0, (samples, len(x)))
        log_weight = self.decoder(z_1).log_prob(x).flatten()
        for z, q, p in drawn.values():
            log_weight = log_weight + p.log_prob(z) - q.log_prob(z)
        return log_weight.unflatten(0, (samples, len(x)))

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images (N, {self.image_shape}), got {tuple(x.shape)}")
        return x.flatten(1)

    def encode(self, x: Tensor) -> Layers:
        """The latents (N, D_l) of every layer l, drawn from the posterior of images (N, C, H, W)."""
        return self.infer_latents(x)[0]

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, seed: int | None = None) -> Tensor:
        """Images through a draw of the posterior and back: mean images (N, C, H, W)."""
        with seeded(seed):
            return self.decode(self.encode(x)[1])

    @torch.no_grad()
    def generate(
        self, n: int, *, given: Layers | None = None, seed: int | None = None
    ) -> tuple[Tensor, Layers]:
        """Draw from the top down: n mean images (n, C, H, W), and the latents of every layer.

        ``given`` holds layers (from 1) at these latents (n, D); all others are drawn, under ``seed``.
        """
        given, top = given or {}, len(self.latent_dims)
        if n < 1 or not given.keys() <= set(range(1, top + 1)):
            raise ValueError(f"needs n >= 1 and layers from 1 to {top}, got {n}, {set(given)}")
        z: Layers = {}
        with seeded(seed):
            for layer in range(top, 0, -1):
                # Drawn for held layers, too, so that the noise of those below stays the same.
                drawn = self.prior(layer, z.get(layer + 1)).expand((n,)).rsample()
                z[layer] = given.get(layer, drawn)
        return self.decode(z[1]), z

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """n mean images (n, C, H, W) from the prior."""
        return self.generate(n, seed=seed)[0]


class LadderVAE(Hierarchy):
    """A VAE with several stochastic layers that are inferred from the top: Sonderby et al. (2016).

    The encoder goes up **deterministically**, and leaves at each layer what the image says about
    z_l. On the path down, shared with the generative model, the posterior of z_l merges this with
    what the layer above predicts (:func:`precision_weighted`). So a layer whose image part knows
    nothing has a KL term of zero. Arguments as for :class:`Hierarchy`.

    Example:
        >>> from vae_tutorial import Bernoulli
        >>> model = LadderVAE((1, 8, 8), Bernoulli((1, 8, 8)), (4, 2), (32, 16))
        >>> list(ladder_elbo(model, torch.zeros(5, 1, 8, 8)))
        ['loss', 'negative_elbo', 'reconstruction', 'kl', 'kl_1', 'kl_2']
    """

    def _add_inference(self, hidden: Sequence[int], batch_norm: bool) -> None:
        widths = [prod(self.image_shape), *hidden]
        self.up = nn.ModuleList(_hidden(a, b, batch_norm) for a, b in pairwise(widths))
        self.says = nn.ModuleList(
            HeLinear(width, 2 * d) for width, d in zip(hidden, self.latent_dims, strict=True)
        )

    def _read(self, x: Tensor) -> list[Tensor]:
        read = []
        for up, says in zip(self.up, self.says, strict=True):
            x = up(x)
            read.append(says(x))
        return read

    def _infer(self, read: list[Tensor]) -> Drawn:
        said = [gaussian(says) for gaussian, says in zip(self.gaussians, read, strict=True)]
        drawn, z, top = {}, None, len(said)
        for layer in range(top, 0, -1):
            p = self.prior(layer, z)
            # At the top the image alone speaks: N(0, I) comes in by the KL term.
            q = said[-1] if layer == top else precision_weighted(said[layer - 1], p)
            z = q.rsample()
            drawn[layer] = z, q, p
        return drawn

    @staticmethod
    def _kl(z: Tensor, q: Distribution, p: Distribution) -> Tensor:
        return kl_divergence(q, p)


class HierarchicalVAE(Hierarchy):
    """The plain hierarchical VAE: the encoder draws z_1 from the image, z_2 from z_1, and so on up.

    Arguments as for :class:`Hierarchy`.

    Example:
        >>> from vae_tutorial import Bernoulli
        >>> model = HierarchicalVAE((1, 8, 8), Bernoulli((1, 8, 8)), (4, 2), (32, 16))
        >>> model.reconstruct(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """

    def _add_inference(self, hidden: Sequence[int], batch_norm: bool) -> None:
        sources = [prod(self.image_shape), *self.latent_dims[:-1]]
        self.infer = nn.ModuleList(
            _mlp(n, width, 2 * d, batch_norm)
            for n, width, d in zip(sources, hidden, self.latent_dims, strict=True)
        )

    def _read(self, x: Tensor) -> list[Tensor]:
        return [self.infer[0](x)]

    def _infer(self, read: list[Tensor]) -> Drawn:
        (of_layer,), z, q = read, {}, {}
        for layer, gaussian in enumerate(self.gaussians, 1):
            q[layer] = gaussian(of_layer)
            z[layer] = q[layer].rsample()
            if layer < len(self.infer):
                of_layer = self.infer[layer](z[layer])
        return {k: (z[k], q[k], self.prior(k, z.get(k + 1))) for k in z}

    @staticmethod
    def _kl(z: Tensor, q: Distribution, p: Distribution) -> Tensor:
        # q of a layer knows the image and the layer below, p the one above: no closed form for both.
        return q.log_prob(z) - p.log_prob(z)


def ladder_elbo(
    model: Hierarchy, x: Tensor, *, beta: float = 1.0, samples: int = 1
) -> dict[str, Tensor]:
    """The negative ELBO of a hierarchy, with the KL term of each layer.

    Args:
        model, x: a hierarchy, and images (B, C, H, W).
        beta: weight of all KL terms, for warm-up.
        samples: S, draws of all latents for each image.

    Returns:
        Those of :func:`~vae_tutorial.objectives.elbo`, (B,), in nats, with ``kl`` the sum of
        ``kl_1``, ..., ``kl_L``.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    repeated = x.repeat(samples, 1, 1, 1)  # (S B, C, H, W): all samples in one pass
    z, kl = model.infer_latents(repeated)
    log_likelihood = model.decoder(z[1]).log_prob(repeated)  # (S B,)
    reconstruction = -log_likelihood.unflatten(0, (samples, len(x))).mean(0)
    layers = {f"kl_{k}": kl[k].unflatten(0, (samples, len(x))).mean(0) for k in sorted(kl)}
    total = sum(layers.values())
    terms = {"negative_elbo": reconstruction + total, "reconstruction": reconstruction, "kl": total}
    return {"loss": reconstruction + beta * total} | terms | layers
