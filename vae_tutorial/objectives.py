"""Objectives: what training makes small, in nats, one number an example.

An objective takes a model and a batch and returns a dictionary of named terms, each of shape
(B,). ``"loss"`` comes first and is what the gradient is taken of, after the mean over the batch.
Everything is **summed** over pixels and latent dimensions and **averaged** over the batch, so the
loss does not change with the batch size, and is a number of nats an image.
"""

from __future__ import annotations

from math import log, prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae_tutorial.autoencoder import Autoencoder
from vae_tutorial.priors import IndependentStandardNormal
from vae_tutorial.vae import VAE

Terms = dict[str, Tensor]


def binary_cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """The binary cross-entropy of an image, summed over its pixels.

    -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)] with y = sigmoid(logits), computed from the
    logits. For binary pixels this is exactly -log p(x|z) of a Bernoulli (Kingma & Welling 2013,
    appendix C.1, equation 11); for greys it is the customary shortcut.

    Args:
        logits: (..., C, H, W).
        x: images in [0, 1], of a shape that broadcasts with ``logits``.

    Returns:
        (...), in nats an image.
    """
    logits, x = torch.broadcast_tensors(logits, x)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((-3, -2, -1))


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag(exp(log_variance))) || N(0, I)) in closed form.

    -1/2 sum_d (1 + log sigma_d^2 - mu_d^2 - sigma_d^2), Kingma & Welling (2013), appendix B and
    equation 10.

    Args:
        mean: (..., D).
        log_variance: (..., D), the logarithm of sigma squared.

    Returns:
        (...), in nats; never negative.
    """
    # expm1(v) is exp(v) - 1 without the rounding that makes the sum slightly negative near v = 0.
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(-1)


def kl_monte_carlo(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) estimated from samples z of q: the mean of log q(z) - log p(z).

    Unbiased, for any two distributions that can name their densities. A single estimate can be
    negative; its expectation cannot.

    Args:
        q: batch shape (B,), event shape (D,).
        p: the same event shape.
        z: (S, B, D), drawn from q.

    Returns:
        (B,), in nats.
    """
    return (q.log_prob(z) - p.log_prob(z)).mean(0)


def full_gaussian_kl(mean: Tensor, scale_tril: Tensor) -> Tensor:
    """KL(N(mean, L L') || N(0, I)) in closed form, L a Cholesky factor.

    1/2 (tr(L L') + mean' mean - D) - sum_d log L_dd: the general formula for two Gaussians
    (Rasmussen & Williams 2006, equation A.23) with a standard normal on the right. The trace is the sum of the
    squares of L's entries.

    Args:
        mean: (..., D).
        scale_tril: (..., D, D), lower triangular with a positive diagonal.

    Returns:
        (...), in nats; never negative.
    """
    squares = scale_tril.square().sum((-2, -1)) + mean.square().sum(-1) - mean.shape[-1]
    return 0.5 * squares - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def kl_divergence(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p), shape (B,): in closed form where there is one, else by Monte Carlo over z."""
    if isinstance(q, MultivariateNormal) and isinstance(p, IndependentStandardNormal):
        return full_gaussian_kl(q.mean, q.scale_tril)
    try:
        kl = torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return kl_monte_carlo(q, p, z)
    return kl.expand(q.batch_shape)


def kl_per_dimension(q: Distribution) -> Tensor:
    """KL(q(z_d|x) || N(0, 1)) of each latent dimension of a mean-field Gaussian.

    Args:
        q: what an encoder with a :class:`~vae_tutorial.posteriors.MeanFieldGaussian` answers.

    Returns:
        (B, D), in nats; the sum over D is :func:`gaussian_kl`.

    Raises:
        ValueError: for a posterior whose dimensions depend on each other; its KL is no such sum.
    """
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise ValueError(
            "the KL term splits into one number a dimension for a mean-field Gaussian only, got "
            f"{type(q).__name__}; use posteriors.MeanFieldGaussian, or kl_divergence for the whole."
        )
    mean, scale = q.base_dist.mean, q.base_dist.stddev
    log_variance = 2 * scale.log()
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance)


def elbo(vae: VAE, x: Tensor, *, beta: float = 1.0, samples: int = 1) -> Terms:
    """The negative evidence lower bound, by the reparameterized estimator with S samples.

    -log p(x) <= E_q(z|x)[-log p(x|z)] + KL(q(z|x) || p(z)), Kingma & Welling (2013), equation 3
    with the estimator of equation 7. The expectation averages **log-likelihoods** over samples of z; averaging
    logits or images before the likelihood would be a different, and wrong, number (by Jensen's
    inequality it is not even a bound).

    Args:
        vae: the model.
        x: images (B, C, H, W) in [0, 1].
        beta: weight of the KL term in the loss (Higgins et al. 2017). At 1 the loss is the
            negative ELBO; anything else is an objective, not a bound to be quoted.
        samples: S, how many z are drawn for an image.

    Returns:
        ``loss`` = ``reconstruction`` + beta * ``kl``, each of shape (B,), in nats an image.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    q = vae.encoder(x)  # batch (B,), event (D,)
    z = q.rsample((samples,))  # (S, B, D), differentiable in the parameters of q
    reconstruction = -vae.decoder(z).log_prob(x).mean(0)  # (S, B) -> (B,)
    kl = kl_divergence(q, vae.prior(), z)  # (B,)
    return {"loss": reconstruction + beta * kl, "reconstruction": reconstruction, "kl": kl}


