"""Another prior for a finished VAE: fitted to the codes of its images, encoder and decoder as they are.

The average over images of -log r(z), with z drawn from each image's posterior, is the prior's part of
the negative ELBO. What makes it small is the best prior for this encoder, and takes the old one's
place without another step of the VAE's training.
"""

import hashlib

import torch
from torch import Tensor, nn

from vae_tutorial.data import Dataset, Split
from vae_tutorial.evaluate import per_example
from vae_tutorial.models.vae import VAE
from vae_tutorial.priors import StandardNormal


def posteriors_of(vae: VAE, source: Dataset, *, batch_size: int = 1000) -> Dataset:
    """A data set of posteriors (N, 2, D): the mean and the standard deviation of q(z|x), per image.

    The recipe is the source's checksum and the encoder's weights, so a prior fitted to the codes of
    one VAE is told from one of another.
    """
    weights = b"".join(v.cpu().numpy().tobytes() for v in vae.encoder.state_dict().values())
    recipe = f"posteriors of {source.sha256} by {hashlib.sha256(weights).hexdigest()}"

    def posterior(vae: VAE, x: Tensor) -> dict[str, Tensor]:
        q = vae.encoder(x)
        return {"posteriors": torch.stack([q.mean, q.stddev], 1)}  # (B, 2, D)

    def encode(split: Split) -> Split:
        terms = per_example(vae, posterior, split, batch_size=batch_size)
        return Split(terms["posteriors"].float(), split.labels)

    return Dataset(f"{source.name}-posteriors", *map(encode, source.splits), source.classes, recipe)


def standardized(codes: Dataset) -> tuple[Dataset, float, float]:
    """Posteriors (N, 2, D) shifted and scaled, so that all numbers of all codes have mean 0, variance 1.

    One shift and one factor for every dimension, as in front of the priors of latent diffusion models
    (Rombach et al. 2022, appendix G, has the factor alone). They come from the training images: the
    mean of all means, and one over the standard deviation of codes, Var(mean) + E[scale^2].

    Returns:
        A tuple of the new data set, the shift and the factor. A new code is (old - shift) * factor.
    """
    mean, scale = codes.train.examples.double().unbind(1)
    shift = float(mean.mean())
    factor = 1 / float((mean.var(correction=0) + scale.square().mean()).sqrt())

    def change(split: Split) -> Split:
        mean, scale = split.examples.unbind(1)
        return Split(torch.stack([(mean - shift) * factor, scale * factor], 1), split.labels)

    recipe = f"standardized {codes.recipe or codes.sha256}"
    return Dataset(codes.name, *map(change, codes.splits), codes.classes, recipe), shift, factor


def draw(posteriors: Tensor, samples: int = 1) -> Tensor:
    """Codes (S, N, D) from posteriors (N, 2, D)."""
    mean, scale = posteriors.unbind(1)
    return mean + scale * torch.randn(samples, *mean.shape, device=mean.device)


def one_draw(posteriors: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """A fresh code (B, D) from each posterior (B, 2, D); what comes with them stays.

    For ``prepare`` of :func:`~vae_tutorial.fit.fit`, where an objective reads codes.
    """
    return draw(posteriors)[0], *rest


def prior_cross_entropy(prior: nn.Module, posteriors: Tensor, *, samples: int = 1) -> dict:
    """What a prior r(z) costs on codes drawn from posteriors (B, 2, D): an objective for ``fit``.

    Returns:
        ``loss``, the mean of -log r(z) over S draws for each image, and ``saved``, the nats per
        image that the ELBO gains where r takes the place of N(0, I): the mean of log r(z) -
        log N(z; 0, I). Its average over fresh images is never above KL(q(z) || N(0, I)).
    """
    z = draw(posteriors, samples)  # (S, B, D)
    log_new = prior().log_prob(z)
    log_old = StandardNormal(z.shape[-1]).to(z.device)().log_prob(z)
    return {"loss": -log_new.mean(0), "saved": (log_new - log_old).mean(0)}
