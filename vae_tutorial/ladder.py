"""Hierarchies of latents: the ladder VAE, and the plain hierarchical VAE that it improves on.

Both generate from the top down: z_L from N(0, I), then each z_l from p(z_l | z_(l+1)), and the image
from z_1. They differ in how they infer. Layers are counted from the image: layer 1 is next to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_tutorial.networks import HeLinear, device_of
from vae_tutorial.posteriors import bounded, check_latent_dim
from vae_tutorial.randomness import seeded

Terms = dict[str, Tensor]
Gaussian = tuple[Tensor, Tensor]  # mean and log-variance, each (N, D)


def precision_weighted(a: Gaussian, b: Gaussian) -> Gaussian:
    """The product of two Gaussian densities, normalized: the merge of Sonderby et al. (2016).

    Its precision is the sum of both precisions, its mean the mean weighted by them. A Gaussian
    that knows nothing (a huge variance) leaves the other as it is.

    Args:
        a, b: means and log-variances, of the same shape.
    """
    (mean_a, log_a), (mean_b, log_b) = a, b
    log_precision = torch.logaddexp(-log_a, -log_b)
    weight = torch.exp(-log_a - log_precision)  # of a, between 0 and 1
    return weight * mean_a + (1 - weight) * mean_b, -log_precision


def gaussian_kl_between(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) of two diagonal Gaussians, summed over dimensions, (N,), in nats."""
    (mean_q, log_q), (mean_p, log_p) = q, p
    difference = log_q - log_p
    squares = (mean_q - mean_p).square() * torch.exp(-log_p)
    return 0.5 * (squares + difference.expm1() - difference).sum(-1)


def log_normal(z: Tensor, p: Gaussian) -> Tensor:
    """log N(z; mean, variance), summed over dimensions, (N,), in nats."""
    mean, log_variance = p
    squares = (z - mean).square() * torch.exp(-log_variance)
    constant = torch.log(torch.tensor(2 * torch.pi))
    return -0.5 * (squares + log_variance + constant).sum(-1)


def _hidden(n_in: int, width: int, normalized: bool) -> nn.Sequential:
    """Two hidden layers, normalized over the batch where this is wanted."""
    layers: list[nn.Module] = []
    for n in (n_in, width):
        layers += [HeLinear(n, width), *[nn.BatchNorm1d(width)] * normalized, nn.SiLU()]
    return nn.Sequential(*layers)


def _mlp(n_in: int, width: int, n_out: int, normalized: bool) -> nn.Sequential:
    return nn.Sequential(*_hidden(n_in, width, normalized), HeLinear(width, n_out))


