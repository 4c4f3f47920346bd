"""Chapter 11: discrete codes, the VQ-VAE."""

from math import log

import torch

from vae_tutorial.checks.protocol import Hint, close, exercise, number, randn, tensor

number("ch11-bits", 16 * 16 * 9, "The image before has 43 times as many.", decimals=1)(
    (512 * 256, "A symbol from an alphabet of 512 takes log2(512) bits."),
    (9, "That is one symbol. There are 16 by 16."),
    (3 * 64 * 64 * 8, "That is the image before."),
    (256 * log(512), "Those are nats. In bits the logarithm is to base 2."),
    (..., "Places, times bits per symbol."),
)


@exercise("ch11-straight", "The cheat, in one line.")
def _straight(answer) -> None:
    v, wish = randn(11, 6, 3).requires_grad_(), randn(12, 6, 3)
    # Long entries and short ones: the largest product alone does not tell which is nearest.
    codebook = (randn(13, 5, 3) * torch.tensor([[0.3], [0.6], [1], [2], [4]])).requires_grad_()
    got = tensor(answer(v, codebook))
    nearest = torch.stack([codebook[(row - codebook).norm(dim=1).argmin()] for row in v])
    close(got, nearest, "Forward it should be the nearest entry for each vector.")
    if not got.requires_grad:
        raise Hint("No gradient can flow through it. Stop the gradient of the difference alone.")
    to_v, to_codebook = torch.autograd.grad(got, (v, codebook), wish.double(), allow_unused=True)
    if to_codebook is not None and to_codebook.any():
        raise Hint("The gradient reaches the codebook. Detach the entry as well.")
    if to_v is None:
        raise Hint("No gradient reaches v. Add v to a difference that is detached.")
    close(to_v, wish, "Backward it should be the identity.")


@exercise("ch11-perplexity", "Between 1 and K.")
def _perplexity(answer) -> None:
    got = tensor(answer(torch.tensor([4.0, 0.0, 2.0, 2.0], dtype=torch.float64)))
    if got.isnan().any():
        raise Hint("Not a number: 0 log 0 counts as 0. Leave out what never occurred.")
    # Independently: half the time one of two equal halves; the entropy is 1.5 bits.
    expected = 2**1.5
    wrong = [
        (log(expected), "That is the entropy. The perplexity is its exponential."),
        (3, "That is how many occurred at all. Rare symbols should count for less."),
        (1 / expected, "Upside down: look at the sign of the entropy."),
    ]
    close(got, expected, "exp(-sum p log p), with p the shares.", wrong)
