"""Missing pixels: p(x_missing | x_observed) from a trained VAE that never saw a pixel missing.

Given the latent, pixels are independent, so the likelihood of the observed ones alone is a sum over
them, and no integral over the missing ones is left. The posterior p(z | x_observed) is reached in
two ways: weighted draws from a proposal (Mattei & Frellsen 2019), or a chain that fills in and
encodes, again and again (Rezende et al. 2014, Mattei & Frellsen 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vae_tutorial.likelihoods import Observed
from vae_tutorial.models.vae import VAE
from vae_tutorial.randomness import seeded

_AT_ONCE = 3_000  # images that the decoder draws at a time, to spare memory


@dataclass(frozen=True)
class Imputation:
    """What a model says about missing pixels: weighted latents for each image.

    Attributes:
        z: latents (S, B, D).
        log_weight: (S, B), normalized: the weights of an image add up to one.
    """

    z: Tensor
    log_weight: Tensor

    @property
    def effective(self) -> Tensor:
        """The effective number of draws, 1 / sum_s w_s^2, between 1 and S: (B,)."""
        return torch.exp(-torch.logsumexp(2 * self.log_weight, 0))

    @torch.no_grad()
    def mean(self, vae: VAE) -> Tensor:
        """E[x | x_observed] of every pixel, sum_s w_s E[x | z_s]: (B, C, H, W)."""
        found = []
        for z, log_weight in zip(self.z.unbind(1), self.log_weight.unbind(1), strict=True):
            found.append(torch.einsum("s,s...->...", log_weight.exp(), vae.decode(z)))
        return torch.stack(found)

    @torch.no_grad()
    def log_prob(self, vae: VAE, x: Tensor, missing: Tensor) -> Tensor:
        """log p(x_missing | x_observed) of the true pixels, all of them together, in nats: (B,).

        The logarithm of sum_s w_s p(x_missing | z_s).

        Args:
            vae: the model that the latents belong to.
            x, missing: whole images, and which pixels were missing; each (B, C, H, W).
        """
        return torch.logsumexp(self.log_weight + log_likelihood(vae, self.z, x, missing), 0)

    @torch.no_grad()
    def draw(self, vae: VAE, n: int, *, seed: int = 0) -> Tensor:
        """n latents of each image by their weights, and an image drawn from each: (n, B, C, H, W)."""
        with seeded(seed):
            chosen = torch.multinomial(self.log_weight.exp().T, n, replacement=True).T  # (n, B)
            z = self.z.gather(0, chosen[..., None].expand(-1, -1, self.z.shape[-1]))
            return vae.decoder(z).sample()


def log_likelihood(vae: VAE, z: Tensor, x: Tensor, where: Tensor) -> Tensor:
    """log p(x_where | z): the sum over the pixels that are asked for, and no others, in nats.

    Args:
        vae: with a likelihood of independent pixels.
        z: latents (S, B, D).
        x, where: images and booleans, each (B, C, H, W).

    Returns:
        (S, B).
    """
    found = []
    for part in z.split(max(1, _AT_ONCE // len(x))):
        pixels = vae.decoder(part).base_dist.log_prob(x)  # (s, B, ...)
        found.append((pixels * where).flatten(2).sum(-1))
    return torch.cat(found)


def fit_proposal(
    vae: VAE, x: Tensor, observed: Tensor, fills: Tensor, *, steps: int = 150,
    learning_rate: float = 0.05, widen: float = 1.2, seed: int = 0,
) -> Distribution:  # fmt: skip
    """A mixture of K Gaussians near p(z | x_observed), each fitted by gradient to the bound

    E_q[log p(x_observed | z)] - KL(q || p(z)) on log p(x_observed), from a start of its own: the
    encoder's answer to the image with its missing pixels filled in. One draw a step, Adam, with a
    learning rate that falls to zero. The posterior must be a mean-field Gaussian, and the prior
    standard normal.

    Args:
        vae, x, observed: as for :func:`importance`.
        fills: K ways to fill in, (K, B, C, H, W) or what broadcasts to it. A model of an
            :class:`~vae_tutorial.likelihoods.Observed` likelihood reads zeros and the mask instead.
        steps, learning_rate: of Adam; after no step the starts themselves are widened and returned.
        widen: the fitted standard deviations are multiplied by this. A proposal that is too wide
            wastes draws; one that is too narrow has weights of a huge variance.
        seed: of the draws.

    Returns:
        Batch shape (B,), event shape (D,).
    """
    check_observed(x, observed)
    with torch.no_grad():
        starts = [vae.encoder(_read(vae, x, observed, fill)) for fill in fills]
    mean = torch.stack([q.mean for q in starts]).requires_grad_()  # (K, B, D)
    log_scale = torch.stack([q.stddev for q in starts]).log().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_scale], learning_rate)
    with seeded(seed), torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            z = mean + log_scale.exp() * torch.randn_like(mean)
            kl = 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
            loss = (kl - log_likelihood(vae, z, x, observed)).sum()
            gradients = torch.autograd.grad(loss, [mean, log_scale])
            mean.grad, log_scale.grad = gradients
            optimizer.step()
    parts = Normal(mean.detach().movedim(0, 1), widen * log_scale.detach().exp().movedim(0, 1))
    weights = Categorical(logits=torch.zeros(parts.mean.shape[:2]))
    return MixtureSameFamily(weights, Independent(parts, 1))


@torch.no_grad()
def importance(
    vae: VAE, x: Tensor, observed: Tensor, proposal: Distribution, *, samples: int = 500,
    seed: int = 0,
) -> Imputation:  # fmt: skip
    """Self-normalized importance sampling of the latent, given the observed pixels alone.

    Weights proportional to p(x_observed | z) p(z) / r(z) for draws z from a proposal r: Mattei &
    Frellsen (2019).

    Args:
        vae: with a likelihood of independent pixels.
        x: images (B, C, H, W); what stands at missing places must be in the likelihood's support,
            and changes nothing.
        observed: booleans of the same shape, True where a pixel is known.
        proposal: r(z), of batch shape (B,): an encoder's answer, that of :func:`fit_proposal`, or
            ``vae.prior().expand((B,))``.
        samples: S, draws for each image.
        seed: of the draws.

    Raises:
        ValueError: for a mask of another shape or type, another batch shape, or no samples.
    """
    check_observed(x, observed)
    if samples < 1 or tuple(proposal.batch_shape) != (len(x),):
        raise ValueError(
            f"needs at least 1 sample from a proposal for each of {len(x)} images, got "
            f"samples={samples} and batch shape {tuple(proposal.batch_shape)}; a prior serves all "
            "images as prior.expand((B,))"
        )
    with seeded(seed):
        z = proposal.sample((samples,))  # (S, B, D)
    log_weight = vae.prior().log_prob(z) - proposal.log_prob(z)
    log_weight = log_weight + log_likelihood(vae, z, x, observed)
    return Imputation(z, log_weight - torch.logsumexp(log_weight, 0))


@torch.no_grad()
def gibbs(
    vae: VAE, x: Tensor, observed: Tensor, fill: Tensor, *, sweeps: int = 200, burn_in: int = 100,
    metropolis: bool = True, seed: int = 0,
) -> Imputation:  # fmt: skip
    """A chain: encode the filled image, decode, draw the missing pixels, and begin again.

    Without ``metropolis`` this is the pseudo-Gibbs chain of Rezende et al. (2014). It
    takes q(z|x) for the true posterior, and keeps the encoder's error. With it, the encoder's draw
    is accepted or refused as in Mattei & Frellsen (2018), and the chain's limit is the
    model's own conditional.

    Args:
        vae, x, observed, seed: as for :func:`importance`.
        fill: what stands at missing places at first; of a shape that broadcasts to the images'.
        sweeps: rounds in all.
        burn_in: how many of them are left out at the beginning.
        metropolis: accept or refuse, or accept always.

    Returns:
        The latents of the rounds that are kept, equally weighted.
    """
    check_observed(x, observed)
    if not 0 <= burn_in < sweeps:
        raise ValueError(f"needs 0 <= burn_in < sweeps, got {burn_in} and {sweeps}")
    everywhere, kept = torch.ones_like(observed), []
    with seeded(seed):
        filled, z = torch.where(observed, x, fill), None
        for sweep in range(sweeps):
            q = vae.encoder(filled)
            proposed = q.sample()  # (B, D)
            if metropolis and z is not None:
                both = torch.stack([proposed, z])  # (2, B, D)
                weight = vae.prior().log_prob(both) - q.log_prob(both)
                new, old = weight + log_likelihood(vae, both, filled, everywhere)
                accepted = torch.rand_like(new).log() < new - old
                proposed = torch.where(accepted[:, None], proposed, z)
            z = proposed
            filled = torch.where(observed, x, vae.decoder(z).sample())
            if sweep >= burn_in:
                kept.append(z)
    latents = torch.stack(kept)
    return Imputation(latents, latents.new_full(latents.shape[:2], -math.log(len(kept))))


def check_observed(x: Tensor, observed: Tensor) -> None:
    """A mask must be booleans of the images' shape; a ValueError where it is not."""
    if observed.dtype != torch.bool or observed.shape != x.shape:
        raise ValueError(
            f"observed must be booleans of the images' shape {tuple(x.shape)}, True where a pixel "
            f"is known, got {observed.dtype} of shape {tuple(observed.shape)}"
        )


def _read(vae: VAE, x: Tensor, observed: Tensor, fill: Tensor) -> Tensor:
    """What the encoder reads: a filled example, or the holes and the mask that it was trained with."""
    if isinstance(vae.decoder.likelihood, Observed):
        return torch.stack([torch.where(observed, x, 0), observed.to(x)], 1)
    return torch.where(observed, x, fill.expand_as(x))
