"""Chapter 9: two dimensions, where everything can be seen."""

from math import log

import torch
from torch.distributions import MultivariateNormal

from vae_tutorial.checks.protocol import close, exercise, number, randn


@exercise("ch09-entropy", "Wider is less certain; turning changes nothing.")
def _entropy(answer) -> None:
    for a, b in torch.tensor([[5.0, 2.0], [0.5, 3.0]], dtype=torch.float64):
        covariance = torch.stack([a, b]).square().diag()
        expected = MultivariateNormal(torch.zeros(2).double(), covariance).entropy()
        wrong = [
            (expected / log(2), "That is in bits."),
            (expected + log(a * b), "The standard deviations were squared once too often."),
            (expected - 1, "The e in 2 pi e is missing: one half for each dimension."),
        ]
        hint = "ln(2 pi e), and the logarithm of each standard deviation."
        close(answer(a, b), expected, hint, wrong)


number("ch09-common", 0.5 * log(1.6 / 0.4), "With a correlation of 1 it would be infinite.")(
    (log(1.6 / 0.4), "Twice too much: there is a factor of 1/2."),
    (-0.5 * log(0.64), "That is their mutual information. A z that splits the two needs more."),
    (log(2) / log(2), "That is in bits."),
    (..., "Put rho = 0.6 into the formula."),
)


@exercise("ch09-quadrature", "In two dimensions nothing more is needed.")
def _quadrature(answer) -> None:
    log_joint = randn(9, 3, 50, dtype=torch.float64)
    area = torch.tensor(0.01, dtype=torch.float64)
    p = log_joint.exp()
    expected = (p.sum(1) * area).log()
    wrong = [
        (p.sum(1).log(), "Each cell counts with its area."),
        (p.mean(1).log(), "Add up, do not average: an integral sums values times areas."),
        (p.sum(1) * area, "That is p(x). Its logarithm is asked for."),
    ]
    hint = "The logarithm of the sum of exp(log_joint) times area, over the grid."
    close(answer(log_joint, area), expected, hint, wrong)
    hint = "Right for these, but at -2000 every exponential is zero. Use logsumexp."
    close(answer(log_joint - 2000, area), expected - 2000, hint)
    apart = torch.tensor([0.0, -900.0, -2000.0], dtype=torch.float64)
    hint = "Right where all points are alike. These are not: treat each row by itself."
    close(answer(log_joint + apart[:, None], area), expected + apart, hint)
