"""Chapter 13: hierarchies, the ladder VAE."""

from math import log

import torch

from vae_tutorial.checks.protocol import close, exercise, number, randn


@exercise("ch13-merge", "It is never less sure than either.")
def _merge(answer) -> None:
    mean_a, mean_b = randn(13, 2, 4, dtype=torch.float64)
    var_a, var_b = 0.2 + torch.sigmoid(randn(14, 2, 4, dtype=torch.float64))
    mean, variance = answer(mean_a, var_a, mean_b, var_b)
    # Independently: multiply the densities on a grid, and take the moments.
    z = torch.linspace(-15, 15, 60_001, dtype=torch.float64)[:, None]
    weight = (-0.5 * ((z - mean_a) ** 2 / var_a + (z - mean_b) ** 2 / var_b)).softmax(0)
    expected = (weight * z).sum(0)
    spread = (weight * (z - expected) ** 2).sum(0)
    wrong = [
        (1 / spread, "That is the precision. The variance is one over it."),
        (var_a + var_b, "Precisions add up, not variances: two opinions are surer than one."),
    ]
    close(variance, spread, "The precision is the sum of both precisions.", wrong)
    unscaled = mean_a / var_a + mean_b / var_b
    wrong = [
        ((mean_a + mean_b) / 2, "The surer opinion should count for more: weight by precision."),
        (unscaled, "The weights must add up to one: multiply by the merged variance."),
    ]
    close(mean, expected, "The mean of both means, weighted by their precisions.", wrong)


number("ch13-agree", 0.5 * (0.5 - 1 - log(0.5)), "To repeat what is known costs a little, too.")(
    (0, "The merged posterior is surer than the prediction, so it is not the same."),
    (0.5 - 1 - log(0.5), "Twice too much: there is a factor of 1/2."),
    (0.5 * (2 - 1 - log(2)), "That is the other direction. The posterior comes first."),
    (..., "Two equal opinions have half the variance. Then 1/2 (v - 1 - ln v)."),
)

_NORMAL = (
    "A standard normal again, so this one gains nothing. Other weights give another Gaussian, which "
    "may fit the codes better; to leave the Gaussians it takes networks that bend."
)
number("ch13-linear", 0.8**2 + 0.36, _NORMAL)(
    (0.36, "That is the variance of z_1 once z_2 is known."),
    (0.8 + 0.36, "A factor enters the variance with its square."),
    (0.8**2, "That is what comes from z_2. The layer adds noise of its own."),
    (..., "The factor squared times the variance above, plus its own."),
)
