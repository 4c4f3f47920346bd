"""Chapter 10: a prior that is learnt."""

from math import log

import torch
from torch.distributions import Normal

from vae_tutorial.checks.protocol import Hint, close, exercise, number, randn, same, tensor


@exercise("ch10-masks", "No path from an input to its own output, in any order.")
def _masks(answer) -> None:
    for order, hidden in (([2, 3, 1], [1, 2, 1, 2]), ([4, 1, 3, 2], [3, 1, 2])):
        # Independently: one entry after the other, by the rule in words.
        first = tensor([[float(i <= h) for i in order] for h in hidden])
        last = tensor([[float(h < o) for h in hidden] for o in order])
        got = [tensor(mask) for mask in answer(torch.tensor(order), torch.tensor(hidden))]
        if len(got) != 2:
            raise Hint("Two masks are asked for: inputs to hidden, hidden to outputs.")
        if [mask.shape for mask in got] == [first.T.shape, last.T.shape]:
            raise Hint("Transposed: a row is an output, a column an input, as in a weight.")
        if same(got[1], tensor([[float(h <= o) for h in hidden] for o in order])):
            raise Hint("The last layer must be strict, or an output would see its own input.")
        places = range(1, len(order) + 1)
        if same(got[1], tensor([[float(h < i) for h in hidden] for i in places])):
            raise Hint("Output i has the degree of input i, which is order[i], not i.")
        close(got[0], first, "The first mask: 1 where the input's degree is allowed, else 0.")
        close(
            got[1], last, "The last mask: 1 where the hidden unit's degree is below the output's."
        )


def _first(z):
    """m and s of dimension i, from the sum of those before it."""
    before = z.cumsum(-1) - z
    return 0.5 * before, 0.3 * torch.sin(before)


def _second(z):
    before = z.cumsum(-1) - z
    return torch.cos(before), 0.2 - 0.1 * before


@exercise("ch10-stack", "Exact, by one pass through each flow.")
def _stack(answer) -> None:
    z = randn(10, 5, 3, dtype=torch.float64)

    def density(flows, flip=True, sign=-1.0):
        """From z back to the noise, flow by flow."""
        total = torch.zeros(len(z), dtype=z.dtype)
        u = z
        for i, flow in enumerate(flows):
            u = u.flip(-1) if i and flip else u
            # Independently: given those before it, each dimension is a Gaussian of its own.
            shift, log_scale = flow(u)
            u = (u - shift) / log_scale.exp()
            total = total + sign * log_scale.sum(-1)
        return Normal(0.0, 1.0).log_prob(u).sum(-1) + total

    both = (_second, _first)
    expected, got = density(both), tensor(answer(z, _first, _second))
    if got.shape != expected.shape:
        raise Hint("One number for each row: sum over the dimensions.")
    wrong = [
        (density(both, sign=1.0), "The log-determinants have the wrong sign: wide means thin."),
        (density(both, sign=0.0), "That is the density of the noise. The Jacobians are missing."),
        (density(both, flip=False), "Between the two flows the order of dimensions is reversed."),
        (density(both[::-1]), "From z to the noise, the last flow is undone first."),
    ]
    close(got, expected, "log N(noise; 0, I) minus all logarithmic scales of both flows.", wrong)


_MUTUAL = "The mutual information of the two latents: what N(0, I) knows nothing of."
number("ch10-waste", -0.5 * log(1 - 0.8**2), _MUTUAL)(
    (0.5 * log(1 - 0.8**2), "A gain is positive: -1/2 ln det C."),
    (-log(1 - 0.8**2), "Twice too much: there is a factor of 1/2."),
    (-0.5 * log(1 - 0.8**2) / log(2), "That is in bits."),
    (..., "KL(N(0, C) || N(0, I)), with C the codes' covariance."),
)
