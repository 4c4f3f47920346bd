"""Chapter 12: a prior over codes, the gated PixelCNN."""

from math import log

import torch

from vae_tutorial.checks.protocol import Hint, close, exercise, number, tensor

number("ch12-bits", 900 / (16 * 16 * log(2)), "Of an alphabet of 512, which would take 9.")(
    (900 / (16 * 16), "That is nats per symbol. One bit is ln 2 nats."),
    (900 / log(2), "That is for the whole grid. It has 256 symbols."),
    (900 * log(2) / (16 * 16), "There are more bits than nats: divide by ln 2."),
    (..., "Nats, by ln 2, by the number of symbols."),
)


@exercise("ch12-mask", "Correct, and with a blind spot.")
def _mask(answer) -> None:
    for size, first in ((3, True), (3, False), (5, True), (5, False)):
        # Independently: the places before the middle, row by row.
        middle, places = (size // 2, size // 2), range(size)
        b = tensor([[float((row, column) <= middle) for column in places] for row in places])
        a = b.clone()
        a[middle] = 0
        expected, other = (a, b) if first else (b, a)
        triangle = torch.ones(size, size).tril()
        wrong = [
            (1 - expected, "Upside down: 1 is for places that may be looked at."),
            (other, "Look at the middle: the first layer must not see its own place."),
            (triangle, "Above, the whole row is earlier, the right half, too."),
        ]
        hint = "Rows above, and to the left in the row of the middle."
        close(answer(size, first), expected, hint, wrong)


@exercise("ch12-neighbour", "Never more than the entropy of b alone.")
def _neighbour(answer) -> None:
    # The second symbol never stands on the left.
    counts = torch.tensor([[6.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 4.0, 3.0]], dtype=torch.float64)
    got = tensor(answer(counts))
    if got.isnan().any():
        raise Hint("Not a number: leave out pairs that never occurred.")
    # Independently, by the chain rule: H(b | a) = H(a, b) - H(a).
    p = counts / counts.sum()
    joint, left, right = (-torch.xlogy(q, q).sum() / log(2) for q in (p, p.sum(1), p.sum(0)))
    expected = joint - left
    wrong = [
        (expected * log(2), "That is in nats."),
        (joint, "That is the entropy of both together, H(a, b)."),
        (joint - right, "That is the left symbol given the right one."),
        (-expected, "An entropy is not negative: look at the sign."),
    ]
    hint = "Average -log2 p(b | a) over the pairs, each as often as it occurs."
    close(got, expected, hint, wrong)
