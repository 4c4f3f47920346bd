"""Chapter 4: exploring the latent space."""

from math import log, log2, sqrt

import torch

from vae_tutorial.checks.protocol import ask, close, exercise, number, randn


@exercise("ch04-middle", "Half-way along the arc.")
def _middle(answer) -> None:
    a, b = randn(13, 2, 5) * torch.tensor([[1.0], [2.0]])
    u, v = a / a.norm(), b / b.norm()
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # independently: no arccos
    both = a + b
    wrong = [
        (both / 2, "This is half-way on the straight line."),
        (both / 2**0.5, "That is right for right angles alone. These two are at another angle."),
        (both / both.norm(), "The direction is right. The length need not be 1."),
    ]
    hint = "Put t = 1/2 into the formula: both weights are sin(w / 2) / sin(w)."
    close(ask(answer, a, b), both * torch.sin(angle / 2) / torch.sin(angle), hint, wrong)


number("ch04-quarter", sqrt(20 * (9 + 1) / 16), "Half-way it is shorter still.")(
    (sqrt(20), "That is the length of the ends. The straight path leaves the shell."),
    (12.5, "That is the squared length. Take the root."),
    (sqrt(10), "That is half-way. A quarter of the path is asked for."),
    (..., "At right angles the squares of both parts add up."),
)

number("ch04-atleast", 30 - log(60_000), "However well the model was trained.", decimals=1)(
    (log(60_000), "That is the most that the middle part can take. Give the rest."),
    (30, "The KL term has two parts. The middle one may take up to log N of it."),
    (30 - log2(60_000), "log N in nats is the natural logarithm."),
    (..., "30 minus log N."),
)
