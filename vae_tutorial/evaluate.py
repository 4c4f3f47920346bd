"""Evaluation: an objective's terms over a whole data set, with standard errors; other estimators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vae_tutorial import distributed
from vae_tutorial.batches import Batches, Data, as_tuple
from vae_tutorial.data import floats, to_float
from vae_tutorial.models.vae import VAE
from vae_tutorial.networks import device_of
from vae_tutorial.objectives import kl_per_dimension
from vae_tutorial.randomness import seeded


class Estimate(float):
    """A mean over examples that knows how far it may be off: a float with a ``standard_error``.

    Example:
        >>> bound = Estimate(132.83, 0.489)
        >>> f"{bound:.1f} and {bound}"
        '132.8 and 132.83 ± 0.49'
    """

    standard_error: float | None

    def __new__(cls, mean: float, standard_error: float | None = None) -> Estimate:
        made = super().__new__(cls, mean)
        made.standard_error = None if standard_error is None else float(standard_error)
        return made

    def __str__(self) -> str:
        """The mean with as many decimals as its standard error has two digits for."""
        error = self.standard_error
        if error is None or not 0 < error < math.inf:
            return repr(float(self))
        decimals = max(0, 1 - math.floor(math.log10(error)))
        return f"{float(self):,.{decimals}f} ± {error:,.{decimals}f}"

    __format__ = float.__format__

    def __getnewargs__(self) -> tuple:
        """Copies and pickles keep the standard error."""
        return float(self), self.standard_error


def evaluate(
    model: nn.Module, objective: Callable, data: Data, *, prepare: Callable = floats,
    batch_size: int = 500, seed: int = 0, **arguments,
) -> dict[str, Estimate]:  # fmt: skip
    """Every term of an objective as its mean over examples, with the standard error of that mean.

    Args:
        model: evaluated in evaluation mode, on its device, without gradients; left as it was.
        objective, data, prepare: as for :func:`~vae_tutorial.fit.fit`.
        batch_size: examples at a time.
        seed: of all draws, those of ``prepare`` too.
        **arguments: further ones of the objective, for example ``samples=10``.

    Returns:
        Name to mean, in the objective's units.
    """
    terms = per_example(
        model, objective, data, prepare=prepare, batch_size=batch_size, seed=seed, **arguments
    )
    return {
        name: Estimate(values.mean(), values.std(correction=0) / math.sqrt(len(values)))
        for name, values in terms.items()
    }


def evaluate_together(
    model: nn.Module, objective: Callable, data: Data, *, prepare: Callable = floats,
    batch_size: int = 500, seed: int = 0, **arguments,
) -> dict[str, Estimate]:  # fmt: skip
    """:func:`evaluate`, with each batch split over all processes; in one process it is just that.

    Every process must call it, with the same data, and gets the same answer: what one process would
    get, up to rounding, unless the objective draws.

    Raises:
        ValueError: on all processes, where the first batch has fewer examples than there are
            processes.
    """
    arguments |= {"prepare": prepare, "batch_size": batch_size}
    if distributed.world_size() == 1:
        return evaluate(model, objective, data, seed=seed, **arguments)
    if not isinstance(data, Batches):
        data = Batches(data, batch_size, device_of(model))
    own, device = distributed.own(seed), device_of(model)
    terms = per_example(model, objective, distributed.Shares(data), seed=own, **arguments)
    if distributed.total(torch.tensor([0.0 if terms else 1.0], device=device)).item():
        raise ValueError("each process needs an example of the first batch; start fewer processes")
    values = torch.stack(list(terms.values())).to(device)  # (terms, n)
    n = distributed.total(values.new_tensor(values.shape[1]))
    means = distributed.total(values.sum(1)) / n
    variances = distributed.total((values - means[:, None]).square().sum(1)) / n
    errors = (variances / n).sqrt()
    return dict(zip(terms, map(Estimate, means.tolist(), errors.tolist()), strict=True))


@torch.no_grad()
def per_example(
    model: nn.Module, objective: Callable, data: Data, *, prepare: Callable = floats,
    batch_size: int = 500, seed: int = 0, **arguments,
) -> dict[str, Tensor]:  # fmt: skip
    """Every term of an objective for each example; the arguments are those of :func:`evaluate`.

    Returns:
        Name to (N, ...), float64, on the CPU.
    """
    if not isinstance(data, Batches):
        data = Batches(data, batch_size, device_of(model))
    collected: dict[str, list[Tensor]] = {}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with seeded(seed):
            for batch in data:
                for name, term in objective(model, *as_tuple(prepare(*batch)), **arguments).items():
                    collected.setdefault(name, []).append(term)
    finally:
        for module, mode in modes:
            module.training = mode
    return {name: torch.cat(parts).cpu().double() for name, parts in collected.items()}


def importance_weighted_bound(
    model: nn.Module, images: Tensor, *, samples: int = 100, at_once: int | None = None,
    batch_size: int = 50, seed: int = 0,
) -> Tensor:  # fmt: skip
    """The importance-weighted lower bound on log p(x): (N,), float64, in nats; larger is better.

    log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x) with S samples z_s from q(z|x), Burda et al. (2015),
    equation 8: the ELBO at S = 1, closer to log p(x) with every sample, equal to it in the limit.

    Args:
        model, images: a trained VAE or hierarchy, and images (N, C, H, W).
        samples: S.
        at_once: how many of the S draws pass through the decoder together, by default all. The
            bound is the same average; memory grows with ``batch_size * at_once`` alone.
        batch_size: images at a time.
        seed: of the draws.
    """
    at_once = samples if at_once is None else at_once
    if samples < 1 or at_once < 1:
        raise ValueError(f"samples and at_once must be at least 1, got {samples} and {at_once}")
    parts = [min(at_once, samples - done) for done in range(0, samples, at_once)]

    def bound(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        draw = log_weights(model, x)
        total = torch.stack([draw(count).logsumexp(0) for count in parts]).logsumexp(0)
        return {"bound": total - math.log(samples)}

    return per_example(model, bound, images, batch_size=batch_size, seed=seed)["bound"]


def log_weights(model: nn.Module, x: Tensor) -> Callable[[int], Tensor]:
    """A function of S that gives log p(x, z) - log q(z|x), (S, B), at S fresh draws for each image.

    The model is a VAE, whose encoder is asked once, or a hierarchy; x (B, C, H, W).
    """
    if hasattr(model, "log_weights"):  # a hierarchy: what a layer says depends on the other's draw
        return partial(model.log_weights, x)
    q, prior = model.encoder(x), model.prior()

    def draw(samples: int) -> Tensor:
        z = q.rsample((samples,))  # (S, B, D)
        return model.decoder(z).log_prob(x) + prior.log_prob(z) - q.log_prob(z)

    return draw


@torch.enable_grad()
def refined_posterior(
    vae: VAE, x: Tensor, *, steps: int = 200, samples: int = 8, learning_rate: float = 0.03
) -> Independent:
    """A mean-field Gaussian for each image alone, started at the encoder's: (B,) of (D,).

    ``steps`` steps of Adam on the ELBO of each image, estimated from ``samples`` draws, over the
    image's own mean and log standard deviation; the networks stay as they are. What it gains is the
    amortization gap (Cremer et al. 2018, section 3). Draws are the caller's to seed.

    Args:
        vae: with a mean-field Gaussian posterior; no gradient reaches its parameters.
        x: images (B, C, H, W) as the likelihood wants them.
    """
    q = vae.encoder(x)
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise ValueError(f"only a mean-field Gaussian posterior can be refined, got {q}")
    mean = q.mean.detach().clone().requires_grad_()
    log_std = q.stddev.detach().log().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=learning_rate)
    for _ in range(steps):
        q = Independent(Normal(mean, log_std.exp()), 1)
        z = q.rsample((samples,))
        bound = vae.decoder(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)
        mean.grad, log_std.grad = torch.autograd.grad(-bound.mean(0).sum(), (mean, log_std))
        optimizer.step()
    return Independent(Normal(mean.detach(), log_std.detach().exp()), 1)


def latent_usage(vae: VAE, images: Tensor, *, batch_size: int = 1000) -> dict[str, Tensor]:
    """What each latent dimension is used for: its KL term, and the activity of Burda et al. (2015).

    The activity of a dimension is the variance over images of its posterior mean, Cov_x(E_q[z_d]);
    they call a dimension **active** where it is above 0.01. A collapsed dimension has the same
    posterior, the prior, for every image: KL and activity are both zero. The posterior must be a
    mean-field Gaussian, and there must be at least two images (N, C, H, W).

    Returns:
        ``kl`` in nats, the mean over images, and ``activity``, each (D,), float64.
    """
    if len(images) < 2:
        raise ValueError("a variance over images needs at least 2 of them")

    def usage(vae: VAE, x: Tensor) -> dict[str, Tensor]:
        q = vae.encoder(x)
        return {"kl": kl_per_dimension(q), "mean": q.mean}

    terms = per_example(vae, usage, images, batch_size=batch_size)
    return {"kl": terms["kl"].mean(0), "activity": terms["mean"].var(0)}


def active_units(vae: VAE, images: Tensor, *, threshold: float = 0.01) -> int:
    """How many latent dimensions are active: activity (:func:`latent_usage`) above ``threshold``."""
    return int((latent_usage(vae, images)["activity"] > threshold).sum())


def calibration(predicted: Tensor, errors: Tensor, *, bins: int = 10) -> dict[str, Tensor]:
    """Predicted variances against the squared errors that came, in bins of equally many pixels.

    Pixels are sorted by the variance predicted for them and cut into equal parts. Where the
    variances are calibrated, the mean squared error of a part is its mean predicted variance.

    Args:
        predicted, errors: variances, and x - E[x] of the same pixels; of one shape.
        bins: how many parts.

    Returns:
        ``predicted``, ascending, and ``actual``, each (bins,), float64, in squared grey values.
    """
    if predicted.shape != errors.shape:
        shapes = f"{tuple(predicted.shape)} and {tuple(errors.shape)}"
        raise ValueError(f"variances and errors must be of the same pixels, got {shapes}")
    if not 1 <= bins <= predicted.numel():
        raise ValueError(f"bins must lie between 1 and the number of pixels, got {bins}")
    variances, order = predicted.flatten().double().sort(stable=True)
    sorted_pixels = {"predicted": variances, "actual": errors.flatten().double().square()[order]}
    return {
        name: torch.stack([part.mean() for part in values.tensor_split(bins)])
        for name, values in sorted_pixels.items()
    }


def nearest_images(
    images: Tensor, known: Tensor, labels: Tensor, *, k: int = 10
) -> tuple[Tensor, Tensor]:
    """How far images are from known ones, and what those show: a judge that knows no model.

    By Euclidean distance between pixels, a copy of a known image scores best, and blur scores well;
    read such numbers beside the pictures.

    Args:
        images: (B, C, H, W), to be judged, bytes or floats.
        known, labels: (N, C, H, W) and (N,), for example training images and their classes.
        k: how many neighbours.

    Returns:
        The distance to the nearest known image, (B,), and the classes of the k nearest, (B, k).
    """
    if not 1 <= k <= len(known):
        raise ValueError(f"k must lie between 1 and the {len(known)} known images, got {k}")
    # In float64: in single precision an image would be 0.01 away from itself.
    x, y = (to_float(part).flatten(1).double() for part in (images, known))  # (B, P), (N, P)
    nearest = torch.cdist(x, y).topk(k, largest=False)
    return nearest.values[:, 0].float(), labels[nearest.indices]


def moments_from_standard_normal(codes: Tensor) -> dict[str, float]:
    """How far a cloud of codes (N, D), N larger than D, is from N(0, I), by its first two moments.

    KL(N(m, C) || N(0, I)) = 1/2 (tr C + m'm - D - ln det C), with m and C the codes' mean and
    covariance. Zero when these agree; blind to anything that is not a moment.

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
