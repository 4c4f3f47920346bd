"""The answers to the exercises from chapter 9 on, computed independently of the text."""

from __future__ import annotations

from math import log

import torch
from torch.distributions import MultivariateNormal

from vae_tutorial.exercises import Hint, close, exercise, same

# ---------------------------------------- 9. Two dimensions, where everything can be seen


@exercise("ch09-entropy")
def _entropy(answer) -> str:
    for a, b in ((5.0, 1.0), (0.5, 3.0)):
        got = torch.as_tensor(answer(a, b), dtype=torch.float64)
        covariance = torch.tensor([[a**2, 0.0], [0.0, b**2]], dtype=torch.float64)
        expected = MultivariateNormal(torch.zeros(2).double(), covariance).entropy()
        if same(got, expected / log(2)):
            raise Hint("That is in bits.")
        if same(got, expected + log(a * b)):
            raise Hint("The standard deviations were squared once too often.")
        if same(got, expected - 1):
            raise Hint("The e in 2 pi e is missing: one half for each dimension.")
        close(got, expected, "ln(2 pi e), and the logarithm of each standard deviation.")
    return "Wider is less certain; turning changes nothing."


@exercise("ch09-common")
def _common(answer) -> str:
    value, rho = float(answer), 0.6
    if abs(value - log(1.6 / 0.4)) < 0.01:
        raise Hint("Twice too much: there is a factor of 1/2.")
    if abs(value + 0.5 * log(1 - rho**2)) < 0.01:
        raise Hint("That is the mutual information of the two. A z that splits them needs more.")
    # Independently: x_i = sqrt(rho) z + noise of variance 1 - rho; the KL term of its posterior.
    w = torch.full((2,), rho, dtype=torch.float64).sqrt()
    precision = 1 + (w * w / (1 - rho)).sum()
    close(value, 0.5 * precision.log(), "Put rho = 0.6 into the formula.", 5e-3)
    return "With a correlation of 1 it would be infinite."


@exercise("ch09-quadrature")
def _quadrature(answer) -> str:
    generator = torch.Generator().manual_seed(9)
    log_joint = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    area = 0.01
    expected = (log_joint.exp().sum(1) * area).log()
    got = torch.as_tensor(answer(log_joint, area))
    if same(got, expected - log(area)):
        raise Hint("Each cell counts with its area.")
    if same(got, log_joint.exp().mean(1).log()):
        raise Hint("Add up, do not average: an integral is a sum of values times areas.")
    if same(got, expected.exp()):
        raise Hint("That is p(x). Its logarithm is asked for.")
    close(got, expected, "The logarithm of the sum of exp(log_joint) times area, over the grid.")
    far = torch.as_tensor(answer(log_joint - 2000, area))
    if not torch.isfinite(far).all():
        raise Hint("Right for these, but at -2000 every exponential is zero. Use logsumexp.")
    return "In two dimensions nothing more is needed."


# ------------------------------------------------------------- 11. Discrete codes: VQ-VAE


@exercise("ch11-bits")
def _bits(answer) -> str:
    value = float(answer)
    if value == 512 * 256:
        raise Hint("A symbol from an alphabet of 512 takes log2(512) bits.")
    if value == 9:
        raise Hint("That is one symbol. There are 16 by 16.")
    if value == 3 * 64 * 64 * 8:
        raise Hint("That is the image before.")
    if abs(value - 256 * log(512)) < 1:
        raise Hint("Those are nats. In bits the logarithm is to base 2.")
    alphabet = [format(k, "b").zfill(9) for k in range(512)]  # independently: write them down
    expected = 16 * 16 * len(alphabet[-1])
    close(value, float(expected), "Places, times bits a symbol.", 1e-3)
    return "The image before has 43 times as many."


@exercise("ch11-straight")
def _straight(answer) -> str:
    generator = torch.Generator().manual_seed(11)
    v = torch.randn(6, 3, generator=generator).requires_grad_()
    codebook = torch.randn(5, 3, generator=generator).requires_grad_()
    got = answer(v, codebook)
    nearest = torch.stack([codebook[(row - codebook).norm(dim=1).argmin()] for row in v]).detach()
    close(got, nearest, "Forward it should be the nearest entry for each vector.")
    if not got.requires_grad:
        raise Hint("No gradient can flow through it. Stop the gradient of the difference alone.")
    wish = torch.randn(6, 3, generator=generator)
    to_v, to_codebook = torch.autograd.grad(got, (v, codebook), wish, allow_unused=True)
    if to_codebook is not None and bool(to_codebook.any()):
        raise Hint("The gradient reaches the codebook. Detach the entry as well.")
    if to_v is None:
        raise Hint("No gradient reaches v. Add v to a difference that is detached.")
    close(to_v, wish, "Backward it should be the identity.")
    return "The cheat, in one line."


@exercise("ch11-perplexity")
def _perplexity(answer) -> str:
    counts = torch.tensor([4.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    got = torch.as_tensor(answer(counts), dtype=torch.float64)
    if bool(got.isnan()):
        raise Hint("Not a number: 0 log 0 counts as 0. Leave out what never occurred.")
    # Independently: half the time one of two equal halves; the entropy is 1.5 bits.
    expected = torch.tensor(2.0, dtype=torch.float64) ** 1.5
    if same(got, expected.log()):
        raise Hint("That is the entropy. The perplexity is its exponential.")
    if same(got, torch.tensor(3.0, dtype=torch.float64)):
        raise Hint("That is how many occurred at all. Rare symbols should count for less.")
    if same(got, 1 / expected):
        raise Hint("Upside down: look at the sign of the entropy.")
    close(got, expected, "exp(-sum p log p), with p the shares.")
    return "Between 1 and K."
