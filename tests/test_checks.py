"""The exercises: the right answer passes, and each plausible wrong one gets a hint of its own."""

from __future__ import annotations

import math
import re

import pytest
import torch

from vae_tutorial import (
    MLP,
    VAE,
    Bernoulli,
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    MeanFieldGaussian,
    StandardNormal,
    checks,
    data,
)


def bce(y, x):
    return -(x * y.log() + (1 - x) * (1 - y).log()).sum(1)


def pca(x, k, first=True):
    mean = x.mean(0)
    rows = torch.linalg.svd(x - mean, full_matrices=False)[2]
    rows = rows[:k] if first else rows[-k:]
    return mean + (x - mean) @ rows.T @ rows


def uncentred(x, k):
    rows = torch.linalg.svd(x, full_matrices=False)[2][:k]
    return x @ rows.T @ rows


def kl(mean, log_variance):
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)


def draw(mean, log_variance, noise):
    return mean + torch.exp(0.5 * log_variance) * noise


def log_likelihood(logits, x):
    return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)


def bound(logits, x, mean, log_variance):
    return log_likelihood(logits, x).mean(0) - kl(mean, log_variance)


def variance(mean, log_variance):
    return mean.var(0, correction=0) + log_variance.exp().mean(0)


def factor(codes):
    return torch.linalg.cholesky(codes.T.cov())


def middle(a, b):
    cosine = a @ b / (a.norm() * b.norm())
    return (a + b) / (2 * torch.cos(torch.arccos(cosine) / 2))


def untrained(folder, latent_dim=4, shape=None, conv=True, value=None):
    """What chapter 8's last exercise returns, but for the training."""
    shape = shape or data.load(f"folder:{folder}").image_shape
    posterior, likelihood = MeanFieldGaussian(latent_dim), Bernoulli(shape, greys=True)
    encoder = ConvEncoder if conv else MLP
    decoder = ConvDecoder if conv else MLP
    vae = VAE(
        Encoder(encoder(shape, posterior.param_shape, (4,)), posterior),
        Decoder(decoder(latent_dim, shape, (4,)), likelihood),
        StandardNormal(latent_dim),
    )
    if value is not None:
        with torch.no_grad():
            next(vae.parameters()).fill_(value)
    return vae


def straight(v, codebook):
    k = (codebook.square().sum(1) - 2 * v @ codebook.T).argmin(1)
    return v + (codebook[k] - v).detach()


def perplexity_of(counts):
    p = counts[counts > 0] / counts.sum()
    return torch.exp(-(p * p.log()).sum())


def degrees(before, after, last=False):
    return (after[:, None] > before if last else after[:, None] >= before).float()


def flow_density(z, shift, log_scale):
    noise = (z - shift) * torch.exp(-log_scale)
    return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(1) - log_scale.sum(1)


def window(size, first):
    middle = size // 2 * (size + 1)
    order = torch.arange(size * size).reshape(size, size)
    return (order < middle if first else order <= middle).float()


def conditional_entropy(counts):
    p, there = counts / counts.sum(), counts > 0
    given = counts / counts.sum(1, keepdim=True)
    return -(p[there] * torch.log2(given[there])).sum()


def merge(mean_a, var_a, mean_b, var_b):
    weight = var_b / (var_a + var_b)  # of a
    return weight * mean_a + (1 - weight) * mean_b, weight * var_a


