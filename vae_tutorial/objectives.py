"""Objectives: what training makes small, in nats, one number per example.

An objective takes a model and a batch and returns a dictionary of named terms, each (B,) and in
nats per image: **summed** over pixels and latent dimensions. ``"loss"`` comes first; the gradient is
taken of its **mean** over the batch, so it does not change with the batch size.
"""

from __future__ import annotations

from math import log, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_tutorial.models.vae import VAE

Terms = dict[str, Tensor]


def binary_cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """The binary cross-entropy (...) of images x in [0, 1] under logits (..., C, H, W), in nats.

    -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)] with y = sigmoid(logits); the shapes broadcast. For
    binary pixels this is exactly -log p(x|z) of a Bernoulli (Kingma & Welling 2013, appendix C.1,
    equation 11); for greys it is the shortcut that most tutorials take.
    """
    logits, x = torch.broadcast_tensors(logits, x)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((-3, -2, -1))


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag(exp(log_variance))) || N(0, I)) of (..., D) each: (...), in nats.

    -1/2 sum_d (1 + log sigma_d^2 - mu_d^2 - sigma_d^2), Kingma & Welling (2013), appendix B and
    equation 10. Never negative.
    """
    # expm1(v) is exp(v) - 1 without the rounding that makes the sum slightly negative near v = 0.
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(-1)


def kl_monte_carlo(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p), (B,), in nats, from samples z (S, B, D) of q: the mean of log q(z) - log p(z).

    Unbiased, for any two distributions that can name their densities. A single estimate can be
    negative; its expectation cannot.
    """
    return (q.log_prob(z) - p.log_prob(z)).mean(0)


def kl_divergence(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p), shape (B,): in closed form where there is one, else by Monte Carlo over z."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return kl_monte_carlo(q, p, z)


def kl_per_dimension(q: Distribution) -> Tensor:
    """KL(q(z_d|x) || N(0, 1)) of each latent dimension: (B, D), in nats.

    Raises:
        ValueError: for other posteriors than a :class:`~vae_tutorial.posteriors.MeanFieldGaussian`:
            where dimensions depend on each other, the KL term is no sum over them.
    """
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise ValueError(f"only a mean-field Gaussian has one KL term per dimension, got {q}")
    mean, scale = q.base_dist.mean.unsqueeze(-1), q.base_dist.stddev.unsqueeze(-1)
    return gaussian_kl(mean, 2 * scale.log())


def elbo(vae: VAE, x: Tensor, *, beta: float = 1.0, samples: int = 1) -> Terms:
    """The negative evidence lower bound, by the reparameterized estimator with S samples.

    -log p(x) <= E_q(z|x)[-log p(x|z)] + KL(q(z|x) || p(z)), Kingma & Welling (2013), equation 3
    with the estimator of equation 7. The expectation averages **log-likelihoods** over samples of z;
    averaging logits or images before would not even give a bound (by Jensen's inequality).

    Args:
        vae, x: the model, and images (B, C, H, W) in [0, 1].
        beta: weight of the KL term in the loss (Higgins et al. 2017). At 1 the loss is the
            negative ELBO; anything else is an objective, not a bound to be quoted.
        samples: S, how many z are drawn for each image.

    Returns:
        ``loss`` = ``reconstruction`` + beta * ``kl``, and ``negative_elbo``, their plain sum.
    """
    q, z = _posterior_sample(vae, x, samples)
    reconstruction = -vae.decoder(z).log_prob(x).mean(0)  # (S, B) -> (B,)
    kl = kl_divergence(q, vae.prior(), z)
    return _terms(reconstruction + beta * kl, reconstruction, kl)


