"""The answers to the exercises from chapter 9 on, computed independently of the text."""

from __future__ import annotations

from math import log

import torch
from torch.distributions import MultivariateNormal

from vae_tutorial.exercises import Hint, close, exercise, same

# ---------------------------------------- 9. Two dimensions, where everything can be seen


@exercise("ch09-entropy")
def _entropy(answer) -> str:
    for a, b in ((5.0, 1.0), (0.5, 3.0)):
        got = torch.as_tensor(answer(a, b), dtype=torch.float64)
        covariance = torch.tensor([[a**2, 0.0], [0.0, b**2]], dtype=torch.float64)
        expected = MultivariateNormal(torch.zeros(2).double(), covariance).entropy()
        if same(got, expected / log(2)):
            raise Hint("That is in bits.")
        if same(got, expected + log(a * b)):
            raise Hint("The standard deviations were squared once too often.")
        if same(got, expected - 1):
            raise Hint("The e in 2 pi e is missing: one half for each dimension.")
        close(got, expected, "ln(2 pi e), and the logarithm of each standard deviation.")
    return "Wider is less certain; turning changes nothing."


@exercise("ch09-common")
def _common(answer) -> str:
    value, rho = float(answer), 0.6
    if abs(value - log(1.6 / 0.4)) < 0.01:
        raise Hint("Twice too much: there is a factor of 1/2.")
    if abs(value + 0.5 * log(1 - rho**2)) < 0.01:
        raise Hint("That is the mutual information of the two. A z that splits them needs more.")
    # Independently: x_i = sqrt(rho) z + noise of variance 1 - rho; the KL term of its posterior.
    w = torch.full((2,), rho, dtype=torch.float64).sqrt()
    precision = 1 + (w * w / (1 - rho)).sum()
    close(value, 0.5 * precision.log(), "Put rho = 0.6 into the formula.", 5e-3)
    return "With a correlation of 1 it would be infinite."


@exercise("ch09-quadrature")
def _quadrature(answer) -> str:
    generator = torch.Generator().manual_seed(9)
    log_joint = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    area = 0.01
    expected = (log_joint.exp().sum(1) * area).log()
    got = torch.as_tensor(answer(log_joint, area))
    if same(got, expected - log(area)):
        raise Hint("Each cell counts with its area.")
    if same(got, log_joint.exp().mean(1).log()):
        raise Hint("Add up, do not average: an integral is a sum of values times areas.")
    if same(got, expected.exp()):
        raise Hint("That is p(x). Its logarithm is asked for.")
    close(got, expected, "The logarithm of the sum of exp(log_joint) times area, over the grid.")
    far = torch.as_tensor(answer(log_joint - 2000, area))
    if not torch.isfinite(far).all():
        raise Hint("Right for these, but at -2000 every exponential is zero. Use logsumexp.")
    return "In two dimensions nothing more is needed."
