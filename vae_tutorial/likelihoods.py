"""Likelihoods p(x|z): from the numbers that a decoder gives to a distribution over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent, Normal

from vae_tutorial.posteriors import bounded


class _StrictBernoulli(TorchBernoulli):
    """A Bernoulli that says in the book's words why it refuses a grey pixel."""

    def log_prob(self, value: Tensor) -> Tensor:
        if not ((value == 0) | (value == 1)).all():
            raise ValueError(
                "a Bernoulli likelihood is defined for pixels that are 0 or 1, but some pixels lie "
                f"elsewhere (smallest {float(value.min()):g}, largest {float(value.max()):g}). "
                "Binarize the images, or say Bernoulli(image_shape, greys=True) for the customary "
                "shortcut: the binary cross-entropy of grey pixels, which is no likelihood."
            )
        return super().log_prob(value)


class Bernoulli(nn.Module):
    """Independent black-or-white pixels: p(x|z) = prod_i y_i^x_i (1 - y_i)^(1 - x_i).

    Kingma & Welling (2013), appendix C.1. The network gives one logit a pixel, log(y / (1 - y));
    the log-likelihood is computed from the logit, so that no log(0) can arise.

    Args:
        image_shape: (C, H, W) of one image.
        greys: allow pixels between 0 and 1. The result is then the **binary cross-entropy** that
            most tutorials train with. It is not the log of a density (it does not integrate to
            one over [0, 1]); it is a useful loss, and is named as such throughout the book.

    Shape:
        logits ``(..., C, H, W)`` to a distribution with batch shape ``(...)`` and event shape
        ``(C, H, W)``: ``log_prob`` sums over the pixels, one number an image, in nats.

    Raises:
        ValueError: from ``log_prob``, when ``greys`` is false and a pixel is neither 0 nor 1.
    """

    def __init__(self, image_shape: Sequence[int], *, greys: bool = False) -> None:
        super().__init__()
        self.image_shape = _as_image_shape(image_shape)
        self.greys = greys
        self.param_shape = self.image_shape

    def forward(self, logits: Tensor) -> Distribution:
        _check_parameters(self, logits)
        if self.greys:
            return Independent(TorchBernoulli(logits=logits, validate_args=False), 3)
        return Independent(_StrictBernoulli(logits=logits, validate_args=False), 3)

    def extra_repr(self) -> str:
        return f"image_shape={self.image_shape}, greys={self.greys}"


def binarize(x: Tensor) -> Tensor:
    """Draw each pixel as black or white, with its grey value as the probability of white.

    Salakhutdinov & Murray (2008). Done afresh for every batch this is *dynamic* binarization.
    """
    return torch.bernoulli(x)