def iwae_elbo(
    vae: VAE, x: Tensor, *, samples: int = 5, kept: int | None = None, doubly: bool = False
) -> Terms:
    """The negative importance-weighted bound, as an objective: an IWAE where S > 1.

    -log p(x) <= -E[log 1/S sum_s w_s] with w_s = p(x|z_s) p(z_s) / q(z_s|x), Burda et al. (2015),
    equation 8. With the normalized weights v_s = w_s / sum w the gradient is that of
    -sum_s v_s log w_s, the v_s held fixed (their equation 14). At S = 1 it is the ELBO's.

    Args:
        vae, x: the model, and images (B, C, H, W). A hierarchy, too, with the plain gradient alone.
        samples: S, how many z are drawn for each image.
        kept: send gradients through this many samples alone, drawn in proportion to v_s. The
            expectation of the gradient stays, and two thirds of the work are gone where S is large:
            all others go forward through the decoder only. ``None`` sends it through all of them.
        doubly: the doubly reparameterized gradient of the encoder, sum_s v_s^2 d log w_s / d z_s
            (Tucker et al. 2018). It has the same expectation; its signal does not drown in noise as
            S grows.

    Returns:
        ``loss``, the negative bound, and ``negative_elbo``, from the same samples, (B,).
    """
    if samples < 1 or (kept is not None and kept < 1):
        raise ValueError(f"samples and kept must be at least 1, got {samples} and {kept}")
    if hasattr(vae, "log_weights"):  # a hierarchy, whose layers draw from each other
        if kept is not None or doubly:
            raise ValueError("a hierarchy has the plain gradient alone: leave out kept and doubly")
        log_w = vae.log_weights(x, samples)
        bound = log_w.logsumexp(0) - log(samples)
        return {"loss": -bound, "negative_elbo": -log_w.detach().mean(0)}
    parameters = vae.encoder.network(x)
    if torch.is_autocast_enabled(x.device.type):  # weights need more than bfloat16's three digits
        parameters = parameters.float()
    q = vae.encoder.posterior(parameters)
    # Of log q only the path through z is followed: the rest is what the squared weights stand for.
    judge = vae.encoder.posterior(parameters.detach()) if doubly else q
    z = q.rsample((samples,))

    def log_weight(z: Tensor) -> Tensor:
        return vae.decoder(z).log_prob(x) + vae.prior().log_prob(z) - judge.log_prob(z)

    with torch.set_grad_enabled(torch.is_grad_enabled() and kept is None):
        log_w = log_weight(z)  # (S, B)
    negative_bound = log(samples) - log_w.detach().logsumexp(0)
    share = through = log_w.detach().softmax(0)
    if kept is not None:
        chosen = torch.multinomial(share.T, kept, replacement=True).T  # (kept, B)
        z = z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
        log_w_kept, share = log_weight(z), share.gather(0, chosen)
        through = torch.full_like(share, 1 / kept)
    else:
        log_w_kept = log_w
    if doubly and z.requires_grad:
        z.register_hook(lambda gradient: share.unsqueeze(-1) * gradient)
    carries = (through * log_w_kept).sum(0)  # the gradient's; its value is taken off again
    loss = negative_bound - (carries - carries.detach())
    return {"loss": loss, "negative_elbo": -log_w.detach().mean(0)}


