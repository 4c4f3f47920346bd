"""Evaluation: numbers about a trained model, always of the plain ELBO (beta = 1).

Everything is in nats an image, with sums over pixels and latent dimensions. An estimate comes
with its standard error over images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_tutorial.autoencoder import Autoencoder
from vae_tutorial.data import check_images, to_float
from vae_tutorial.networks import device_of
from vae_tutorial.objectives import elbo, reconstruction_error
from vae_tutorial.randomness import seeded
from vae_tutorial.vae import VAE


@torch.no_grad()
def _per_image(model: nn.Module, images: Tensor, function, batch_size: int, seed: int):
    """``function(x)`` -> terms (B,), for all images, as float64 on the CPU."""
    check_images(images)
    was_training = model.training
    model.eval()
    collected: dict[str, list[Tensor]] = {}
    with seeded(seed):
        for chunk in images.split(batch_size):
            for name, term in function(to_float(chunk.to(device_of(model)))).items():
                collected.setdefault(name, []).append(term.cpu().double())
    model.train(was_training)
    return {name: torch.cat(parts) for name, parts in collected.items()}


def evaluate_elbo(
    vae: VAE, images: Tensor, *, samples: int = 10, batch_size: int = 500, seed: int = 0
) -> dict[str, float]:
    """The negative ELBO of held-out images, and its two terms.

    Args:
        vae: a trained model.
        images: (N, C, H, W).
        samples: S, posterior samples an image.
        batch_size: images at a time.
        seed: of the draws.

    Returns:
        ``test_negative_elbo`` = ``test_reconstruction`` + ``test_kl`` in nats an image, and
        ``test_standard_error`` of the first over images.
    """
    terms = _per_image(vae, images, lambda x: elbo(vae, x, samples=samples), batch_size, seed)
    loss = terms["loss"]
    return {
        "test_negative_elbo": float(loss.mean()),
        "test_reconstruction": float(terms["reconstruction"].mean()),
        "test_kl": float(terms["kl"].mean()),
        "test_standard_error": float(loss.std(correction=0) / math.sqrt(len(loss))),
        "posterior_samples": samples,
    }


def evaluate_reconstruction(
    model: Autoencoder, images: Tensor, *, batch_size: int = 500
) -> dict[str, float]:
    """The plain autoencoder's reconstruction error of held-out images, in nats an image.

    No bound on anything: it does not say how probable an image is, and is not comparable with a
    negative ELBO.
    """
    terms = _per_image(model, images, lambda x: reconstruction_error(model, x), batch_size, 0)
    loss = terms["loss"]
    return {
        "test_reconstruction": float(loss.mean()),
        "test_standard_error": float(loss.std(correction=0) / math.sqrt(len(loss))),
    }


def importance_weighted_bound(
    vae: VAE, images: Tensor, *, samples: int = 100, batch_size: int = 50, seed: int = 0
) -> Tensor:
    """The importance-weighted lower bound on log p(x) of Burda et al. (2015), equation 8.

    log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) with K samples z_k from q(z|x): the ELBO at K = 1,
    closer to log p(x) with every sample, equal to it in the limit.

    Args:
        vae: a trained model.
        images: (N, C, H, W).
        samples: K, samples an image.
        batch_size: images at a time (each takes K passes through the decoder at once).
        seed: of the draws.

    Returns:
        (N,), float64, in nats; larger is better.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")

    def bound(x: Tensor) -> dict[str, Tensor]:
        q = vae.encoder(x)
        z = q.rsample((samples,))  # (K, B, D)
        log_weight = vae.decoder(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
        return {"bound": log_weight.logsumexp(0) - math.log(samples)}

    return _per_image(vae, images, bound, batch_size, seed)["bound"]


def nearest_images(
    images: Tensor, known: Tensor, labels: Tensor, *, k: int = 10
) -> tuple[Tensor, Tensor]:
    """How far images are from known ones, and what those show: a judge that knows no model.

    Distances are Euclidean between pixels. So an image that copies a known one scores best, and
    blur scores well; read such numbers beside the pictures.

    Args:
        images: (B, C, H, W), to be judged, bytes or floats.
        known: (N, C, H, W), for example training images.
        labels: (N,), their classes.
        k: how many neighbours.

    Returns:
        The distance to the nearest known image, (B,), and the classes of the k nearest, (B, k).
    """
    x, y = (to_float(part).flatten(1) for part in (images, known))  # (B, P), (N, P)
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T  # (B, N)
    nearest = squares.clamp(min=0).topk(k, largest=False)
    return nearest.values[:, 0].sqrt(), labels[nearest.indices]


def moments_from_standard_normal(codes: Tensor) -> dict[str, float]:
    """How far a cloud of codes is from N(0, I), by its first two moments.

    KL(N(m, C) || N(0, I)) = 1/2 (tr C + m'm - D - ln det C), with m and C the codes' mean and
    covariance: the Gaussian with the same moments against the standard normal. Zero when both
    agree; blind to anything that is not a moment.

    Args:
        codes: (N, D), with N larger than D.

    Returns:
        ``kl`` in nats, ``kl_per_dimension``, ``largest_mean`` (of |m_d|), ``smallest_std`` and
        ``largest_std`` over the dimensions.
    """
    codes = codes.double()
    n, d = codes.shape
    if n <= d:
        raise ValueError(f"needs more codes than dimensions, got {n} codes of {d} dimensions")
    mean, cov = codes.mean(0), torch.atleast_2d(codes.T.cov())
    kl = 0.5 * (cov.trace() + mean.square().sum() - d - torch.logdet(cov))
    std = codes.std(0)
    return {
        "kl": float(kl),
        "kl_per_dimension": float(kl) / d,
        "largest_mean": float(mean.abs().max()),
        "smallest_std": float(std.min()),
        "largest_std": float(std.max()),
    }
