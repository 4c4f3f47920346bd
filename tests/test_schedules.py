"""Schedules: their values at known places, their bounds, what they refuse."""

import numpy as np
import pytest

from vae_tutorial.schedules import Constant, Cyclical, LinearWarmUp, OneCycle


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), {0: 0.3, 0.5: 0.3, 1: 0.3}),
        (OneCycle(1e-3), {0: 4e-5, 0.05: 5.2e-4, 0.1: 1e-3, 1: 1e-7}),
        (OneCycle(2.0, warm_up=0.5), {0: 0.08, 0.5: 2.0, 0.75: 1.0001, 1: 2e-4}),
        (LinearWarmUp(), {0: 0, 3 / 14: 0.5, 3 / 7: 1, 0.9: 1, 1: 1}),
        (LinearWarmUp(4.0, fraction=1), {0: 0, 0.25: 1, 1: 4}),
        (Cyclical(2.0), {0: 0, 1 / 16: 1, 1 / 8: 2, 0.2: 2, 0.25: 0, 13 / 16: 1, 1: 2}),
        (Cyclical(3.0, cycles=1, fraction=1), {0: 0, 0.5: 1.5, 1: 3}),
    ],
)
def test_values_and_bounds(schedule, values):
    for progress, value in values.items():
        assert schedule(progress) == pytest.approx(value), progress
    path = [schedule(t) for t in np.linspace(0, 1, 5001)]
    assert (min(path), max(path)) == pytest.approx((min(values.values()), max(values.values())))
    jumps = (np.abs(np.diff(path)) > 0.01 * max(path)).sum()
    assert jumps == getattr(schedule, "cycles", 1) - 1  # where a new cycle begins, and nowhere else


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [(OneCycle, {"peak": 0}), (OneCycle, {"peak": 1, "warm_up": 1}), (LinearWarmUp, {"fraction": 0}),
     (Cyclical, {"cycles": 0}), (Cyclical, {"fraction": 1.5}), (Cyclical, {"fraction": 0})],
)  # fmt: skip
def test_nonsense_is_refused(schedule, wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        schedule(**wrong)
