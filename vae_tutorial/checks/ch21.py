"""Chapter 21: tokens."""

from math import log, log2

import torch

from vae_tutorial.checks.protocol import Hint, ask, close, exercise, number, randn, tensor

number("ch21-index", ((4 * 5 + 0) * 5 + 3) * 3 + 1, "The first digit weighs 75, the second 15.", decimals=0)(
    (4 + 0 * 7 + 3 * 35 + 1 * 175, "You let the first digit count least. Here it counts most."),
    (4 * 175 + 0 * 25 + 3 * 5 + 1, "A digit weighs the product of the levels behind it, its own is not in it."),
    (4 * 525 + 0 * 75 + 3 * 15 + 1 * 3, "A digit weighs the product of the levels behind it, its own is not in it."),
    (4 + 0 + 3 + 1, "Each digit has a weight of its own."),
    (..., "A digit's weight is the product of the levels behind it."),
)  # fmt: skip

number(
    "ch21-rate", 16 * 16 * 9 + 32 * 32 * log2(1000), "The fine grid takes most of them.", decimals=0
)(
    (16 * 16 * 9, "That is the coarse grid alone."),
    (32 * 32 * log2(1000), "That is the fine grid alone."),
    (16 * 16 * log(512) + 32 * 32 * log(1000), "That is in nats."),
    (16 * 9 + 32 * log2(1000), "A grid of 16 by 16 has 256 places."),
    (16 * 16 * 512 + 32 * 32 * 1000, "A symbol out of K takes log2 K bits, not K."),
    (16 * 16 * 9 + 32 * 32 * (8 + 5 + 5 + 5), "The levels multiply: K is 1,000."),
    (..., "For each grid: its places, times log2 of its alphabet."),
)


@exercise("ch21-digits", "The way back is the sum of digits times weights.")
def _digits(answer) -> None:
    for levels in ((8, 4, 4), (3, 5, 2)):
        total = levels[0] * levels[1] * levels[2]
        index = torch.arange(total)
        # Independently: the axes of an array of all points, in order.
        expected = torch.cartesian_prod(*(torch.arange(n) for n in levels))
        backwards = torch.cartesian_prod(*(torch.arange(n) for n in levels[::-1])).flip(1)
        points = 2 * expected / (tensor(levels) - 1) - 1
        wrong = [
            (expected.flip(1), "The digits come in the wrong order: number 1 first."),
            (
                backwards,
                "The first digit must count most: neighbours in the index differ in the last.",
            ),
            (expected.T, "Transposed: one row for each index."),
            (expected + 1, "Digits start at 0."),
            (points, "Those are the lattice points. Their digits are asked for."),
        ]
        hint = "Divide by a digit's weight, drop the rest, and take it modulo the digit's levels."
        close(ask(answer, index, levels), expected, hint, wrong)


@exercise("ch21-attend", "Nothing that comes later has a share.")
def _attend(answer) -> None:
    q, k, v = (2 * randn(seed, 5, 3) for seed in (1, 2, 3))
    scores = q @ k.T / 3**0.5

    def rows(scores, upto) -> torch.Tensor:  # place by place, with what it may look at
        seen = [torch.softmax(scores[i, : upto(i)], 0) @ v[: upto(i)] for i in range(5)]
        return torch.stack(seen)

    expected = rows(scores, lambda i: i + 1)
    got = tensor(ask(answer, q, k, v)).detach()
    if got.isnan().any():
        raise Hint(
            "Not a number: a place may look at itself, else the first has nothing to look at."
        )
    wrong = [
        (rows(scores, lambda i: 5), "Every place looks at later ones: a mask is missing."),
        (rows(3**0.5 * scores, lambda i: i + 1), "Divide the products by sqrt(d)."),
        (rows(scores / 3**0.5, lambda i: i + 1), "Divide by sqrt(d), not by d."),
        (scores.softmax(1).tril() @ v, "Mask before the softmax: the shares must add up to one."),
        ((scores * torch.ones(5, 5).tril()).softmax(1) @ v,
         "A masked score must be minus infinity: exp(0) is 1, not 0."),
        (scores.masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf).softmax(0) @ v,
         "The shares of one place add up to one over the places it looks at: softmax along the rows."),
        (torch.stack([v[: i + 1].mean(0) for i in range(5)]), "All places get equal shares: q and k do not count."),
    ]  # fmt: skip
    hint = "softmax(q k^T / sqrt(d)) over the places up to one's own, times v: shape (N, d)."
    close(got, expected, hint, wrong)