def _posterior_sample(vae: VAE, x: Tensor, samples: int) -> tuple[Distribution, Tensor]:
    """q(z|x), batch (B,) and event (D,), and z (S, B, D), differentiable in the parameters of q."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    q = vae.encoder(x)
    return q, q.rsample((samples,))


def _terms(loss: Tensor, reconstruction: Tensor, kl: Tensor, **more: Tensor) -> Terms:
    """What is trained, the bound whatever was trained, and its two parts."""
    bound = {"negative_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}
    return {"loss": loss} | bound | more


def free_bits_elbo(
    vae: VAE, x: Tensor, *, free_nats: float = 0.25, beta: float = 1.0, samples: int = 1
) -> Terms:
    """The negative ELBO with a part of each dimension's KL term for free.

    reconstruction + beta * sum_d max(free_nats, mean over the batch of KL_d), Kingma et al.
    (2016), appendix on free bits, with one group per dimension. Below ``free_nats`` a dimension's KL
    has no gradient: nothing presses a posterior the last stretch into the prior. The model needs a
    mean-field Gaussian posterior and a standard normal prior.

    Args:
        vae, x, beta, samples: as for :func:`elbo`.
        free_nats: lambda, nats that each latent dimension may use unpunished.

    Returns:
        The terms of :func:`elbo`, with the true ``kl``, and ``free_kl``, the one in the loss, the same
        for every image of a batch.
    """
    if not free_nats >= 0:
        raise ValueError(f"free_nats must not be negative, got {free_nats}; 0 is the plain ELBO")
    q, z = _posterior_sample(vae, x, samples)
    reconstruction = -vae.decoder(z).log_prob(x).mean(0)  # (S, B) -> (B,)
    kl = kl_per_dimension(q)  # (B, D)
    free_kl = kl.mean(0).clamp(min=free_nats).sum().expand(len(x))
    return _terms(reconstruction + beta * free_kl, reconstruction, kl.sum(-1), free_kl=free_kl)


def beta_nll_elbo(
    vae: VAE, x: Tensor, *, nll_beta: float = 0.5, beta: float = 1.0, samples: int = 1
) -> Terms:
    """The negative ELBO with beta-NLL as its reconstruction term, for Gaussian pixels.

    Each pixel's -log N(x_i; y_i, sigma_i^2) is weighted by sigma_i^(2 nll_beta), through which no
    gradient flows: Seitzer et al. (2022). The gradient of the mean, (y_i - x_i) / sigma_i^2 in the
    plain objective, no longer fades where the predicted variance is large. At nll_beta = 0 this is
    :func:`elbo`; at 1 the mean learns as under the squared error. The model needs a
    :class:`~vae_tutorial.likelihoods.Gaussian` likelihood.

    Args:
        vae, x, beta, samples: as for :func:`elbo`.
        nll_beta: Seitzer's beta, in [0, 1]. It has nothing to do with ``beta``.

    Returns:
        The terms of :func:`elbo`, the plain -log p(x|z) among them, and ``weighted``, the
        reconstruction term as trained (no log of a density): ``loss`` = ``weighted`` + beta * ``kl``.
    """
    if not 0 <= nll_beta <= 1:
        raise ValueError(f"nll_beta must lie in [0, 1], got {nll_beta}; 0 is the plain ELBO")
    q, z = _posterior_sample(vae, x, samples)
    p = vae.decoder(z)
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
        raise ValueError(f"needs the variances of a likelihoods.Gaussian, the decoder answers {p}")
    nll = -p.base_dist.log_prob(x)  # (S, B, C, H, W)
    pixels = tuple(range(2, nll.ndim))
    weight = p.base_dist.variance.detach() ** nll_beta
    weighted = (weight * nll).sum(pixels).mean(0)
    kl = kl_divergence(q, vae.prior(), z)
    return _terms(weighted + beta * kl, nll.sum(pixels).mean(0), kl, weighted=weighted)


def bits_per_dimension(nats: float | Tensor, image_shape: tuple[int, ...]) -> float | Tensor:
    """Nats per image to bits per pixel and channel.

    Published ones are of likelihoods of the 8-bit values themselves: Theis et al. (2016).
    """
    return nats / (prod(image_shape) * log(2))


def label_loss(classifier: nn.Module, x: Tensor, labels: Tensor) -> Terms:
    """A classifier's exact negative log-likelihood of the labels (B,) of images (B, C, H, W).

    ``loss`` and ``nats`` are the same number, ``bits`` are nats / ln 2, and ``error`` is 1 where the
    likeliest class is not the label's, else 0; each (B,).
    """
    logits = classifier(x).float()
    nats = F.cross_entropy(logits, labels, reduction="none")
    error = (logits.argmax(1) != labels).float()
    return {"loss": nats, "nats": nats, "bits": nats / log(2), "error": error}