RIGHT = {
    "ch01-bce": bce,
    "ch01-floor": 784 * math.log(2),
    "ch01-pca": pca,
    "ch01-scale": lambda W, A: W @ torch.linalg.inv(A),
    "ch02-kl": kl,
    "ch02-sample": draw,
    "ch02-elbo": bound,
    "ch02-beta": 3 * 32 * 32 / 20,
    "ch03-variance": variance,
    "ch03-fitted": lambda z, e: z.mean(0) + e @ factor(z).T,
    "ch03-midpoint": 10**0.5,
    "ch04-middle": middle,
    "ch04-quarter": 12.5**0.5,
    "ch04-atleast": 30 - math.log(60_000),
    "ch05-sigma": (3072 * 0.001 / 2) ** 0.5,
    "ch05-normalizer": lambda v: torch.log(v / torch.tanh(v / 2)),
    "ch05-bits": 7000 / (3072 * math.log(2)),
    "ch06-factor": [[2, 0], [1, 2]],
    "ch06-count": 230,
    "ch06-price": lambda rho: -0.5 * math.log(1 - rho**2),
    "ch07-warmup": lambda p: min(1.0, p * 7 / 3),
    "ch07-price": 2,
    "ch07-water": 0.5 * math.log(4 / 0.36),
    "ch08-pixels": 12,
    "ch08-parameters": 18496,
    "ch08-folder": untrained,
    "ch09-entropy": lambda a, b: math.log(2 * math.pi * math.e * a * b),
    "ch09-common": 0.5 * math.log(4),
    "ch09-quadrature": lambda j, area: j.logsumexp(1) + math.log(area),
    "ch10-masks": degrees,
    "ch10-density": flow_density,
    "ch10-waste": -0.5 * math.log(0.36),
    "ch11-bits": 2304,
    "ch11-straight": straight,
    "ch11-perplexity": perplexity_of,
    "ch12-bits": 900 / (256 * math.log(2)),
    "ch12-mask": window,
    "ch12-neighbour": conditional_entropy,
    "ch13-merge": merge,
    "ch13-agree": 0.5 * (math.log(2) - 0.5),
    "ch13-linear": 1.0,
}

