"""Chapter 15: how good is it, really?"""

from math import log, sqrt

import torch
from torch.distributions import Bernoulli

from vae_tutorial.checks.protocol import Hint, close, exercise, number, randn, tensor


@exercise("ch15-noise", "Clean pixels cost nothing; a grey of one half costs ln 2.")
def _noise(answer) -> None:
    greys = torch.sigmoid(3 * randn(20, 4, 1, 28, 28))
    greys[:, :, :5] = 0  # empty rows, as at the edge of a digit
    greys[:, :, 5] = 1
    each = Bernoulli(greys.double()).entropy().nan_to_num()
    expected = each.sum((1, 2, 3))
    found = answer(greys)
    if tensor(found).isnan().any():
        raise Hint("0 log 0 gave NaN. It is 0 here; torch.xlogy knows that.")
    wrong = [
        (expected / log(2), "These are bits. Nats are asked for."),
        (-expected, "An entropy is not negative: the sign is wrong."),
        (expected / 784, "Sum over the pixels, do not average."),
        (
            -torch.xlogy(greys, greys).double().sum((1, 2, 3)),
            "White is half of it: add black's part.",
        ),
        (expected.mean(), "One number per image is asked for."),
    ]
    close(found, expected, "Sum -y log y - (1 - y) log(1 - y) over pixels: shape (B,).", wrong)


@exercise(
    "ch15-shares", "The squares sum to less than one, and where one draw wins, to nearly one."
)
def _shares(answer) -> None:
    log_weight = 3 * randn(21, 6, 4) - 90
    plain = log_weight.double().softmax(0)
    expected = torch.stack([plain, plain.square()])
    by_image = log_weight.double().softmax(1)
    found = answer(log_weight)
    if tensor(found).isnan().any():
        raise Hint("The weights are too small for single precision, and 0 / 0 is NaN. Use softmax.")
    wrong = [
        (torch.stack([plain, plain]), "The second one is squared."),
        (torch.stack([plain, plain.square() / plain.square().sum(0)]), "The squares are not normalized again."),
        (torch.stack([by_image, by_image.square()]), "Normalize over the draws, which come first."),
        (expected.flip(0), "The plain ones come first, the doubly reparameterized second."),
    ]  # fmt: skip
    close(found, expected, "Two tensors (S, B): the shares w_s / sum w, and their squares.", wrong)


@exercise("ch15-upper", "With it and the lower bound, log p(x) is caught in between.")
def _upper(answer) -> None:
    log_true, log_weight = 2 * randn(22, 4) - 88, 3 * randn(23, 6, 4) - 95
    together = torch.cat([log_true[None], log_weight])
    expected = together.logsumexp(0) - log(7)
    wrong = [
        (torch.full((4,), -torch.inf), "The weights are too small for single precision: logsumexp."),
        (log_weight.logsumexp(0) - log(6), "That is the lower bound: the true draw is missing."),
        (together.logsumexp(0) - log(6), "There are S draws now, one more than from q alone."),
        (together.logsumexp(0), "You summed the weights. Their mean is asked for."),
        (together.mean(0), "You averaged the logarithms. Average the weights."),
        (log_true, "That is the weight of the truth alone. Average it with the others."),
    ]  # fmt: skip
    hint = "Take the logarithm of the mean of all S weights: shape (B,)."
    close(answer(log_true, log_weight), expected, hint, wrong)


_ONE = 1.2**2 / sqrt(2 * 1.2**2 - 1)
number("ch15-draws", (_ONE**50 - 1) / 0.02, "With 2 latents, 5 draws would do.", decimals=-1)(
    ((_ONE**50 - 1) / 0.01, "V / 2S: the 2 is missing."),
    (_ONE**50 / 0.02, "Nearly: V is the product minus one."),
    (50 * (_ONE - 1) / 0.02, "V + 1 is a product over the latents, not a sum."),
    (..., "V = (alpha^2 / sqrt(2 alpha^2 - 1))^50 - 1; solve V / 2S = 0.01."),
)
