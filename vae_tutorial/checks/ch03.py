"""Chapter 3: autoencoder against VAE."""

from math import sqrt

import torch

from vae_tutorial.checks.protocol import (
    Hint,
    ask,
    close,
    exercise,
    number,
    randn,
    same,
    tensor,
)


@exercise("ch03-variance", "The moments of the mixture say the same.")
def _variance(answer) -> None:
    mean, log_variance = randn(7, 6, 3), randn(8, 6, 3) - 1
    between, within = mean.var(0, correction=0), log_variance.exp().mean(0)  # (D,)
    logs, deviations = log_variance.mean(0), (0.5 * log_variance).exp().mean(0)
    wrong = [
        (between, "This is the spread of the means alone. Each posterior has a width, too."),
        (within, "This is the width within an image alone. The means differ, too."),
        (between + logs, "The second argument is log(sigma^2). Turn it into a variance first."),
        (mean.var(0) + within, "Nearly: you divided by N - 1. Divide by N."),
        (between + deviations**2, "Average the variances, not the standard deviations."),
    ]
    # Independently: the moments of a mixture of six Gaussians, E[z^2] - E[z]^2.
    expected = (mean**2 + log_variance.exp()).double().mean(0) - mean.double().mean(0) ** 2
    hint = "Variance of the means plus mean of the variances: shape (D,)."
    close(ask(answer, mean, log_variance), expected, hint, wrong)


@exercise("ch03-fitted", "Mean and covariance are those of the codes.")
def _fitted(answer) -> None:
    codes = randn(11, 40, 3) @ randn(12, 3, 3) + 2
    covariance = torch.cov(codes.T.double())
    # What an affine function of the noise is made of: its value at zero, and at each unit vector.
    got = tensor(ask(answer, codes, torch.cat([torch.zeros(1, 3), torch.eye(3)])))
    if got.shape != (4, 3):
        raise Hint(f"Four rows of noise must give four draws, (4, 3), got {tuple(got.shape)}.")
    centred = [(torch.zeros(3), "The draws are centred at zero. Add the mean of the codes.")]
    hint = "Where the noise is zero, the draw must be the mean of the codes."
    close(got[0], codes.mean(0), hint, centred)
    columns = (got[1:] - got[0]).T  # L, with the image of each unit vector as a column
    spread = columns @ columns.T
    if same(columns.T @ columns, covariance) and not same(spread, covariance):
        raise Hint("L is transposed: with one draw per row, it is noise @ L.T.")
    product, widths = covariance @ covariance, covariance.diag().diag()
    wrong = [
        (product, "You multiplied by the covariance. Take a factor L of it, with L L' = C."),
        (widths, "The widths are right, the correlations are missing."),
    ]
    close(spread, covariance, "The draws' covariance must be that of the codes.", wrong)


number(
    "ch03-midpoint", sqrt(20 / 2), "Half-way, a straight walk is at the inner edge of the shell."
)(
    (sqrt(20), "That is the length of the ends. The average of two draws varies less."),
    (sqrt(20) / 2, "Half of the length of one draw: where is the other one?"),
    (10, "That is the mean squared length. Take the root."),
    (..., "What is the variance of (a + b) / 2 in one dimension?"),
)
