"""Likelihoods p(x|z): from the numbers that a decoder gives to a distribution over data.

Each takes parameters ``(..., *param_shape)`` to a distribution with batch shape ``(...)`` and event
shape ``image_shape``, whose ``log_prob`` is one number per image, in nats. A value outside its
support is a ValueError on the CPU. On another device, which would have to wait for a look at the
numbers, ``log_prob`` is -inf for its image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions import Poisson as TorchPoisson

from vae_tutorial.data import to_float
from vae_tutorial.networks import as_image_shape, as_shape, free_to_read
from vae_tutorial.posteriors import bounded, check_bound, check_parameters
from vae_tutorial.spec import Part

_GREYS = constraints.interval(-1e-4, 1 + 1e-4)  # [0, 1], up to rounding
_WORDS = {
    constraints.boolean: (
        "a Bernoulli likelihood is defined for pixels that are 0 or 1",
        "Binarize the images, or say Bernoulli(image_shape, greys=True) for the usual shortcut: "
        "the binary cross-entropy of grey pixels, which is no likelihood.",
    ),
    _GREYS: (
        "this likelihood is for greys in [0, 1]",
        "Divide bytes by 255; undo any normalization of the images; remove NaN.",
    ),
    constraints.real: ("a Gaussian likelihood is for real numbers", "Remove NaN."),
}


def _all_inside(support: constraints.Constraint, value: Tensor) -> bool:
    """Whether every number lies in the support; the numbers must be free to read.

    For greys the smallest and the largest one say it in one pass, without a mask for every
    comparison, which took a tenth of a small network's step.
    """
    if support is not _GREYS or not value.numel():
        return bool(support.check(value).all())
    smallest, largest = torch.aminmax(value)  # NaN if one is, and no comparison holds for it
    return bool((smallest >= support.lower_bound) & (largest <= support.upper_bound))


class _Checked(Independent):
    """Independent values that must lie in their support."""

    def log_prob(self, value: Tensor) -> Tensor:
        support = self.base_dist.support
        if not free_to_read(value):
            inside = support.check(value).flatten(-self.reinterpreted_batch_ndims).all(-1)
            return torch.where(inside, super().log_prob(value), -math.inf)
        if not _all_inside(support, value):
            what, todo = _WORDS[support]
            raise ValueError(
                f"{what}, but some values lie elsewhere (smallest {float(value.min()):g}, largest "
                f"{float(value.max()):g}). {todo}"
            )
        return super().log_prob(value)


class _GreyBernoulli(TorchBernoulli):
    """The binary cross-entropy of greys, in the place of a log-probability."""

    support: ClassVar = _GREYS


class Bernoulli(Part):
    """Independent black-or-white pixels: p(x|z) = prod_i y_i^x_i (1 - y_i)^(1 - x_i).

    Kingma & Welling (2013), appendix C.1. The network gives one logit per pixel, log(y / (1 - y));
    the log-likelihood is computed from the logit, so that no log(0) can arise.

    Args:
        image_shape: (C, H, W) of one image.
        greys: allow pixels between 0 and 1. The result is then the **binary cross-entropy** that
            most tutorials train with: a useful loss, but not the log of a density (it does not
            integrate to one over [0, 1]).

    Shape:
        logits ``(..., C, H, W)``; pixels are 0 or 1, with ``greys`` in [0, 1].

    Example:
        >>> p = Bernoulli((1, 28, 28))(torch.zeros(16, 1, 28, 28))
        >>> p.log_prob(torch.ones(16, 1, 28, 28)).shape
        torch.Size([16])
    """

    def __init__(self, image_shape: Sequence[int], *, greys: bool = False) -> None:
        super().__init__()
        self.image_shape = self.param_shape = as_image_shape(image_shape, "image_shape")
        self.greys = greys

    def forward(self, logits: Tensor) -> Distribution:
        check_parameters(self, logits)
        kind = _GreyBernoulli if self.greys else TorchBernoulli
        return _Checked(kind(logits=logits, validate_args=False), 3, validate_args=False)


def binarize(images: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Draw each pixel as black or white, with its grey value as the probability of white.

    Salakhutdinov & Murray (2008). Done afresh for every batch this is *dynamic* binarization.

    Args:
        images: bytes, or floats in [0, 1], of any shape.
        others: what else is in the batch, labels for example; it passes through.

    Returns:
        Zeros and ones; with ``others`` the tuple of these and them.
    """
    drawn = torch.bernoulli(to_float(images))
    return (drawn, *others) if others else drawn


