"""Evaluation: numbers about a trained model, always of the plain ELBO (beta = 1).

Everything is in nats an image, with sums over pixels and latent dimensions. An estimate comes
with its standard error over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vae_tutorial.autoencoder import Autoencoder
from vae_tutorial.data import check_images, to_float
from vae_tutorial.ladder import LadderVAE, ladder_elbo
from vae_tutorial.networks import device_of
from vae_tutorial.objectives import elbo, kl_per_dimension, reconstruction_error
from vae_tutorial.pixelcnn import GatedPixelCNN, code_loss
from vae_tutorial.randomness import seeded
from vae_tutorial.vae import VAE
from vae_tutorial.vqvae import VQVAE, perplexity


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
    vae: VAE,
    images: Tensor,
    *,
    samples: int = 10,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """The negative ELBO of held-out images, and its two terms.

    Args:
        vae: a trained model.
        images: (N, C, H, W).
        samples: S, posterior samples an image.
        transform: applied to each float batch first, as in :func:`~vae_tutorial.training.fit`, for
            example :func:`~vae_tutorial.likelihoods.binarize` (the seed covers its draws, too).
        batch_size: images at a time.
        seed: of the draws.

    Returns:
        ``test_negative_elbo`` = ``test_reconstruction`` + ``test_kl`` in nats an image, and
        ``test_standard_error`` of the first over images.
    """

    def terms_of(x: Tensor) -> dict[str, Tensor]:
        return elbo(vae, x if transform is None else transform(x), samples=samples)

    terms = _per_image(vae, images, terms_of, batch_size, seed)
    loss = terms["loss"]
    return {
        "test_negative_elbo": float(loss.mean()),
        "test_reconstruction": float(terms["reconstruction"].mean()),
        "test_kl": float(terms["kl"].mean()),
        "test_standard_error": float(loss.std(correction=0) / math.sqrt(len(loss))),
        "posterior_samples": samples,
    }


def evaluate_ladder(
    model: LadderVAE,
    images: Tensor,
    *,
    samples: int = 10,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 250,
    seed: int = 0,
) -> dict[str, float]:
    """The negative ELBO of a hierarchy on held-out images, and the KL term of each layer.

    Args and units as for :func:`evaluate_elbo`.

    Returns:
        ``test_negative_elbo`` = ``test_reconstruction`` + ``test_kl``, ``test_kl_1``, ... of the
        layers, and ``test_standard_error``.
    """

    def terms_of(x: Tensor) -> dict[str, Tensor]:
        return ladder_elbo(model, x if transform is None else transform(x), samples=samples)

    terms = _per_image(model, images, terms_of, batch_size, seed)
    loss = terms.pop("loss")
    means = {f"test_{name}": float(term.mean()) for name, term in terms.items()}
    return {"test_negative_elbo": float(loss.mean()), **means} | {
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


def latent_usage(vae: VAE, images: Tensor, *, batch_size: int = 1000) -> dict[str, Tensor]:
    """What each latent dimension is used for: its KL term, and the activity of Burda et al. (2015).

    The activity of a dimension is the variance over images of its posterior mean, Cov_x(E_q[z_d]);
    they call a dimension **active** where it is above 0.01. A collapsed dimension has the same
    posterior, the prior, for every image: KL and activity are both zero.

    Args:
        vae: a model with a mean-field Gaussian posterior.
        images: (N, C, H, W), N at least 2.
        batch_size: images at a time.

    Returns:
        ``kl`` in nats, the mean over images, and ``activity``, each (D,), float64.
    """
    if len(images) < 2:
        raise ValueError("a variance over images needs at least 2 of them")

    def usage(x: Tensor) -> dict[str, Tensor]:
        q = vae.encoder(x)
        return {"kl": kl_per_dimension(q), "mean": q.mean}

    terms = _per_image(vae, images, usage, batch_size, 0)
    return {"kl": terms["kl"].mean(0), "activity": terms["mean"].var(0)}


def active_units(vae: VAE, images: Tensor, *, threshold: float = 0.01) -> int:
    """How many latent dimensions are active: activity (:func:`latent_usage`) above ``threshold``."""
    return int((latent_usage(vae, images)["activity"] > threshold).sum())


def calibration(predicted: Tensor, errors: Tensor, *, bins: int = 10) -> dict[str, Tensor]:
    """Predicted variances against the squared errors that came, in bins of equally many pixels.

    Pixels are sorted by the variance predicted for them and cut into equal parts. Where the
    variances are calibrated, the mean squared error of a part is its mean predicted variance.

    Args:
        predicted: variances, any shape.
        errors: errors x - E[x] of the same pixels, the same shape.
        bins: how many parts.

    Returns:
        ``predicted`` and ``actual``, each (bins,), float64, in squared grey values, ascending in
        the first.
    """
    if predicted.shape != errors.shape:
        raise ValueError(
            "predicted variances and errors must be of the same pixels, got shapes "
            f"{tuple(predicted.shape)} and {tuple(errors.shape)}"
        )
    if not 1 <= bins <= predicted.numel():
        raise ValueError(f"bins must lie between 1 and the number of pixels, got {bins}")
    variances, order = predicted.flatten().double().sort(stable=True)
    squares = errors.flatten().double().square()[order]
    parts = list(zip(variances.tensor_split(bins), squares.tensor_split(bins), strict=True))
    return {
        "predicted": torch.stack([v.mean() for v, _ in parts]),
        "actual": torch.stack([s.mean() for _, s in parts]),
    }


@torch.no_grad()
def evaluate_vqvae(model: VQVAE, images: Tensor, *, batch_size: int = 500) -> dict[str, float]:
    """How well a VQ-VAE redraws held-out images, and how many of its codes it uses for them.

    Returns:
        ``test_reconstruction``, the mean squared error over the numbers of an image in [0, 1];
        ``test_perplexity``, exp of the entropy of the codes over all places of all images;
        ``test_codes_used``, the share of the K codes that occur at all.
    """
    check_images(images)
    was_training = model.training
    model.eval()
    errors, codes = [], []
    for chunk in images.split(batch_size):
        x = to_float(chunk.to(device_of(model)))
        codes.append(model.encode(x).cpu())
        redrawn = model.decode(codes[-1].to(x.device))
        errors.append((redrawn - x).square().mean((1, 2, 3)).cpu().double())
    model.train(was_training)
    k, every = model.quantizer.num_codes, torch.cat(codes)
    return {
        "test_reconstruction": float(torch.cat(errors).mean()),
        "test_perplexity": float(perplexity(every, k)),
        "test_codes_used": len(every.unique()) / k,
    }


def evaluate_codes(
    model: GatedPixelCNN, images: Tensor, *, batch_size: int = 500
) -> dict[str, float]:
    """The negative log-likelihood of held-out grids of codes: exact, not a bound.

    Args:
        model: a trained PixelCNN.
        images: grids as bytes (N, 1, H, W); see :func:`~vae_tutorial.pixelcnn.codes_as_images`.
        batch_size: grids at a time.

    Returns:
        ``test_bits`` in bits a code, its ``test_standard_error`` over grids, and ``test_nats`` in
        nats a grid.
    """
    terms = _per_image(model, images, lambda x: code_loss(model, x), batch_size, 0)
    bits, nats = terms["bits"], terms["loss"]
    return {
        "test_bits": float(bits.mean()),
        "test_standard_error": float(bits.std(correction=0) / math.sqrt(len(bits))),
        "test_nats": float(nats.mean()),
    }


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