WRONG = [
    ("ch01-bce", lambda y, x: -bce(y, x), "sign is turned round"),
    ("ch01-bce", lambda y, x: bce(y, x) / 784, "averaged over the pixels"),
    ("ch01-bce", lambda y, x: bce(y, x).mean(), "keep the batch axis"),
    ("ch01-bce", lambda y, x: -(x * y.log() + (1 - x) * (1 - y).log()), "one by one"),
    ("ch01-bce", lambda y, x: -(x * y.log()).sum(1), "second half is missing"),
    ("ch01-bce", lambda y, x: bce(x, y), "changed places"),
    ("ch01-bce", lambda y, x: 2 * bce(y, x), "Compare with"),
    ("ch01-floor", 0.0, "not zero"),
    ("ch01-floor", math.log(2), "one pixel"),
    ("ch01-floor", 784, "in bits"),
    ("ch01-floor", 392 * math.log(2), "two terms"),
    ("ch01-floor", 500.0, "smallest?"),
    ("ch01-pca", lambda x, k: pca(x, k) - x.mean(0), "Add the mean"),
    ("ch01-pca", uncentred, "not centred"),
    ("ch01-pca", lambda x, k: pca(x, k, first=False), "last components"),
    ("ch01-pca", lambda x, k: x[:, :k], "Turn them back"),
    ("ch01-pca", lambda x, k: x, "Centre, project"),
    ("ch01-scale", lambda W, A: W @ A, "must undo A"),
    ("ch01-scale", lambda W, A: W @ torch.linalg.inv(A).T, "transposed"),
    ("ch01-scale", lambda W, A: torch.linalg.inv(A), "shape of W"),
    ("ch01-scale", lambda W, A: W, "for every z"),
    ("ch02-kl", lambda m, v: -kl(m, v), "never negative"),
    ("ch02-kl", lambda m, v: kl(m, v) / 3, "averaged over the latent"),
    ("ch02-kl", lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v), "one by one"),
    ("ch02-kl", lambda m, v: kl(m, 2 * v), r"log\(sigma\^2\)"),
    ("ch02-kl", lambda m, v: 2 * kl(m, v), "term by term"),
    ("ch02-sample", lambda m, v, e: m + v.exp() * e, "square root"),
    ("ch02-sample", lambda m, v, e: m + v * e, "Turn it into a standard deviation"),
    ("ch02-sample", lambda m, v, e: draw(m, v, e).detach(), "no gradient can flow"),
    ("ch02-sample", lambda m, v, e: draw(m, v.detach(), e), "gets no gradient"),
    ("ch02-sample", lambda m, v, e: m - draw(m, v, e), "Shift standard normal"),
    ("ch02-elbo", lambda a, x, m, v: log_likelihood(a.mean(0), x) - kl(m, v), "averaged the logits"),
    ("ch02-elbo", lambda a, x, m, v: -bound(a, x, m, v), "negative ELBO"),
    ("ch02-elbo", lambda a, x, m, v: log_likelihood(a, x).mean(0) / 784 - kl(m, v), "the pixels"),
    ("ch02-elbo", lambda a, x, m, v: log_likelihood(a, x).sum(0) - kl(m, v), "over the samples"),
    ("ch02-elbo", lambda a, x, m, v: log_likelihood(a, x).mean(0) + kl(m, v), "wrong sign"),
    ("ch02-elbo", lambda a, x, m, v: bound(a, x, m, v) + 1, "Sum over pixels"),
    ("ch02-beta", 3072, "averaged, too"),
    ("ch02-beta", 784, "colour images"),
    ("ch02-beta", 20 / 3072, "Upside down"),
    ("ch02-beta", 7, "Multiply the loss"),
    ("ch03-variance", lambda m, v: m.var(0, correction=0), "means alone"),
    ("ch03-variance", lambda m, v: v.exp().mean(0), "within an image alone"),
    ("ch03-variance", lambda m, v: m.var(0, correction=0) + v.mean(0), "into a variance"),
    ("ch03-variance", lambda m, v: m.var(0) + v.exp().mean(0), "Divide by N"),
    ("ch03-variance", lambda m, v: m.var(0, correction=0) + (v / 2).exp().mean(0) ** 2, "Average"),
    ("ch03-variance", lambda m, v: variance(m, v).sum(), "shape"),
    ("ch03-fitted", lambda z, e: e @ factor(z).T, "centred at zero"),
    ("ch03-fitted", lambda z, e: z.mean(0) + e @ z.T.cov(), "Take a factor"),
    ("ch03-fitted", lambda z, e: z.mean(0) + e * z.std(0), "correlations are missing"),
    ("ch03-fitted", lambda z, e: z.mean(0) + e @ factor(z), "transposed"),
    ("ch03-fitted", lambda z, e: z.mean(0) + e, "must be that of the codes"),
    ("ch03-fitted", lambda z, e: z.mean(0), "four draws"),
    ("ch03-midpoint", 20**0.5, "the ends"),
    ("ch03-midpoint", 20**0.5 / 2, "the other one"),
    ("ch03-midpoint", 10, "Take the root"),
    ("ch03-midpoint", 3.0, "one dimension"),
    ("ch04-middle", lambda a, b: (a + b) / 2, "straight line"),
    ("ch04-middle", lambda a, b: (a + b) / 2**0.5, "right angles alone"),
    ("ch04-middle", lambda a, b: (a + b) / (a + b).norm(), "length should lie"),
    ("ch04-middle", lambda a, b: a, "both weights"),
    ("ch04-quarter", 20**0.5, "the ends"),
    ("ch04-quarter", 12.5, "Take the root"),
    ("ch04-quarter", 10**0.5, "half-way"),
    ("ch04-quarter", 4.0, "squares"),
    ("ch04-atleast", math.log(60_000), "The rest"),
    ("ch04-atleast", 30, "two parts"),
    ("ch04-atleast", 30 - math.log2(60_000), "natural"),
    ("ch04-atleast", 5, "less log N"),
    ("ch05-sigma", 1.536, "the variance"),
    ("ch05-sigma", 1536**0.5, "weight of the KL"),
    ("ch05-sigma", 0.512**0.5, "three values"),
    ("ch05-sigma", 0.0005**0.5, "number of pixels"),
    ("ch05-sigma", 1.0, "Bring the loss"),
    ("ch05-normalizer", lambda v: torch.log(torch.tanh(v / 2) / v), "divides"),
    ("ch05-normalizer", lambda v: v / torch.tanh(v / 2), "Its logarithm"),
    ("ch05-normalizer", lambda v: torch.log(v / torch.tanh(v)), "half the logit"),
    ("ch05-normalizer", lambda v: torch.log(v.abs()), "fine grid"),
    ("ch05-normalizer", lambda v: torch.log(v * (v.exp() + 1) / (v.exp() - 1)), "not finite"),
    ("ch05-bits", 7000 / 3072, "One bit"),
    ("ch05-bits", 7000 / (1024 * math.log(2)), "three values"),
    ("ch05-bits", 7000 / math.log(2), "an image"),
    ("ch05-bits", 7000 * math.log(2) / 3072, "more bits"),
    ("ch05-bits", 8.0, "Nats to bits"),
    ("ch06-factor", [2, 1, 2], "two rows"),
    ("ch06-factor", [[2, 1], [0, 2]], "not below"),
    ("ch06-factor", [[1, 1], [1, 1]], "upper right"),
    ("ch06-factor", [[-2, 0], [-1, 2]], "must be positive"),
    ("ch06-factor", [[2, 0], [2, 5]], "is it the matrix"),
    ("ch06-count", 420, "square of entries"),
    ("ch06-count", 210, "means are missing"),
    ("ch06-count", 40, "mean-field"),
    ("ch06-count", 400, "the diagonal"),
    ("ch06-price", lambda rho: 0.5 * math.log(1 - rho**2), "never negative"),
    ("ch06-price", lambda rho: -math.log(1 - rho**2), "Twice"),
    ("ch06-price", lambda rho: abs(rho), "Compare"),
    ("ch07-warmup", lambda p: p * 7 / 3, "stays at 1"),
    ("ch07-warmup", lambda p: p, "whole of training"),
    ("ch07-warmup", lambda p: min(1.0, p * 3 / 7), "Divide by 3/7"),
    ("ch07-warmup", lambda p: 1.0, "straight line between"),
    ("ch07-price", 0.5, "Upside down"),
    ("ch07-price", -2, "negative is asked"),
    ("ch07-price", 3, "equal for both"),
    ("ch07-water", 0.5 * sum(math.log(v / 0.6) for v in (4, 1, 0.5, 0.1)), "never negative"),
    ("ch07-water", 0.5 * sum(math.log(v / 0.3) for v in (4, 1, 0.5)), "beta times"),
    ("ch07-water", math.log(4 / 0.36), "Half of that"),
    ("ch07-water", 2, "Which variances"),
    ("ch08-pixels", 192, "both sides"),
    ("ch08-pixels", 4, "one side"),
    ("ch08-pixels", 48, "four times"),
    ("ch08-parameters", 18432, "biases are missing"),
    ("ch08-parameters", 18464, "output channels"),
    ("ch08-parameters", 640, "input channels"),
    ("ch08-parameters", 64, "Windows"),
    ("ch08-folder", lambda f: None, "return the VAE"),
    ("ch08-folder", lambda f: untrained(f, latent_dim=2), "Four latents"),
    ("ch08-folder", lambda f: untrained(f, shape=(1, 16, 12)), "should have the shape"),
    ("ch08-folder", lambda f: untrained(f, conv=False), "no convolution"),
    ("ch08-folder", lambda f: untrained(f, value=math.nan), "not finite"),
    ("ch09-entropy", lambda a, b: math.log2(2 * math.pi * math.e * a * b), "in bits"),
    ("ch09-entropy", lambda a, b: math.log(2 * math.pi * math.e * (a * b) ** 2), "squared"),
    ("ch09-entropy", lambda a, b: math.log(2 * math.pi * a * b), "The e in"),
    ("ch09-entropy", lambda a, b: a * b, "logarithm of each"),
    ("ch09-common", math.log(4), "Twice"),
    ("ch09-common", -0.5 * math.log(0.64), "mutual information"),
    ("ch09-common", 0.6, "into the formula"),
    ("ch09-quadrature", lambda j, area: j.logsumexp(1), "with its area"),
    ("ch09-quadrature", lambda j, area: j.exp().mean(1).log(), "do not average"),
    ("ch09-quadrature", lambda j, area: j.exp().sum(1) * area, "Its logarithm"),
    ("ch09-quadrature", lambda j, area: j.sum(1), "over the grid"),
    ("ch09-quadrature", lambda j, area: (j.exp().sum(1) * area).log(), "logsumexp"),
    ("ch10-masks", lambda b, a, last=False: degrees(a, b, last), "Turned round"),
    ("ch10-masks", lambda b, a, last=False: degrees(b, a), "must be strict"),
    ("ch10-masks", lambda b, a, last=False: degrees(b, a, True), "is allowed"),
    ("ch10-density", lambda z, m, s: flow_density(z, m, s).sum(), "each row"),
    ("ch10-density", lambda z, m, s: flow_density(z, m, s) + 2 * s.sum(1), "wrong sign"),
    ("ch10-density", lambda z, m, s: flow_density(z, m, s) + s.sum(1), "Jacobian is missing"),
    ("ch10-density", lambda z, m, s: z.sum(1), "minus the sum"),
    ("ch10-waste", 0.5 * math.log(0.36), "positive"),
    ("ch10-waste", -math.log(0.36), "Twice"),
    ("ch10-waste", -0.5 * math.log2(0.36), "in bits"),
    ("ch10-waste", 0.8, "covariance"),
    ("ch11-bits", 512 * 256, "log2"),
    ("ch11-bits", 9, "one symbol"),
    ("ch11-bits", 98304, "before"),
    ("ch11-bits", 256 * math.log(512), "nats"),
    ("ch11-bits", 448, "Places"),
    ("ch11-straight", lambda v, c: v, "nearest entry"),
    ("ch11-straight", lambda v, c: straight(v, c).detach(), "No gradient can flow"),
    ("ch11-straight", lambda v, c: v - v.detach() + c[(straight(v, c)[:, None] - c).norm(dim=2)
                                                      .argmin(1)], "reaches the codebook"),
    ("ch11-straight", lambda v, c: straight(v, c).detach() + 0 * c.sum(), "No gradient reaches v"),
    ("ch11-straight", lambda v, c: 2 * v - v.detach() + (straight(v, c) - v).detach(), "identity"),
    ("ch11-perplexity", lambda n: torch.exp(-(n / n.sum() * (n / n.sum()).log()).sum()), "Not a"),
    ("ch11-perplexity", lambda n: perplexity_of(n).log(), "exponential"),
    ("ch11-perplexity", lambda n: (n > 0).sum(), "at all"),
    ("ch11-perplexity", lambda n: 1 / perplexity_of(n), "Upside down"),
    ("ch11-perplexity", lambda n: n.sum(), "shares"),
    ("ch12-bits", 900 / 256, "nats a symbol"),
    ("ch12-bits", 900 / math.log(2), "whole grid"),
    ("ch12-bits", 900 * math.log(2) / 256, "more bits"),
    ("ch12-bits", 9, "by the number"),
    ("ch12-mask", lambda n, first: 1 - window(n, first), "Upside down"),
    ("ch12-mask", lambda n, first: window(n, not first), "middle"),
    ("ch12-mask", lambda n, first: torch.ones(n, n).tril(), "the right half"),
    ("ch12-mask", lambda n, first: torch.zeros(n, n), "Rows above"),
    ("ch12-neighbour", lambda n: -(n * torch.log2(n)).sum(), "Not a number"),
    ("ch12-neighbour", lambda n: conditional_entropy(n) * math.log(2), "nats"),
    ("ch12-neighbour", lambda n: conditional_entropy(n.flatten()[None]), "together"),
    ("ch12-neighbour", lambda n: conditional_entropy(n.T), "left symbol given"),
    ("ch12-neighbour", lambda n: -conditional_entropy(n), "sign"),
    ("ch12-neighbour", lambda n: 7.0, "Average"),
    ("ch13-merge", lambda m, v, n, w: (m, 1 / v + 1 / w), "That is the precision"),
    ("ch13-merge", lambda m, v, n, w: (m, v + w), "Precisions add up"),
    ("ch13-merge", lambda m, v, n, w: (m, v), "sum of both"),
    ("ch13-merge", lambda m, v, n, w: ((m + n) / 2, merge(m, v, n, w)[1]), "surer opinion"),
    ("ch13-merge", lambda m, v, n, w: (m / v + n / w, merge(m, v, n, w)[1]), "add up to one"),
    ("ch13-merge", lambda m, v, n, w: (m, merge(m, v, n, w)[1]), "weighted by their"),
    ("ch13-agree", 0, "surer than the prediction"),
    ("ch13-agree", math.log(2) - 0.5, "Twice"),
    ("ch13-agree", 0.5 * (1 - math.log(2)), "other direction"),
    ("ch13-agree", 1, "half the variance"),
    ("ch13-linear", 0.36, "once z_2 is known"),
    ("ch13-linear", 1.16, "square"),
    ("ch13-linear", 0.64, "noise of its own"),
    ("ch13-linear", 2, "factor squared"),
]  # fmt: skip


def test_every_exercise_is_answered_here():
    registered = {name for name in checks.CHECKS if name.startswith("ch")}
    assert registered == set(RIGHT) == {name for name, _, _ in WRONG}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers(name, capsys):
    assert checks.check(name, RIGHT[name])
    assert capsys.readouterr().out.startswith(f"{name}: right.")


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_wrong_answers_get_their_own_hint(name, answer, hint, capsys):
    assert not checks.check(name, answer)
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: not yet.")
    assert re.search(hint, said), said


@pytest.mark.parametrize("name", RIGHT)
def test_open_and_unusable_answers(name, capsys):
    assert not checks.check(name, ...)
    assert "not answered yet" in capsys.readouterr().out
    assert not checks.check(name, "what?")
    assert "could not be used" in capsys.readouterr().out
