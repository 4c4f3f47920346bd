"""Schedules: numbers that change during training, as functions of how far it has come.

A schedule maps progress, from 0 (first step) to 1 (last step), to a value; it never sees a held-out
image. Schedules are small frozen objects, so that a run's configuration can name them.
"""

from dataclasses import dataclass
from math import cos, pi


def _ramp(start: float, end: float, t: float) -> float:
    """Half a cosine from start (t = 0) to end (t = 1)."""
    return end + (start - end) * (1 + cos(pi * t)) / 2


@dataclass(frozen=True)
class Constant:
    """The same value throughout."""

    value: float

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class OneCycle:
    """A one-cycle learning rate, after Smith & Topin (2019): quickly up, then down to almost zero.

    Half a cosine from ``peak / 25`` up to ``peak`` during the first ``warm_up`` of training, and
    half a cosine down to ``peak / 10,000`` in the rest.
    """

    peak: float
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        if not (self.peak > 0 and 0 < self.warm_up < 1):
            raise ValueError(f"needs peak > 0 and 0 < warm_up < 1, got {self}")

    def __call__(self, progress: float) -> float:
        if progress < self.warm_up:
            return _ramp(self.peak / 25, self.peak, progress / self.warm_up)
        return _ramp(self.peak, self.peak / 1e4, (progress - self.warm_up) / (1 - self.warm_up))


@dataclass(frozen=True)
class LinearWarmUp:
    """From 0 to ``value`` in a straight line over the first ``fraction`` of training, then constant.

    The warm-up of beta of Bowman et al. (2016) and Sonderby et al. (2016).
    """

    value: float = 1.0
    fraction: float = 3 / 7

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    def __call__(self, progress: float) -> float:
        return self.value * min(1.0, progress / self.fraction)


@dataclass(frozen=True)
class Cyclical:
    """A sawtooth: ``cycles`` times :class:`LinearWarmUp` from the start (Fu et al. 2019).

    Every restart gives dimensions that have died a new chance.
    """

    value: float = 1.0
    cycles: int = 4
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not (self.cycles >= 1 and 0 < self.fraction <= 1):
            raise ValueError(f"needs cycles >= 1 and 0 < fraction <= 1, got {self}")

    def __call__(self, progress: float) -> float:
        position = self.cycles * progress  # at the end the last cycle is over, no new one begun
        within = position - min(int(position), self.cycles - 1)
        return self.value * min(1.0, within / self.fraction)
