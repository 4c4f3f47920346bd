"""Chapter 22: counts, tables, series."""

from math import exp, inf, sqrt

import torch

from vae_tutorial.checks.protocol import Hint, ask, close, exercise, number

number("ch22-zero", 0.2**0.5, "A Poisson of the same mean would say 0.135.", 3)(
    (exp(-2), "That is a Poisson's answer. Its scatter is smaller."),
    (1 - 0.2**0.5, "That is the probability that it does occur."),
    (
        0.8**0.5,
        "You have exchanged the two factors: at x = 0 the one with r in the numerator stays.",
    ),
    (0.2, "The factor is raised to the power r."),
    (0.2**2, "The power is r, not the mean."),
    (..., "At x = 0 the gamma functions cancel: (r / (r + m))^r is left, with m = 2."),
)


@exercise("ch22-dispersion", "Moments are quick; maximum likelihood is usually more precise.")
def _dispersion(answer) -> None:
    random = torch.Generator().manual_seed(3)
    means = 5 * torch._standard_gamma(torch.full((4000,), 0.7), generator=random) / 0.7
    x = torch.poisson(means, generator=random)
    mean, variance = x.mean(), x.var(correction=0)
    right = mean**2 / (variance - mean)
    wrong = [
        ((variance - mean) / mean**2, "That is 1 / r."),
        (mean**2 / variance, "The Poisson's own variance, the mean, comes off first."),
        (mean / (variance - mean), "The variance is m + m^2 / r: the mean is squared."),
        (mean**2 / (x.std(correction=0) - mean), "That is the standard deviation. Square it."),
    ]
    hint = "Solve variance = mean + mean^2 / r for r."
    close(ask(answer, x), right, hint, wrong)
    even = torch.full((100,), 3.0)
    if float(ask(answer, even)) != inf:
        raise Hint(
            "Right where the scatter is large. Counts that are all equal have none: infinity."
        )


number("ch22-interval", 1.645 * sqrt(1.5), "Two uncertainties add up as variances.")(
    (1.645, "That is the noise of the entry alone. The latent is uncertain, too."),
    (1.645 * sqrt(0.5), "That is the latent's uncertainty alone. The noise comes on top."),
    (1.645 * sqrt(2), "That is without having seen the first entry."),
    (sqrt(1.5), "That is one standard deviation. The interval reaches 1.645 of them."),
    (1.645 * 1.5, "That is a variance, not a standard deviation."),
    (1.645 * (1 + sqrt(0.5)), "Standard deviations do not add up; variances do."),
    (2 * 1.645 * sqrt(1.5), "That is the whole interval. Half of it is asked for."),
    (..., "Var(z | x1) = 1/2, and the noise has the variance 1."),
)
