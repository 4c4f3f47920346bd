"""Appendix, chapter 23: from one loop to many."""

import torch

from vae_tutorial.checks.protocol import ask, close, exercise, number


@exercise(
    "ch23-mean",
    "fit does it with gradients: it weights the loss of each share, and DDP takes the average.",
)
def _mean(answer) -> None:
    means, counts = torch.tensor([2.0, 3.0, 7.0]), torch.tensor([4.0, 3.0, 3.0])
    right = (means * counts).sum() / counts.sum()
    wrong = [
        (means.mean(), "Shares of different sizes do not count alike."),
        ((means * counts).sum(), "That is the sum over all examples. Divide by how many they are."),
        ((means * counts).mean(), "Divide by the number of examples, not of processes."),
        ((means / counts).sum() / (1 / counts).sum(), "A larger share counts more, not less."),
    ]
    close(ask(answer, means, counts), right, "Weigh each mean by its share of the examples.", wrong)


_MEGABYTES = 1_360_696 * 4 / 1e6
number("ch23-ring", 2 * 7 / 8 * _MEGABYTES, "With 1,000 processes it would be 10.9.", 1)(
    (2 * 7 / 8 * _MEGABYTES / 4, "A float32 has four bytes."),
    (7 / 8 * _MEGABYTES, "Twice around the ring: once to add, once to hand the sums on."),
    (2 * _MEGABYTES, "Nobody sends a part all the way around: n - 1 steps, not n."),
    (2 * 7 * _MEGABYTES, "In each step only one part of eight is sent, not all numbers."),
    (_MEGABYTES, "That is the size of the gradient. In which two rounds is it sent?"),
    (..., "Each process sends one part of eight in each of 2 (n - 1) steps; a number has 4 bytes."),
)

number(
    "ch23-faster", 90 / (90 / 9 + 10), "Half of the nine processes' time is lost to waiting.", 1
)(
    (9, "So it would be if averaging took no time."),
    (0.5, "That is the efficiency: how much faster, divided by nine."),
    (5, "One process alone has nothing to average: its step takes 90 ms."),
    (20, "That is the time of a step, in milliseconds."),
    (..., "A step takes 90 / 9 ms of computing, and 10 ms of averaging."),
)