def free_bits_elbo(
    vae: VAE, x: Tensor, *, free_nats: float = 0.25, beta: float = 1.0, samples: int = 1
) -> Terms:
    """The negative ELBO with a part of each dimension's KL term for free.

    reconstruction + beta * sum_d max(free_nats, mean over the batch of KL_d), Kingma et al.
    (2016), appendix on free bits, with one group a dimension. Below ``free_nats`` a dimension's KL
    has no gradient: nothing presses a posterior the last way into the prior.

    Args:
        vae: a model with a mean-field Gaussian posterior and a standard normal prior.
        x: images (B, C, H, W) in [0, 1].
        free_nats: lambda, nats that each latent dimension may use unpunished.
        beta: weight of the KL term.
        samples: S.

    Returns:
        ``loss``, ``reconstruction``, ``kl`` (the true one) and ``free_kl`` (the one in the loss, the
        same for every image of a batch), each (B,), in nats an image.
    """
    if not free_nats >= 0:
        raise ValueError(f"free_nats must not be negative, got {free_nats}; 0 is the plain ELBO")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    q = vae.encoder(x)
    z = q.rsample((samples,))  # (S, B, D)
    reconstruction = -vae.decoder(z).log_prob(x).mean(0)  # (S, B) -> (B,)
    kl = kl_per_dimension(q)  # (B, D)
    free_kl = kl.mean(0).clamp(min=free_nats).sum().expand(len(x))
    loss = reconstruction + beta * free_kl
    return {"loss": loss, "reconstruction": reconstruction, "kl": kl.sum(-1), "free_kl": free_kl}


def beta_nll_elbo(
    vae: VAE, x: Tensor, *, nll_beta: float = 0.5, beta: float = 1.0, samples: int = 1
) -> Terms:
    """The negative ELBO with beta-NLL as its reconstruction term, for Gaussian pixels.

    Each pixel's -log N(x_i; y_i, sigma_i^2) is weighted by sigma_i^(2 nll_beta), through which no
    gradient flows: Seitzer et al. (2022), equation 5. The gradient of the mean, (y_i - x_i) /
    sigma_i^2 in the plain objective, no longer fades where the predicted variance is large. At
    nll_beta = 0 this is :func:`elbo`; at 1 the mean learns as under the squared error.

    Args:
        vae: a model with a :class:`~vae_tutorial.likelihoods.Gaussian` likelihood.
        x: images (B, C, H, W) in [0, 1].
        nll_beta: Seitzer's beta, in [0, 1]. It has nothing to do with the next one.
        beta: weight of the KL term.
        samples: S.

    Returns:
        ``loss`` = ``weighted`` + beta * ``kl``; ``weighted`` is the reconstruction term as trained (no log
        of a density), ``reconstruction`` the plain -log p(x|z) in nats. Each (B,).
    """
    if not 0 <= nll_beta <= 1:
        raise ValueError(f"nll_beta must lie in [0, 1], got {nll_beta}; 0 is the plain ELBO")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    q = vae.encoder(x)
    z = q.rsample((samples,))  # (S, B, D)
    p = vae.decoder(z)
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
        raise ValueError(
            "beta-NLL weights pixels by their variance, so it needs a Gaussian likelihood, got a "
            f"decoder that answers with {p}; use likelihoods.Gaussian(image_shape, noise='pixelwise')."
        )
    nll = -p.base_dist.log_prob(x)  # (S, B, C, H, W)
    weight = p.base_dist.variance.detach() ** nll_beta
    weighted = (weight * nll).sum((-3, -2, -1)).mean(0)
    kl = kl_divergence(q, vae.prior(), z)
    return {
        "loss": weighted + beta * kl,
        "weighted": weighted,
        "reconstruction": nll.sum((-3, -2, -1)).mean(0),
        "kl": kl,
    }


def reconstruction_error(model: Autoencoder, x: Tensor) -> Terms:
    """The plain autoencoder's loss: -log p(x|z) at the one code z of x, shape (B,), in nats."""
    return {"loss": -model.decoder(model.encode(x)).log_prob(x)}


def bits_per_dimension(nats: float | Tensor, image_shape: tuple[int, ...]) -> float | Tensor:
    """Nats an image to bits a pixel and channel: divide by (number of dimensions times ln 2).

    Only for a likelihood of the 8-bit values themselves do these compare with published bits per
    dimension; see the chapter on likelihoods in the literature, e.g. Theis et al. (2016).
    """
    return nats / (prod(image_shape) * log(2))
