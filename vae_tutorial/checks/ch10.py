"""Chapter 10: a prior that is learnt."""

from math import log

import torch
from torch.distributions import Normal

from vae_tutorial.checks.protocol import Hint, close, exercise, number, randn, same, tensor


@exercise("ch10-masks", "No path from an input to its own output.")
def _masks(answer) -> None:
    for before, after in (([1, 2, 3], [1, 2, 1, 2]), ([2, 1, 3, 1], [3, 1, 2])):
        # Independently: one entry after the other, by the rule in words.
        loose = tensor([[float(i <= o) for i in before] for o in after])
        strict = tensor([[float(i < o) for i in before] for o in after])
        for last, expected in ((False, loose), (True, strict)):
            got = tensor(answer(torch.tensor(before), torch.tensor(after), last=last))
            if got.shape == expected.T.shape:
                raise Hint("Transposed: a row is an output, a column an input, as in a weight.")
            if last and same(got, loose):
                raise Hint("The last layer must be strict, or an output would see its own input.")
            close(got, expected, "1 where the input's degree is allowed, else 0.")


@exercise("ch10-density", "Exact, in one pass.")
def _density(answer) -> None:
    z, shift, log_scale = randn(10, 3, 4, 5, dtype=torch.float64)
    got = tensor(answer(z, shift, log_scale))
    # Independently: given those before it, each dimension is a Gaussian of its own.
    expected, volume = Normal(shift, log_scale.exp()).log_prob(z).sum(1), log_scale.sum(1)
    if got.shape != expected.shape:
        raise Hint("One number for each row: sum over the dimensions.")
    wrong = [
        (expected + 2 * volume, "The log-determinant has the wrong sign: wide means thin."),
        (expected + volume, "That is the density of the noise. The Jacobian is missing."),
    ]
    close(got, expected, "log N(noise; 0, I) minus the sum of the logarithmic scales.", wrong)


_MUTUAL = "The mutual information of the two latents: what N(0, I) knows nothing of."
number("ch10-waste", -0.5 * log(1 - 0.8**2), _MUTUAL)(
    (0.5 * log(1 - 0.8**2), "A gain is positive: -1/2 ln det C."),
    (-log(1 - 0.8**2), "Twice too much: there is a factor of 1/2."),
    (-0.5 * log(1 - 0.8**2) / log(2), "That is in bits."),
    (..., "KL(N(0, C) || N(0, I)), with C the codes' covariance."),
)
