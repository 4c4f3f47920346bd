"""Chapter 17: when likelihood misleads."""

from math import exp

import torch
from torch.nn.functional import softplus

from vae_tutorial.checks.protocol import Hint, ask, close, exercise, number, randn, tensor

number("ch17-auroc", 6.5 / 12, "Hardly better than chance.", 3)(
    (6 / 12, "Nearly. A tie counts for a half."),
    (7 / 12, "Nearly. A tie counts for a half, not for one."),
    (5.5 / 12, "The other way round: how often has the *outlier* the higher score?"),
    (6.5, "Divide by the number of pairs."),
    (..., "There are 12 pairs. Count those in which the outlier has the higher score."),
)


@exercise("ch17-alarms", "No test image has chosen the threshold.")
def _alarms(answer) -> None:
    validation, test, share = 2 * randn(7, 400) + 5, 3 * randn(8, 60) + 6, 0.1
    expected = test > validation.quantile(1 - share)
    got = tensor(ask(answer, validation, test, share))
    if got.shape != expected.shape:
        raise Hint(f"Expected one boolean for each test image, (60,), got {tuple(got.shape)}.")
    wrong = [
        (test > test.quantile(1 - share), "This threshold comes from the test images."),
        (test > validation.quantile(share), "That many lie *below* your threshold, not above it."),
        (test < validation.quantile(share), "Strange is what scores high, not what scores low."),
        (~expected, "The other way round: an alarm is a score above the threshold."),
        (test > validation.quantile(0.95), "The share is an argument. It need not be 0.05."),
    ]
    hint = "Compare the test scores with the quantile 1 - share of the validation scores."
    close(got, expected, hint, wrong)


@exercise("ch17-known", "The missing pixels have no say, whatever stands there.")
def _known(answer) -> None:
    logits, x = 2 * randn(7, 3, 4, 784), (randn(8, 4, 784) > 0.5).float()
    observed = randn(9, 4, 784) > -0.3
    each = x * logits - softplus(logits)  # (3, 4, 784)
    expected = (each * observed).sum(-1)
    wrong = [
        (each.sum(-1), "You summed over all pixels. The missing ones are to be left out."),
        ((each * ~observed).sum(-1), "That is the likelihood of the missing pixels."),
        (-expected, "The log-likelihood itself is asked for, not the loss."),
        (expected / observed.sum(-1), "You averaged over the known pixels. Sum over them."),
        ((x * observed * logits - softplus(logits)).sum(-1),
         "A missing pixel is not a black one: leave its whole term out."),
        (expected.logsumexp(0), "One number for each latent is asked for, (S, B)."),
    ]  # fmt: skip
    hint = "Sum x * logits - softplus(logits) over the known pixels: shape (S, B)."
    close(answer(logits, x, observed), expected, hint, wrong)
    holes = torch.where(observed, x, torch.nan)
    if bool(tensor(answer(logits, holes, observed)).isnan().any()):
        raise Hint("Right, but for a NaN at a missing place: 0 times NaN is NaN. Use torch.where.")


_y, _likelihoods = (0.9, 0.2, 0.5), (1, exp(-1), exp(-3))  # relative to the first
_white = sum(w * y for w, y in zip(_likelihoods, _y, strict=True)) / sum(_likelihoods)
number("ch17-white", _white, "Most of the weight lies on one draw.", 3)(
    (sum(_y) / 3, "You gave all three draws the same weight."),
    (0.9, "You took the best draw alone. The others count, by their weights."),
    (1 - _white, "That is the probability of black."),
    ((50 * 0.9 + 51 * 0.2 + 53 * 0.5) / 154,
     "Weights are proportional to the likelihoods, not to their logarithms."),
    (..., "Normalize the three likelihoods to weights, and average the probabilities."),
)  # fmt: skip