def _apart(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where logits are small; the small ones, else 0; the large ones, else 1.

    For a formula that is 0 / 0 at zero and its series: where one is taken the other sees harmless
    numbers, and sends no NaN back through ``torch.where``.
    """
    small = logits.abs() < threshold
    return small, torch.where(small, logits, 0), torch.where(small, 1, logits)


class _ContinuousBernoulli(Distribution):
    """Continuous Bernoullis from logits l of any shape; see :class:`ContinuousBernoulli`."""

    arg_constraints: ClassVar[dict] = {}
    support: ClassVar = _GREYS
    has_rsample = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = torch.broadcast_tensors(self.logits, value)
        bce = F.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return log_normalizer(logits) - bce

    @property
    def mean(self) -> Tensor:
        small, near, far = _apart(self.logits, 0.1)
        series = near / 12 - near**3 / 720
        return 0.5 + torch.where(small, series, 0.5 / torch.tanh(far / 2) - 1 / far)

    @property
    def variance(self) -> Tensor:
        small, near, far = _apart(self.logits, 0.5)
        series = 1 / 12 - near**2 / 240 + near**4 / 6048
        size = far.abs()  # the second term is 1 / (4 sinh(l / 2)^2), without its overflow
        closed = 1 / size**2 - torch.exp(-size) / torch.expm1(-size) ** 2
        return torch.where(small, series, closed)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        # The inverse of the distribution function, log(1 + u (e^l - 1)) / l, for -|l| and mirrored:
        # no overflow. Over l it is a Bernoulli(u)'s cumulant generating function: hence the series.
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        u = torch.rand_like(logits)
        small, near, far = _apart(logits, 0.03)
        size = far.abs()
        x = -torch.log1p(u * torch.expm1(-size)) / size
        u = torch.where(logits > 0, 1 - u, u)
        k2 = u * (1 - u)
        series = u + k2 * (near / 2 + (1 - 2 * u) * near**2 / 6 + (1 - 6 * k2) * near**3 / 24)
        return torch.where(small, series, torch.where(logits > 0, 1 - x, x))


def log_normalizer(logits: Tensor) -> Tensor:
    """log C of the continuous Bernoulli, as a function of the logit l: log(l / tanh(l / 2)).

    The integral of y^x (1 - y)^(1 - x) over x in [0, 1] is (2 y - 1) / l, and 2 y - 1 =
    tanh(l / 2). Of y it is 0 / 0 at 1/2; of l it is smooth and even, log 2 + l^2 / 12 - ...
    """
    small, near, far = _apart(logits, 0.1)
    series = math.log(2) + near**2 / 12 - 7 * near**4 / 1440
    return torch.where(small, series, torch.log(far / torch.tanh(far / 2)))


class ContinuousBernoulli(Part):
    """A density for grey pixels in [0, 1]: the Bernoulli formula with its missing normalizer.

    p(x|z) = prod_i C(l_i) y_i^x_i (1 - y_i)^(1 - x_i) with y = sigmoid(l), Loaiza-Ganem &
    Cunningham (2019). The mean of such a pixel is not y, but drawn towards 1/2.

    Args:
        image_shape: (C, H, W) of one image.
        logit_bound: logits l are squashed smoothly to plus or minus this, so the mean, about
            1 / |l| for a black pixel, lies at least 1 / logit_bound from 0 and 1: by default 0.01,
            as :class:`Gaussian` has its ``smallest_scale``. Without (``None``) the density of a
            black pixel grows with |l| without end.

    Shape:
        logits ``(..., C, H, W)``; pixels are in [0, 1].

    Raises:
        ValueError: for a bound that is not positive.

    Example:
        >>> p = ContinuousBernoulli((1, 1, 1))(torch.zeros(1, 1, 1, 1))  # uniform
        >>> p.mean.item(), p.log_prob(torch.full((1, 1, 1, 1), 0.3)).item()
        (0.5, 0.0)
    """

    def __init__(self, image_shape: Sequence[int], *, logit_bound: float | None = 100.0) -> None:
        super().__init__()
        self.image_shape = self.param_shape = as_image_shape(image_shape, "image_shape")
        self.logit_bound = check_bound(logit_bound, "logit_bound")

    def forward(self, logits: Tensor) -> Distribution:
        check_parameters(self, logits)
        logits = bounded(logits, self.logit_bound)
        return _Checked(_ContinuousBernoulli(logits), 3, validate_args=False)


class _Counts(Distribution):
    """Counts of given exposure; a value is (..., C + 1): the C counts, then their exposure."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, log_rate: Tensor, log_size: Tensor | None) -> None:
        self.log_rate, self.log_size = log_rate, log_size
        event = (log_rate.shape[-1] + 1,)
        super().__init__(log_rate.shape[:-1], event, validate_args=False)

    def given(self, exposure: Tensor) -> Independent:
        """The distribution of the C counts at this exposure, (..., 1)."""
        log_mean = self.log_rate + exposure.log()
        if self.log_size is None:
            each = TorchPoisson(log_mean.exp(), validate_args=False)
        else:
            size = self.log_size.exp().expand_as(log_mean)
            each = TorchNegativeBinomial(size, logits=log_mean - self.log_size, validate_args=False)
        return Independent(each, 1, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        counts, exposure = value[..., :-1], value[..., -1:]
        inside = ((counts >= 0) & (counts == counts.round())).all(-1) & (exposure > 0).squeeze(-1)
        if not free_to_read(value):
            return torch.where(inside, self.given(exposure).log_prob(counts), -math.inf)
        if not inside.all():
            raise ValueError(
                "a likelihood of counts is for whole numbers from 0 and a positive exposure behind "
                "them, but some values are others. Hand over the raw counts, neither logarithms nor "
                "shares, and append one column with the exposure."
            )
        return self.given(exposure).log_prob(counts)

    @property
    def mean(self) -> Tensor:
        """The expected counts per unit of exposure, (..., C)."""
        return self.log_rate.exp()


class Poisson(Part):
    """Independent counts whose variance is their mean: p(x|z) = prod_j m_j^x_j exp(-m_j) / x_j!.

    The mean is m_j = l exp(y_j): the network gives the log-rates y_j, the example its exposure l
    (how long was counted, how much was read), which is a condition and has no probability.

    Args:
        columns: C, how many counts an example has.
        bound: log-rates are squashed smoothly to plus or minus this.

    Shape:
        log-rates ``(..., C)``; a value is ``(..., C + 1)``, the exposure last.

    Example:
        >>> p = Poisson(2)(torch.zeros(1, 2))
        >>> p.log_prob(torch.tensor([[0.0, 0.0, 3.0]]))  # the exposure is 3: both means are
        tensor([-6.])
    """

    def __init__(self, columns: int, *, bound: float = 10.0) -> None:
        super().__init__()
        self.columns, self.bound = as_shape(columns, "columns")[0], check_bound(bound, "bound")
        self.image_shape, self.param_shape = (columns + 1,), (columns,)

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        return _Counts(bounded(parameters, self.bound), None)


class NegativeBinomial(Part):
    """Independent counts that scatter more than a Poisson's: the variance is m + m^2 / r.

    p(x|z) = prod_j G(x_j + r_j) / (G(r_j) x_j!) (r_j / (r_j + m_j))^r_j (m_j / (r_j + m_j))^x_j, with
    the gamma function G: Lopez et al. (2018), in the parameters mean and inverse dispersion. It is
    a Poisson whose mean is drawn anew from a gamma distribution of shape r_j; as r_j grows it
    becomes :class:`Poisson`. Each column learns its own r_j, which starts at 1.

    Args:
        columns, bound: as for :class:`Poisson`.

    Shape:
        as for :class:`Poisson`. log r is bounded to plus or minus 8.

    Example:
        >>> p = NegativeBinomial(1)(torch.zeros(1, 1))
        >>> round(p.log_prob(torch.tensor([[0.0, 1.0]])).exp().item(), 4)
        0.5
    """

    def __init__(self, columns: int, *, bound: float = 10.0) -> None:
        super().__init__()
        self.columns, self.bound = as_shape(columns, "columns")[0], check_bound(bound, "bound")
        self.image_shape, self.param_shape = (columns + 1,), (columns,)
        self.log_size = nn.Parameter(torch.zeros(columns))

    @property
    def size(self) -> Tensor:
        """r of each column, (C,)."""
        return bounded(self.log_size, 8.0).exp()

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        return _Counts(bounded(parameters, self.bound), bounded(self.log_size, 8.0))


class _Observed(Distribution):
    """See :class:`Observed`; what it draws, and its mean, are whole rows."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, whole: Independent) -> None:
        self.whole, self.base_dist = whole, whole.base_dist
        super().__init__(whole.batch_shape, (2, *whole.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        n = len(self.whole.event_shape)
        x, known = value.unbind(-1 - n)
        return (self.base_dist.log_prob(x) * known).flatten(-n).sum(-1)

    @property
    def mean(self) -> Tensor:
        return self.whole.mean

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.whole.sample(sample_shape)


class Observed(Part):
    """The known entries' likelihood: a sum over them alone, log p(x_known | z).

    Given the latent, entries are independent, so those that are missing drop out without an
    integral (Mattei & Frellsen 2019, Nazabal et al. 2020).

    Args:
        likelihood: of independent entries, such as a :class:`Gaussian`.

    Shape:
        parameters as for ``likelihood``; a value is ``(..., 2, *likelihood.image_shape)``: the
        entries, anything finite where they are missing, and ones and zeros that say which are known.

    Example:
        >>> p = Observed(Gaussian((2,), scale=1.0, bounded_mean=False))(torch.zeros(1, 2))
        >>> p.log_prob(torch.tensor([[[0.0, 7.0], [1.0, 0.0]]]))  # the 7 does not count
        tensor([-0.9189])
    """

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.image_shape = (2, *likelihood.image_shape)
        self.param_shape = likelihood.param_shape

    def forward(self, parameters: Tensor) -> Distribution:
        return _Observed(self.likelihood(parameters))


NOISE_MODELS = ("homoscedastic", "imagewise", "pixelwise")


class Gaussian(Part):
    """Gaussian values: p(x|z) = prod_i N(x_i; y_i, sigma_i^2), with one of three noise models.

    Args:
        image_shape: shape of one example, (C, H, W) for images, (2,) for points in the plane.
        noise: whose the standard deviation is. ``"homoscedastic"``: one for all pixels of all
            images; ``"imagewise"``: one per image, given by the decoder; ``"pixelwise"``: one per
            pixel, given by the decoder (Kingma & Welling 2013, appendix C.2).
        scale: fixes the homoscedastic standard deviation. ``None`` learns it as a parameter, which
            starts at 0.33 (for the default bounds): wider than it will end, as a narrow start is
            unstable.
        bounded_mean: the mean goes through a sigmoid, so that it is a grey in [0, 1]. Without, it
            is the network's own number: for data that are no images, or a linear decoder.
        smallest_scale: no standard deviation is smaller. Greys that are constant (a black margin)
            would otherwise be worth an unbounded density.
        largest_scale: no learnt or predicted standard deviation is larger; 1 is enough for greys.

    Shape:
        of (C, H, W) ``param_shape`` is (C, H, W) for homoscedastic noise, (C H W + 1,) for
        imagewise, (2 C, H, W) for pixelwise: first the means (as logits, if bounded), then the
        noise as log-variances, through a smooth bound.

    Raises:
        ValueError: for another noise model, or a scale given where the decoder gives one.

    Example:
        >>> likelihood = Gaussian((2,), noise="pixelwise", bounded_mean=False)
        >>> likelihood.param_shape, likelihood(torch.zeros(7, 4)).log_prob(torch.zeros(7, 2)).shape
        ((4,), torch.Size([7]))
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
        self.image_shape = first, *rest = as_shape(image_shape, "image_shape")
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
        self.noise, self.scale, self.bounded_mean = noise, scale, bounded_mean
        self.smallest_scale, self.largest_scale = smallest_scale, largest_scale
        self.param_shape = {
            "homoscedastic": self.image_shape,
            "imagewise": (math.prod(self.image_shape) + 1,),
            "pixelwise": (2 * first, *rest),
        }[noise]
        if noise == "homoscedastic" and scale is None:
            self.log_variance = nn.Parameter(torch.tensor(-2.0))

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        n = len(self.image_shape)
        if self.noise == "pixelwise":
            mean, log_variance = parameters.split(self.image_shape[0], dim=-n)
        elif self.noise == "imagewise":
            mean = parameters[..., :-1].unflatten(-1, self.image_shape)
            log_variance = parameters[..., -1:].unflatten(-1, (1,) * n)
        else:
            mean, log_variance = parameters, getattr(self, "log_variance", None)
        if self.scale is not None:
            scale = mean.new_full((), self.scale)
        else:
            low, high = 2 * math.log(self.smallest_scale), 2 * math.log(self.largest_scale)
            middle = (low + high) / 2
            scale = torch.exp(0.5 * (middle + bounded(log_variance - middle, high - middle)))
        mean = torch.sigmoid(mean) if self.bounded_mean else mean
        pixels = Normal(mean, scale.expand_as(mean), validate_args=False)
        return _Checked(pixels, n, validate_args=False)


class _Levels(Distribution):
    """A smooth bump of a location and a scale, added up over bins around the 256 values k / 255.

    The first bin reaches to minus infinity, the last to infinity. A kind of bump says its
    distribution function, with logarithms, and how its noise is drawn.
    """

    arg_constraints: ClassVar[dict] = {}
    support: ClassVar = _GREYS

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location, self.scale = location, scale
        super().__init__(location.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        k = (value * 255).round()
        upper = ((k + 0.5) / 255 - self.location) / self.scale
        lower = ((k - 0.5) / 255 - self.location) / self.scale
        inner = self._log_between(lower, upper)
        ends = torch.where(k <= 0, self._log_below(upper), self._log_below(-lower))
        return torch.where((k <= 0) | (k >= 255), ends, inner)

    def _above(self, k: int) -> Tensor:
        """What P(X > k / 255) is the distribution function of."""
        return (self.location - (k + 0.5) / 255) / self.scale

    @property
    def mean(self) -> Tensor:
        """sum_k P(X > k) / 255 over the 255 edges, one at a time to spare memory."""
        return sum(self._below(self._above(k)) for k in range(255)) / 255

    @property
    def variance(self) -> Tensor:
        """E[(k - m)^2] for the mean m, outwards from the level r next to it.

        (r - m)^2 + sum_(k >= r) (2 (k - m) + 1) P(X > k) + sum_(k < r) (2 (m - k) - 1) P(X <= k):
        no term is negative, so nothing cancels, as it does in E[k^2] - m^2.
        """
        mean = 255 * self.mean
        level = mean.round()
        total = (level - mean).square()
        for k in range(255):
            side = torch.where(level <= k, 1, -1)
            total = total + side * (2 * (k - mean) + 1) * self._below(side * self._above(k))
        return total / 255**2

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = (*sample_shape, *self.location.shape)
            x = self.location + self.scale * self._noise(shape)
            return (x * 255).round().clamp(0, 255) / 255


class _DiscretizedLogistic(_Levels):
    """Discretized logistics over the 256 values k / 255; see :class:`DiscretizedLogistic`."""

    _below, _log_below = staticmethod(torch.sigmoid), staticmethod(F.logsigmoid)

    @staticmethod
    def _log_between(lower: Tensor, upper: Tensor) -> Tensor:
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): nothing cancels.
        width = torch.log(-torch.expm1(lower - upper))
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + width

    def _noise(self, shape: Sequence[int]) -> Tensor:
        return torch.logit(torch.rand(shape, device=self.location.device).clamp(1e-7, 1 - 1e-7))


class _DiscretizedGaussian(_Levels):
    """Discretized Gaussians over the 256 values k / 255; see :class:`DiscretizedGaussian`."""

    _below = staticmethod(torch.special.ndtr)
    _log_below = staticmethod(torch.special.log_ndtr)

    @staticmethod
    def _log_between(lower: Tensor, upper: Tensor) -> Tensor:
        # Both ends in the lower half, by symmetry: there Phi(b) - Phi(a) loses no digits, as
        # Phi(b) (1 - exp(log Phi(a) - log Phi(b))).
        flip = lower + upper > 0
        a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
        log_b = torch.special.log_ndtr(b)
        return log_b + torch.log(-torch.expm1(torch.special.log_ndtr(a) - log_b))

    def _noise(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, device=self.location.device)


class DiscretizedLogistic(Part):
    """A probability for each of the 256 grey values: the logistic density, added up over bins.

    P(x) = S((x + 1/510 - mu) / s) - S((x - 1/510 - mu) / s), S the sigmoid; the first bin reaches
    to minus infinity and the last to infinity (Salimans et al. 2017, equation 2). Its negative log
    is a true code length: nats over (dimensions times ln 2) are bits per dimension.

    Args:
        image_shape: (C, H, W) of one image.
        noise: ``"pixelwise"``, the decoder gives each pixel a scale; or ``"homoscedastic"``, one
            for all pixels of all images is learnt as a parameter (which starts at 0.13).

    Shape:
        ``param_shape`` is (2 C, H, W) for pixelwise noise, first the location's logits, then
        log-scales through a smooth bound; (C, H, W) for homoscedastic. Pixels are floats k / 255
        in [0, 1]; a value between two levels counts as the nearest.

    Raises:
        ValueError: for another noise model.

    Example:
        >>> p = DiscretizedLogistic((1, 1, 1))(torch.zeros(1, 2, 1, 1))
        >>> levels = torch.arange(256).reshape(256, 1, 1, 1) / 255
        >>> round(p.log_prob(levels).exp().sum().item(), 4)
        1.0
    """

    def __init__(self, image_shape: Sequence[int], *, noise: str = "pixelwise") -> None:
        super().__init__()
        self.image_shape = c, h, w = as_image_shape(image_shape, "image_shape")
        if noise not in ("pixelwise", "homoscedastic"):
            raise ValueError(f"noise must be pixelwise or homoscedastic, got {noise!r}")
        self.noise = noise
        self.param_shape = (c if noise == "homoscedastic" else 2 * c, h, w)
        if noise == "homoscedastic":
            self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        if self.noise == "pixelwise":
            logits, log_scale = parameters.split(self.image_shape[0], dim=-3)
        else:
            logits, log_scale = parameters, self.log_scale
        # Scales between 0.0009 and 2.7: from a quarter of a level to wider than all of them.
        scale = torch.exp(bounded(log_scale + 3, 4.0) - 3).expand_as(logits)
        return _Checked(_DiscretizedLogistic(torch.sigmoid(logits), scale), 3, validate_args=False)


class DiscretizedGaussian(Gaussian):
    """A probability for each of the 256 grey values: the Gaussian density, added up over bins.

    P(x) = Phi((x + 1/510 - mu) / sigma) - Phi((x - 1/510 - mu) / sigma), as
    :class:`DiscretizedLogistic` with another bump. The arguments and parameters are those of
    :class:`Gaussian`: the weights of a model that was trained with one are read by the other.

    Example:
        >>> p = DiscretizedGaussian((1, 1, 1), noise="pixelwise")(torch.zeros(1, 2, 1, 1))
        >>> levels = torch.arange(256).reshape(256, 1, 1, 1) / 255
        >>> round(p.log_prob(levels).exp().sum().item(), 4)
        1.0
    """

    def forward(self, parameters: Tensor) -> Distribution:
        smooth = super().forward(parameters)
        pixels = _DiscretizedGaussian(smooth.mean, smooth.stddev)
        return _Checked(pixels, len(self.image_shape), validate_args=False)


class _BetaBinomial(Distribution):
    """Beta-binomials over the 256 values k / 255; see :class:`BetaBinomial`."""

    arg_constraints: ClassVar[dict] = {}
    support: ClassVar = _GREYS

    def __init__(self, alpha: Tensor, beta: Tensor) -> None:
        self.alpha, self.beta = alpha, beta
        super().__init__(alpha.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        k = (value * 255).round()
        ways = math.lgamma(256) - torch.lgamma(k + 1) - torch.lgamma(256 - k)  # 255 choose k
        drawn = _log_beta(k + self.alpha, 255 - k + self.beta)
        return ways + drawn - _log_beta(self.alpha, self.beta)

    @property
    def mean(self) -> Tensor:
        return self.alpha / (self.alpha + self.beta)

    @property
    def variance(self) -> Tensor:
        total = self.alpha + self.beta
        coin = self.alpha / total * (self.beta / total)  # one toss; no 1 - mean, which cancels
        return coin * (total + 255) / (255 * (total + 1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            share = torch.distributions.Beta(self.alpha, self.beta).sample(sample_shape)
            return torch.binomial(torch.full_like(share, 255.0), share) / 255


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    """The logarithm of the beta function, Gamma(a) Gamma(b) / Gamma(a + b)."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


class BetaBinomial(Part):
    """A probability for each of the 256 grey values: 255 tosses of a coin that is drawn first.

    P(k) = (255 choose k) B(k + alpha, 255 - k + beta) / B(alpha, beta), B the beta function: the
    number of heads of a coin whose probability of heads is drawn from Beta(alpha, beta). Townsend et
    al. (2019), section 3, code greys with it. Where alpha and beta are both small nearly all of the
    mass lies at *both* ends, black and white, which no single bump can do.

    Args:
        image_shape: (C, H, W) of one image.

    Shape:
        ``param_shape`` is (2 C, H, W): first log alpha, then log beta, each through a smooth bound to
        between -10 and 6. Pixels are floats k / 255 in [0, 1]; a value between two levels counts as
        the nearest.

    Example:
        >>> p = BetaBinomial((1, 1, 1))(torch.zeros(1, 2, 1, 1))
        >>> levels = torch.arange(256).reshape(256, 1, 1, 1) / 255
        >>> round(p.log_prob(levels).exp().sum().item(), 3)
        1.0
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = c, h, w = as_image_shape(image_shape, "image_shape")
        self.param_shape = (2 * c, h, w)

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        # Not larger than e^6: the log-gammas of large numbers lose digits when they are subtracted.
        alpha, beta = torch.exp(bounded(parameters + 2, 8.0) - 2).chunk(2, dim=-3)
        return _Checked(_BetaBinomial(alpha, beta), 3, validate_args=False)