class LadderVAE(nn.Module):
    """A VAE with several stochastic layers: Sonderby et al. (2016).

    With ``ladder``, the encoder goes up **deterministically**, and leaves at each layer what the
    image says about z_l. Then latents are drawn from the top down, and the posterior of z_l merges,
    weighted by precision, what the image says with what the layer above predicts. So the posterior
    shares the way down with the generative model, and a layer whose image part knows nothing has
    a KL term of exactly zero.

    Without, this is the plain hierarchical VAE: the encoder draws z_1 from the image, z_2 from z_1,
    and so on up; the way down serves generation alone.

    Args:
        image_shape: (C, H, W).
        likelihood: what the decoder's numbers mean.
        latent_dims: dimensions of z_1, ..., z_L.
        hidden: width of the hidden layers at each stage, as many as ``latent_dims``.
        ladder: which of the two.
        batch_norm: normalize the hidden layers over the batch. Without it the upper layers of a
            deep stack hardly ever start (Sonderby et al. 2016; chapter 13 shows it).
        log_variance_bound: log-variances are squashed smoothly to plus or minus this.
    """

    def __init__(
        self, image_shape: Sequence[int], likelihood: nn.Module,
        latent_dims: Sequence[int] = (32, 16, 8), hidden: Sequence[int] = (256, 128, 64), *,
        ladder: bool = True, batch_norm: bool = True, log_variance_bound: float = 8.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not latent_dims or len(latent_dims) != len(hidden):
            raise ValueError(
                f"needs one hidden width a stochastic layer, got {len(latent_dims)} latent_dims and "
                f"{len(hidden)} hidden"
            )
        self.image_shape, self.ladder = tuple(image_shape), ladder
        self.latent_dims = tuple(check_latent_dim(d) for d in latent_dims)
        self.hidden, self.log_variance_bound = tuple(hidden), log_variance_bound
        self.batch_norm = batch_norm
        self.likelihood = likelihood
        pixels, dims = prod(image_shape), self.latent_dims
        if ladder:
            widths = [pixels, *hidden]
            self.up = nn.ModuleList(
                _hidden(a, b, batch_norm) for a, b in itertools.pairwise(widths)
            )
            self.says = nn.ModuleList(
                HeLinear(width, 2 * d) for width, d in zip(hidden, dims, strict=True)
            )
        else:
            sources = [pixels, *dims[:-1]]
            self.infer = nn.ModuleList(
                _mlp(n, width, 2 * d, batch_norm)
                for n, width, d in zip(sources, hidden, dims, strict=True)
            )
        self.down = nn.ModuleList(  # p(z_l | z_(l+1)), for l = 1, ..., L - 1
            _mlp(above, width, 2 * d, batch_norm)
            for above, width, d in zip(dims[1:], hidden[1:], dims[:-1], strict=True)
        )
        self.to_image = _mlp(dims[0], hidden[0], prod(likelihood.param_shape), batch_norm)

    # -------------------------------------------------------------------------- generation

    def _gaussian(self, numbers: Tensor) -> Gaussian:
        mean, log_variance = numbers.chunk(2, dim=-1)
        return mean, bounded(log_variance, self.log_variance_bound)

    def prior(self, layer: int, above: Tensor | None, n: int) -> Gaussian:
        """p(z_layer | z_(layer + 1)), or the top's N(0, I) for n examples (layers from 1)."""
        if layer == len(self.latent_dims):
            zeros = torch.zeros(n, self.latent_dims[-1], device=device_of(self))
            return zeros, zeros
        return self._gaussian(self.down[layer - 1](above))

    def decode(self, z_1: Tensor) -> Distribution:
        """z_1 (N, D_1) to p(x|z_1), batch shape (N,)."""
        return self.likelihood(self.to_image(z_1).unflatten(-1, self.likelihood.param_shape))

    @torch.no_grad()
    def generate(
        self, n: int, *, given: dict[int, Tensor] | None = None, seed: int | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Draw from the top down.

        Args:
            n: how many.
            given: layers (from 1) that are held: their latents (n, D). All others are drawn.
            seed: makes the draw repeatable.

        Returns:
            Mean images (n, C, H, W), and the latents of every layer.
        """
        given = given or {}
        unknown = set(given) - set(range(1, len(self.latent_dims) + 1))
        if n < 1 or unknown:
            raise ValueError(
                f"needs n >= 1 and layers from 1 to {len(self.latent_dims)}, got {n}, {unknown}"
            )
        z: dict[int, Tensor] = {}
        with seeded(seed):
            for layer in range(len(self.latent_dims), 0, -1):
                mean, log_variance = self.prior(layer, z.get(layer + 1), n)
                noise = torch.randn_like(mean)  # drawn for held layers, too: the others stay put
                z[layer] = given.get(layer, mean + torch.exp(0.5 * log_variance) * noise)
        return self.decode(z[1]).mean, z

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """n mean images (n, C, H, W) from the prior."""
        return self.generate(n, seed=seed)[0]

    # --------------------------------------------------------------------------- inference

    def infer_latents(self, x: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Draw z_1, ..., z_L from the posterior of images (N, C, H, W).

        Returns:
            The latents of every layer, and its KL term, (N,) each, in nats. The ladder's terms are
            in closed form given the layers above; the plain hierarchy's are log q - log p at the
            draw, whose mean over draws is the KL term.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"expected images (N, {self.image_shape}), got {tuple(x.shape)}")
        return self._infer_down(x) if self.ladder else self._infer_up(x)

    def _infer_down(self, x: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        d, said = x.flatten(1), []
        for up, says in zip(self.up, self.says, strict=True):
            d = up(d)
            said.append(self._gaussian(says(d)))
        top = len(said)
        z, kl = {}, {}
        for layer in range(top, 0, -1):
            p = self.prior(layer, z.get(layer + 1), len(x))
            # At the top the image alone speaks: N(0, I) comes in by the KL term.
            q = said[-1] if layer == top else precision_weighted(said[layer - 1], p)
            z[layer] = q[0] + torch.exp(0.5 * q[1]) * torch.randn_like(q[0])
            kl[layer] = gaussian_kl_between(q, p)
        return z, kl

    def _infer_up(self, x: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        z, log_q, below = {}, {}, x.flatten(1)
        for layer, infer in enumerate(self.infer, start=1):
            q = self._gaussian(infer(below))
            z[layer] = q[0] + torch.exp(0.5 * q[1]) * torch.randn_like(q[0])
            log_q[layer] = log_normal(z[layer], q)
            below = z[layer]
        kl = {
            layer: log_q[layer] - log_normal(z[layer], self.prior(layer, z.get(layer + 1), len(x)))
            for layer in z
        }
        return z, kl

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, seed: int | None = None) -> Tensor:
        """Images through a draw of the posterior and back: mean images (N, C, H, W)."""
        with seeded(seed):
            return self.decode(self.infer_latents(x)[0][1]).mean

    def extra_repr(self) -> str:
        text = (
            f"image_shape={self.image_shape}, latent_dims={self.latent_dims}, hidden={self.hidden}, "
            f"ladder={self.ladder}, log_variance_bound={self.log_variance_bound}"
        )
        return text if self.batch_norm else f"{text}, batch_norm=False"


def ladder_elbo(model: LadderVAE, x: Tensor, *, beta: float = 1.0, samples: int = 1) -> Terms:
    """The negative ELBO of a hierarchy, with the KL term of each layer.

    Args:
        model: a :class:`LadderVAE`, of either kind.
        x: images (B, C, H, W).
        beta: weight of all KL terms, for warm-up.
        samples: S, draws of all latents for each image.

    Returns:
        ``loss`` = ``reconstruction`` + beta * ``kl``, ``kl`` = the sum of ``kl_1``, ..., ``kl_L``;
        each (B,), in nats an image.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    repeated = x.repeat(samples, 1, 1, 1)  # (S B, C, H, W): all samples in one pass
    z, kl = model.infer_latents(repeated)
    log_likelihood = model.decode(z[1]).log_prob(repeated)  # (S B,)
    reconstruction = -log_likelihood.unflatten(0, (samples, len(x))).mean(0)
    layers = {layer: kl[layer].unflatten(0, (samples, len(x))).mean(0) for layer in sorted(kl)}
    total = sum(layers.values())
    terms = {"loss": reconstruction + beta * total, "reconstruction": reconstruction, "kl": total}
    return terms | {f"kl_{layer}": value for layer, value in layers.items()}
