"""Chapter 7: beta, warm-up and collapse."""

from math import log

import numpy as np
import torch

from vae_tutorial.checks.protocol import Hint, close, exercise, number, tensor


@exercise("ch07-warmup", "Three sevenths of training go by before the objective is the bound.")
def _warmup(answer) -> None:
    progress = torch.tensor([0.0, 1 / 7, 0.3, 3 / 7, 0.8, 1.0], dtype=torch.float64)
    got = tensor([answer(p) for p in progress])
    if (got > 1 + 1e-6).any():
        raise Hint("It goes on growing beyond 1. After the ramp it stays at 1.")
    wrong = [
        (progress, "This ramp lasts for the whole of training. It should end at 3/7."),
        (progress * 3 / 7, "Divide by 3/7, to be at 1 when progress is 3/7."),
    ]
    # Independently: linear interpolation between the corners of the schedule.
    expected = np.interp(progress, [0, 3 / 7, 1], [0, 1, 1])
    close(got, expected, "0 at the start, 1 at 3/7, a straight line between.", wrong)


number("ch07-price", 30 / 15, "Above it the frugal model wins, below it the lavish one.")(
    (0.5, "Upside down: beta is nats of distortion per nat of rate."),
    (-2, "That is the slope of the line through both. Its negative is asked for."),
    (..., "Set D + beta R equal for both."),
)

_ALL = log(4 / 0.6) + log(1 / 0.6) + log(0.5 / 0.6) + log(0.1 / 0.6)
_LOW = log(4 / 0.3) + log(1 / 0.3) + log(0.5 / 0.3)
_KL = 0.5 * log(4 / 0.6) + 0.5 * log(1 / 0.6)
number("ch07-water", _KL, "Two latents are enough for these data at this price.")(
    (0.5 * _ALL, "A KL term is never negative: what lies under water counts as zero."),
    (0.5 * _LOW, "The water level is beta times the noise."),
    (2 * _KL, "Half of that: the formula has a factor of 1/2."),
    (..., "Which variances are above beta sigma^2? Add half the log ratios."),
)