class _ContinuousBernoulli(Distribution):
    """One continuous Bernoulli a pixel, from logits l of any shape; see :class:`ContinuousBernoulli`."""

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        _check_greys(value, "a continuous Bernoulli is a density of greys in [0, 1]")
        logits, value = torch.broadcast_tensors(self.logits, value)
        bce = F.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return log_normalizer(logits) - bce

    @property
    def mean(self) -> Tensor:
        small = self.logits.abs() < 0.1
        safe = torch.where(small, torch.ones_like(self.logits), self.logits)
        series = 0.5 + self.logits / 12 - self.logits**3 / 720
        return torch.where(small, series, -1 / torch.expm1(-safe) - 1 / safe)

    @property
    def variance(self) -> Tensor:
        small = self.logits.abs() < 0.5
        safe = torch.where(small, torch.ones_like(self.logits), self.logits)
        series = 1 / 12 - self.logits**2 / 240 + self.logits**4 / 6048
        half = (safe / 2).clamp(-40, 40)  # beyond, the second term is zero in any precision
        return torch.where(small, series, 1 / safe**2 - 0.25 / torch.sinh(half) ** 2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        # The inverse of the distribution function, written for -|l| and mirrored: no overflow.
        size = self.logits.abs().expand(*sample_shape, *self.logits.shape)
        u = torch.rand_like(size)
        small = size < 1e-3
        safe = torch.where(small, torch.ones_like(size), size)
        x = torch.where(small, u, -torch.log1p(u * torch.expm1(-safe)) / safe)
        return torch.where(self.logits > 0, 1 - x, x)


def log_normalizer(logits: Tensor) -> Tensor:
    """log C of the continuous Bernoulli, as a function of the logit l: log(l / tanh(l / 2)).

    The integral of y^x (1 - y)^(1 - x) over x in [0, 1] is (2 y - 1) / l, and 2 y - 1 =
    tanh(l / 2). In Loaiza-Ganem & Cunningham (2019) the same function of y reads
    0 / 0 at y = 1/2 and is patched there; of l it is smooth and even, log 2 + l^2 / 12 - ...
    """
    small = logits.abs() < 0.1
    safe = torch.where(small, torch.ones_like(logits), logits)
    series = math.log(2) + logits**2 / 12 - 7 * logits**4 / 1440
    return torch.where(small, series, torch.log(safe / torch.tanh(safe / 2)))


class ContinuousBernoulli(nn.Module):
    """A density for grey pixels in [0, 1]: the Bernoulli formula with its missing normalizer.

    p(x|z) = prod_i C(l_i) y_i^x_i (1 - y_i)^(1 - x_i) with y = sigmoid(l), Loaiza-Ganem &
    Cunningham (2019). The mean of such a pixel is not y, but drawn towards 1/2.

    Args:
        image_shape: (C, H, W) of one image.
        logit_bound: logits are squashed smoothly to plus or minus this. For a pixel that is
            exactly black the density grows with |l| without end, so without a bound (``None``) a
            model of images with black margins makes the margins ever sharper, and nothing else.

    Shape:
        logits ``(..., C, H, W)`` to a distribution with batch shape ``(...)`` and event shape
        ``(C, H, W)``; ``log_prob`` is a log-density over [0, 1], in nats an image.
    """

    def __init__(self, image_shape: Sequence[int], *, logit_bound: float | None = 10.0) -> None:
        super().__init__()
        if logit_bound is not None and not logit_bound > 0:
            raise ValueError(f"logit_bound must be positive or None, got {logit_bound}")
        self.image_shape = _as_image_shape(image_shape)
        self.logit_bound = logit_bound
        self.param_shape = self.image_shape

    def forward(self, logits: Tensor) -> Distribution:
        _check_parameters(self, logits)
        logits = bounded(logits, self.logit_bound)
        return Independent(_ContinuousBernoulli(logits), 3, validate_args=False)

    def extra_repr(self) -> str:
        return f"image_shape={self.image_shape}, logit_bound={self.logit_bound}"


NOISE_MODELS = ("homoscedastic", "imagewise", "pixelwise")


class Gaussian(nn.Module):
    """Gaussian pixels: p(x|z) = prod_i N(x_i; y_i, sigma_i^2), with one of three noise models.

    Args:
        image_shape: (C, H, W) of one image.
        noise: whose the standard deviation is. ``"homoscedastic"``: one for all pixels of all
            images; ``"imagewise"``: one an image, given by the decoder; ``"pixelwise"``: one a
            pixel, given by the decoder (Kingma & Welling 2013, appendix C.2).
        scale: fixes the homoscedastic standard deviation. ``None`` learns it as a parameter.
            (With it fixed, the log-density is the squared error over 2 sigma^2, and a constant.)
        bounded_mean: the mean goes through a sigmoid, so that it is a grey in [0, 1]. Without, it
            is the network's own number: for data that are no images, or a linear decoder.
        smallest_scale: no standard deviation is smaller. Greys that are constant (a black margin)
            would otherwise be worth an unbounded density.
        largest_scale: no learnt or predicted standard deviation is larger. 1 is more than greys
            need; data on another scale need another.

    Shape:
        parameters ``(..., *param_shape)`` to a distribution with batch shape ``(...)`` and event
        shape ``(C, H, W)``. ``param_shape`` is (C, H, W) for homoscedastic noise, (C H W + 1,) for
        imagewise, (2 C, H, W) for pixelwise: first the means (as logits, if bounded), then the
        noise as log-variances, through a smooth bound.

    Raises:
        ValueError: for another noise model, or a scale given where the decoder gives one.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        noise: str = "homoscedastic",
        scale: float | None = None,
        bounded_mean: bool = True,
        smallest_scale: float = 0.01,
        largest_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_shape = c, h, w = _as_image_shape(image_shape)
        if noise not in NOISE_MODELS:
            raise ValueError(f"noise must be one of {', '.join(NOISE_MODELS)}, got {noise!r}")
        if scale is not None and (noise != "homoscedastic" or not scale >= smallest_scale):
            raise ValueError(
                f"scale={scale} fixes the noise of all pixels: it goes with noise='homoscedastic' "
                f"alone, and must be at least smallest_scale={smallest_scale}; got noise={noise!r}"
            )
        if not 0 < smallest_scale < largest_scale:
            raise ValueError(
                f"needs 0 < smallest_scale < largest_scale, got {smallest_scale} and {largest_scale}"
            )
        self.noise, self.scale, self.smallest_scale = noise, scale, smallest_scale
        self.largest_scale = largest_scale
        self.bounded_mean = bounded_mean
        shapes = {"homoscedastic": (c, h, w), "imagewise": (c * h * w + 1,)}
        self.param_shape = shapes.get(noise, (2 * c, h, w))
        if noise == "homoscedastic" and scale is None:
            self.log_variance = nn.Parameter(torch.empty(()))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """The learnt scale starts at 0.37, wider than it will end: a narrow start is unstable."""
        if self.noise == "homoscedastic" and self.scale is None:
            nn.init.constant_(self.log_variance, -2.0)

    def forward(self, parameters: Tensor) -> Distribution:
        _check_parameters(self, parameters)
        c, h, w = self.image_shape
        if self.noise == "pixelwise":
            logits, log_variance = parameters.split(c, dim=-3)
        elif self.noise == "imagewise":
            logits, log_variance = parameters.split([c * h * w, 1], dim=-1)
            logits = logits.unflatten(-1, (c, h, w))
            log_variance = log_variance[..., None, None].expand_as(logits)
        else:
            logits = parameters
            value = 2 * math.log(self.scale) if self.scale is not None else self.log_variance
            log_variance = torch.as_tensor(value, device=logits.device).expand_as(logits)
        if self.scale is None:  # squashed smoothly, so that sigma lies between the two bounds
            low, high = 2 * math.log(self.smallest_scale), 2 * math.log(self.largest_scale)
            middle = (low + high) / 2
            log_variance = middle + bounded(log_variance - middle, high - middle)
        mean = torch.sigmoid(logits) if self.bounded_mean else logits
        scale = torch.exp(0.5 * log_variance)
        return Independent(Normal(mean, scale, validate_args=False), 3)

    def extra_repr(self) -> str:
        return (
            f"image_shape={self.image_shape}, noise={self.noise!r}, scale={self.scale}, "
            f"bounded_mean={self.bounded_mean}, smallest_scale={self.smallest_scale}"
            + (f", largest_scale={self.largest_scale}" if self.largest_scale != 1.0 else "")
        )


class _DiscretizedLogistic(Distribution):
    """One discretized logistic a pixel over the 256 values k / 255; see :class:`DiscretizedLogistic`."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location, self.scale = location, scale
        super().__init__(location.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        _check_greys(value, "a discretized logistic has the 256 levels k / 255")
        k = (value * 255).round()
        upper = ((k + 0.5) / 255 - self.location) / self.scale
        lower = ((k - 0.5) / 255 - self.location) / self.scale
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no difference of
        # two nearly equal numbers. At the ends the bins reach to infinity.
        width = torch.log(-torch.expm1(lower - upper))
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + width
        ends = torch.where(k <= 0, F.logsigmoid(upper), F.logsigmoid(-lower))
        return torch.where((k <= 0) | (k >= 255), ends, inner)

    @property
    def mean(self) -> Tensor:
        """sum_k P(X > k) / 255 over the 255 edges, one at a time to spare memory."""
        total = torch.zeros_like(self.location)
        for k in range(255):
            total += torch.sigmoid((self.location - (k + 0.5) / 255) / self.scale)
        return total / 255

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, with E[k^2] = sum_k (2 k + 1) P(X > k) over the same edges."""
        total = torch.zeros_like(self.location)
        for k in range(255):
            upper = torch.sigmoid((self.location - (k + 0.5) / 255) / self.scale)
            total += (2 * k + 1) * upper
        return (total / 255**2 - self.mean**2).clamp(min=0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = (*sample_shape, *self.location.shape)
            u = torch.rand(shape, device=self.location.device).clamp(1e-7, 1 - 1e-7)
            x = self.location + self.scale * torch.logit(u)
            return (x * 255).round().clamp(0, 255) / 255


class DiscretizedLogistic(nn.Module):
    """A probability for each of the 256 grey values: the logistic density, added up over bins.

    P(x) = S((x + 1/510 - mu) / s) - S((x - 1/510 - mu) / s), S the sigmoid; the first bin reaches
    to minus infinity and the last to infinity (Salimans et al. 2017, equation 2). Its negative log is a true code length: nats an image divided by
    (dimensions times ln 2) are bits per dimension.

    Args:
        image_shape: (C, H, W) of one image.
        noise: ``"pixelwise"``, the decoder gives each pixel a scale; or ``"homoscedastic"``, one scale
            for all pixels of all images, learnt as a parameter.

    Shape:
        parameters ``(..., *param_shape)`` to a distribution with batch shape ``(...)`` and event
        shape ``(C, H, W)``. ``param_shape`` is (2 C, H, W) for pixelwise noise, first the
        location's logits, then log-scales through a smooth bound; (C, H, W) for homoscedastic.
        Images are floats k / 255; a value between two levels counts as the nearest.

    Raises:
        ValueError: for another noise model.
    """

    def __init__(self, image_shape: Sequence[int], *, noise: str = "pixelwise") -> None:
        super().__init__()
        self.image_shape = c, h, w = _as_image_shape(image_shape)
        if noise not in ("pixelwise", "homoscedastic"):
            raise ValueError(f"noise must be pixelwise or homoscedastic, got {noise!r}")
        self.noise = noise
        self.param_shape = (c if noise == "homoscedastic" else 2 * c, h, w)
        if noise == "homoscedastic":
            self.log_scale = nn.Parameter(torch.empty(()))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """The learnt scale starts at 0.14, wider than it will end."""
        if self.noise == "homoscedastic":
            nn.init.constant_(self.log_scale, -2.0)

    def forward(self, parameters: Tensor) -> Distribution:
        _check_parameters(self, parameters)
        if self.noise == "pixelwise":
            logits, log_scale = parameters.split(self.image_shape[0], dim=-3)
        else:
            logits, log_scale = parameters, self.log_scale.expand_as(parameters)
        # Scales between 0.0009 and 2.7: from a quarter of a level to wider than all of them.
        scale = torch.exp(bounded(log_scale + 3, 4.0) - 3)
        return Independent(
            _DiscretizedLogistic(torch.sigmoid(logits), scale), 3, validate_args=False
        )

    def extra_repr(self) -> str:
        return f"image_shape={self.image_shape}, noise={self.noise!r}"


def _as_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    image_shape = tuple(image_shape)
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (C, H, W), got {image_shape}")
    return image_shape  # type: ignore[return-value]


def _check_greys(value: Tensor, what: str) -> None:
    """Values must lie in [0, 1], up to rounding; NaN does not."""
    if not ((value > -1e-4) & (value < 1 + 1e-4)).all():
        raise ValueError(
            f"{what}, but some values lie elsewhere (smallest {float(value.min()):g}, largest "
            f"{float(value.max()):g}). Divide bytes by 255; undo any normalization of the images."
        )


def _check_parameters(likelihood: nn.Module, parameters: Tensor) -> None:
    wanted = likelihood.param_shape
    if tuple(parameters.shape[-len(wanted) :]) != wanted:
        raise ValueError(
            f"{type(likelihood).__name__} expects parameters (..., {', '.join(map(str, wanted))}), "
            f"got {tuple(parameters.shape)}; give the network out_shape=likelihood.param_shape."
        )
