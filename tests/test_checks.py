"""The exercises: the right answer passes, and each plausible wrong one gets a hint of its own."""

import re
import sys
from functools import partial
from itertools import combinations
from math import e, log, log2, nan, pi

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

import vae_tutorial as vt
from vae_tutorial import checks, data
from vae_tutorial.checks import protocol
from vae_tutorial.schedules import LinearWarmUp


def pca(x, k, first=True, centre=True):
    mean = x.mean(0) if centre else 0
    rows = torch.linalg.svd(x - mean, full_matrices=False)[2]
    rows = rows[:k] if first else rows[-k:]
    return mean + (x - mean) @ rows.T @ rows


def kl(mean, log_variance):
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)


def likelihood(logits, x):
    return (x * logits - softplus(logits)).sum(-1)


def half_angle(a, b):
    """Half-way on the spherical path from a to b, tensors or arrays: cos(w/2) from cos(w)."""
    return (a + b) / (2 + 2 * (a @ b) / (a @ a * (b @ b)) ** 0.5) ** 0.5


def cov(codes, mean=0):
    return mean + torch.linalg.cholesky(codes.T.cov())


def folder(path, epochs=2, latents=4, shape=None, conv=True, value=None, rate=1e-3):
    mine = data.load(f"folder:{path}")
    shape, q = shape or mine.image_shape, vt.MeanFieldGaussian(latents)
    encoder, decoder = (vt.ConvEncoder, vt.ConvDecoder) if conv else (vt.MLP, vt.MLP)
    encoder = vt.Encoder(encoder(shape, q.param_shape, (4,)), q)
    decoder = vt.Decoder(decoder(latents, shape, (4,)), vt.Bernoulli(shape, greys=True))
    vae = vt.VAE(encoder, decoder, vt.StandardNormal(latents))
    if epochs:
        vt.fit(vae, vt.elbo, mine.train.images, epochs=epochs, learning_rate=rate, progress=False)
    elif value is not None:
        torch.nn.init.constant_(next(vae.parameters()), value)
    return vae


def by_midpoints(*args, whole=1, clock=0.5, reach=0.5, restart=True, once=False):
    """The midpoint rule, or with a slip; called as the answer, or as a slip of it."""
    velocity, z, steps = args[-3:]
    for i in range(steps):
        first = velocity(z, i / steps)
        half = z + reach / steps * first
        slope = first if once else velocity(half, (i + clock) / steps)
        z = (z if restart else half) + whole / steps * slope
    return z


def on_a_line(r, z, t=None, variance=2, sign=-1):
    """The field of codes on the line (1, 1), or one with a slip."""
    z, t = (r, z) if t is None else (z, t)  # called as the answer, or as a slip of it
    along = z.mean(1, keepdim=True) + 0 * z
    spread = variance * t * t + (1 - t) ** 2
    return (variance * t + sign * (1 - t)) / spread * along + sign * (z - along) / (1 - t)


def stacked(*args, flip=True, sign=-1):
    """The log-density of two flows, the dimensions in reversed order between them."""
    z, first, second = args[-3:]
    total = 0
    for i, flow in enumerate((second, first)):
        z = z.flip(-1) if i and flip else z
        m, s = flow(z)
        z, total = (z - m) * (-s).exp(), total + sign * s.sum(-1)
    return total - (z**2 / 2).sum(-1) - z.shape[-1] * log(2 * pi) / 2


def radii(points, k):
    """From each point to its k-th nearest other one."""
    return torch.cdist(points, points).sort(1).values[:, k]


def covered(real, drawn, k):
    return (torch.cdist(drawn, real) <= radii(real, k)).any(1).double().mean()


def mixed_radix(index, levels):
    """The digits of whole numbers, by NumPy's own way of unravelling an index."""
    return torch.from_numpy(np.stack(np.unravel_index(np.asarray(index), levels), 1))


def attention(q, k, v, mask="causal"):
    """One head, with torch's own attention."""
    q, k, v = (torch.as_tensor(x)[None] for x in (q, k, v))
    causal = mask is not None
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)[0]


# fmt: off
# The right number by another derivation; its decimals; wrong ones, each with a word of its hint.
NUMBERS = {
    "ch01-floor": (2 * 392 * 0.6931471805599453, 2, {  # ln 2
        543: "Two decimals", 0: "not zero", log(2): "one pixel", 784: "in bits", 392 * log(2): "two terms", 5: "small"}),
    "ch02-beta": (153.6, 2, {
        3072: "averaged, too", 784: "colour", 39.2: "colour", 5 / 768: "Upside", 7: "Multiply"}),
    "ch02-ellipse": ((2 * e) ** 0.5, 2, {
        2 * e: "square of r", e**0.5: "a half", 2**0.5: "a -1", e: "other: solve", 9: "Set"}),
    "ch03-midpoint": (20**0.5 * 2**-0.5, 2, {
        20**0.5: "the ends", 5**0.5: "the other one", 10: "Take the root", 3: "one dimension"}),
    "ch04-quarter": (5 / 2**0.5, 2, {
        20**0.5: "the ends", 12.5: "Take the root", 10**0.5: "half-way", 4: "squares"}),
    "ch04-atleast": (30 - log(6) - 4 * log(10), 1, {
        log(6e4): "the rest", 30: "two parts", 30 - log2(6e4): "natural", 5: "minus log N"}),
    "ch05-sigma": (1.536**0.5, 2, {
        1.536: "the variance", 1536**0.5: "weight of the KL", 0.512**0.5: "three values",
        0.0005**0.5: "number of pixels", 1: "Bring the loss"}),
    "ch05-bits": (7000 * log2(e) / 3072, 2, {
        7000 / 3072: "One bit", 7000 / (1024 * log(2)): "three values", 7000 / log(2): "per image",
        7000 * log(2) / 3072: "more bits", 8: "Nats to bits"}),
    "ch06-count": (20 + int(torch.ones(20, 20).tril().sum()), 2, {
        420: "square of entries", 210: "means are missing", 40: "mean-field", 229: "the diagonal"}),
    "ch07-price": (2, 2, {0.5: "Upside down", -2: "negative is asked", 3: "equal for both"}),
    "ch07-water": (log(10 / 3), 2, {
        0.5 * log(0.2 / 0.6**4): "never negative", 0.5 * log(2 / 0.3**3): "beta times",
        2 * log(10 / 3): "Half of that", 2: "Which variances"}),
    "ch08-pixels": (torch.ones(64, 48)[::16, ::16].numel(), 2, {
        192: "both sides", 4: "one side", 3: "one side", 48: "four times"}),
    "ch08-parameters": (sum(p.numel() for p in torch.nn.Conv2d(32, 64, 3).parameters()), 2, {
        18432: "are missing", 18464: "output channels", 640: "input channels", 64: "windows"}),
    "ch09-common": (log(2), 2, {
        log(4): "Twice", -log(0.8): "mutual information", 1: "in bits",
        0.6: "into the formula"}),
    "ch10-waste": (-log(0.6), 2, {
        log(0.6): "positive", -2 * log(0.6): "Twice", -log2(0.6): "in bits", 0.8: "covariance"}),
    "ch11-bits": (2**8 * log2(512), 1, {
        2**17: "log2", 9: "one symbol", 98304: "before", 256 * log(512): "nats", 2305: "Places"}),
    "ch12-bits": (900 * log2(e) / 256, 2, {
        900 / 256: "per symbol", 900 / log(2): "grid", 3.515625 * log(2): "more bits", 9: "by ln"}),
    "ch13-agree": (log(2) / 2 - 0.25, 2, {
        0: "surer", log(2) - 0.5: "Twice", 0.5 - log(2) / 2: "other direction", 1: "half the var"}),
    "ch13-linear": (1, 2, {
        0.36: "z_2 is known", 1.16: "square", 0.64: "noise of its own", 2: "factor squared"}),
    "ch14-work": (7.75, 2, {
        10: "runs once", 5.5: "three times", 4 / 31: "Upside", 31: "Divide", 2: "Add up"}),
    "ch14-half": (log(2) * log2(65504), 2, {
        log2(65504) * log(2) / log(10): "Natural", 2 * log(65504): "standard deviation",
        log2(65504): "2\\^v", 3: "Solve"}),
    "ch15-draws": ((1.44**50 / 1.88**25 - 1) * 50, -1, {
        (1.44**50 / 1.88**25 - 1) * 100: "the 2 is", 1.44**50 / 1.88**25 * 50: "minus one",
        2500 * (1.44 / 1.88**0.5 - 1): "not a sum", 7: "solve"}),
    "ch19-least": (1.5 * pi, 2, {
        4.5 * pi: "one s", pi / 2: "for s = 1", 0.75 * pi: "arc tangent", 3 * pi: "Half of that",
        0: "something stays", 2: "The integral"}),
    "ch18-information": (1.5 * log(2), 3, {
        log(3): "equal shares", 1.5: "bits", log(4): "rare class", (log(2) + 2 * log(4)) / 3: "shares",
        0.3: "average it"}),
    "ch18-alpha": (500_000 / 49_900, 2, {
        5000: "How many terms", 10: "unlabelled", 5000 / 49_900: "100 times", 100 / 49_900: "And alpha",
        7: "divided by"}),
    "ch21-index": (float(np.ravel_multi_index((4, 0, 3, 1), (7, 5, 5, 3))), 0, {
        284: "count least", 716: "its own is not", 2148: "its own is not", 8: "weight of its own", 40: "levels behind"}),
    "ch21-rate": (2304 + 3072 * log2(10), 0, {
        2304: "coarse grid alone", 3072 * log2(10): "fine grid alone", 2304 * log(2) + 3072 * log(10): "in nats",
        144 + 96 * log2(10): "256 places", 131072 + 1024000: "log2 K bits", 2304 + 1024 * 23: "multiply",
        5: "its places"}),
    "ch17-auroc": (sum((t > s) + (t == s) / 2 for s in (1, 3, 4, 6) for t in (2, 4, 5)) / 12, 3, {
        0.5: "counts for a half", 7 / 12: "not for one", 5.5 / 12: "other way", 6.5: "Divide",
        0.9: "12 pairs"}),
    "ch17-white": ((0.9 + 0.2 / e + 0.5 / e**3) / (1 + 1 / e + 1 / e**3), 3, {
        1.6 / 3: "same weight", 0.9: "best draw alone",
        (0.1 + 0.8 / e + 0.5 / e**3) / (1 + 1 / e + 1 / e**3): "of black",
        81.7 / 154: "their logarithms", 0.1: "Normalize"}),
    "ch16-pixels": (20 * log2(10) - 15 * log2(9), 2, {
        20 * log(10) - 15 * log(9): "nats", 20 * log2(10) - 18 * log2(9): "not 2",
        20 * log2(10) - 5 * log2(9): "exchanged", -20 * log2(0.9): "probability 0.1", 20: "a bit for",
        7: "Add up"}),
    "ch16-start": (401, 0, {
        5: "outweigh", 41: "10%", 1000: "When is"}),
    "ch16-wide": (10 * (0.625 * log2(e) - log2(1.5)), 2, {
        10 * (0.625 - log(1.5)): "nats", 0.625 * log2(e) - log2(1.5): "one latent",
        10 * (0.25 * log2(e) - log2(1.5)): "squared", 6.25 * log2(e): "missing",
        10 * (log2(1.5) - log2(e) * 5 / 18): "other way", 9: "Ten times"}),
    "ch22-zero": ((1 + 2 / 0.5) ** -0.5, 3, {
        1 / e**2: "Poisson", 1 - 5**-0.5: "does occur", 2 / 5**0.5: "exchanged", 0.2: "raised", 0.04: "not the mean",
        0.7: "cancel"}),
    "ch22-interval": ((1.5 * 2.706025) ** 0.5, 2, {
        1.645: "noise of the entry alone", 1.645 / 2**0.5: "uncertainty alone", 1.645 * 2**0.5: "without having seen",
        1.5**0.5: "one standard deviation", 1.645 * 1.5: "a variance", 1.645 * (1 + 0.5**0.5): "do not add",
        3.29 * 1.5**0.5: "whole interval", 0.5: "Var"}),
    "ch23-ring": (14 * 1_360_696 * 4 / 8e6, 1, {
        14 * 1.360696 / 8: "four bytes", 7 * 1.360696 / 2: "Twice around", 8 * 1.360696: "all the way",
        56 * 1.360696: "one part of eight", 4 * 1.360696: "two rounds", 1: "2 \\(n - 1\\) steps"}),
    "ch23-faster": (4.5, 1, {
        9: "no time", 0.5: "efficiency", 5: "nothing to average", 20: "time of a step", 3: "90 / 9"}),
    "ch20-compression": (1024**2 * 3 / 128**2 / 4 / 2, 1, {
        48: "Count bits", 96: "in the bits", 8: "Three colours", 6: "4 channels", 1 / 24: "Upside down: how",
        3: "Divide"}),
}

# A right answer r; wrong ones, which are called with r and then the arguments; words of the hints.
FUNCTIONS = {
    "ch01-bce": (lambda y, x: -(x * y.log() + (1 - x) * (1 - y).log()).sum(1), {
        "sign is wrong": lambda r, y, x: -r(y, x), "over the pixels": lambda r, y, x: r(y, x) / 784,
        "batch axis": lambda r, y, x: r(y, x).mean(), "the batch": lambda r, y, x: r(y, x).sum(),
        "one by one": lambda r, y, x: -(x * y.log() + (1 - x) * (1 - y).log()),
        "second half is missing": lambda r, y, x: -(x * y.log()).sum(1),
        "swapped": lambda r, y, x: r(x, y), "Compare with": lambda r, y, x: 2 * r(y, x)}),
    "ch01-pca": (pca, {
        "Add the mean": lambda r, x, k: r(x, k) - x.mean(0), "Centre": lambda r, x, k: x,
        "not centred": lambda r, x, k: r(x, k, centre=False), "Turn": lambda r, x, k: x[:, :k],
        "last components": lambda r, x, k: r(x, k, first=False),
        "k is 3, and you use 2": lambda r, x, k: r(x, 2),
        "k is 2, and you use 3": lambda r, x, k: r(x, 3)}),
    "ch01-scale": (lambda W, A: W @ A.inverse(), {
        "must undo A": lambda r, W, A: W @ A, "transposed": lambda r, W, A: W @ A.inverse().T,
        r"Expected shape \(7, 2\)": lambda r, W, A: A.inverse(), "every z": lambda r, W, A: W}),
    "ch02-kl": (kl, {
        "never negative": lambda r, m, v: -r(m, v), "over the latent": lambda r, m, v: r(m, v) / 3,
        "one by one": lambda r, m, v: 0.5 * (m**2 + v.exp() - 1 - v),
        r"log\(sigma\^2\)": lambda r, m, v: r(m, 2 * v), "term": lambda r, m, v: 2 * r(m, v)}),
    "ch02-sample": (lambda m, v, e: m + torch.exp(v / 2) * e, {
        "root": lambda r, m, v, e: m + v.exp() * e, "Turn it": lambda r, m, v, e: m + v * e,
        "no gradient can flow": lambda r, m, v, e: r(m, v, e).detach(),
        "log-variance gets no gradient": lambda r, m, v, e: r(m, v.detach(), e),
        "the mean or .* no gradient": lambda r, m, v, e: r(m.data + 0 * m, v, e),
        "Shift standard normal": lambda r, m, v, e: m - r(m, v, e)}),
    "ch03-variance": (lambda m, v: m.var(0, correction=0) + v.exp().mean(0), {
        "means alone": lambda r, m, v: r(m, v) - v.exp().mean(0), "shape": lambda r, m, v: m,
        "within an image alone": lambda r, m, v: v.exp().mean(0),
        "into a variance": lambda r, m, v: r(m, v) - v.exp().mean(0) + v.mean(0),
        "Divide by N": lambda r, m, v: m.var(0) + v.exp().mean(0), "plus": lambda r, m, v: m[0],
        "Average": lambda r, m, v: m.var(0, correction=0) + (v / 2).exp().mean(0) ** 2}),
    "ch03-fitted": (lambda z, e: z.mean(0) + e @ cov(z).T, {
        "centred at": lambda r, z, e: r(z, e) - z.mean(0), "be the mean": lambda r, z, e: 1 + e,
        "Take a factor": lambda r, z, e: z.mean(0) + e @ z.T.cov(),
        "correlations": lambda r, z, e: z.mean(0) + e * z.std(0), "four": lambda r, z, e: z.mean(0),
        "transposed": lambda r, z, e: z.mean(0) + e @ cov(z),
        "must be that of": lambda r, z, e: z.mean(0) + e}),
    "ch04-middle": (lambda a, b: (a + b) / 2 / (((a @ b) / a.norm() / b.norm()).acos() / 2).cos(), {
        "straight line": lambda r, a, b: (a + b) / 2, "both weights": lambda r, a, b: a,
        "right angles alone": lambda r, a, b: (a + b) / 2**0.5,
        "need not be 1": lambda r, a, b: r(a, b) / r(a, b).norm()}),
    "ch05-normalizer": (lambda v: torch.log(v / torch.tanh(v / 2)), {
        "divides": lambda r, v: -r(v), "Its logarithm": lambda r, v: r(v).exp(),
        "half the logit": lambda r, v: r(2 * v) - log(2), "grid": lambda r, v: torch.log(v.abs()),
        "not finite": lambda r, v: torch.log(v * (v.exp() + 1) / (v.exp() - 1)),
        "at 200": lambda r, v: r(v.clamp(-20, 20))}),
    "ch06-factor": ([[2, 0], [1, 2]], {
        "two rows": [2, 1, 2], "not below": [[2, 1], [0, 2]], "upper right": [[1, 1], [1, 1]],
        "zeros above": [[3.2**0.5, 0.8**0.5], [0, 5**0.5]], "must be positive": [[-2, 0], [-1, 2]],
        "is it the matrix": [[2, 0], [2, 5]]}),
    "ch06-price": (lambda rho: -0.5 * log(1 - rho**2), {
        "never negative": lambda r, rho: -r(rho), "Twice": lambda r, rho: 2 * r(rho),
        "Compare": lambda r, rho: abs(rho)}),
    "ch07-warmup": (lambda p: min(1.0, p * 7 / 3), {
        "stays at 1": lambda r, p: p * 7 / 3, "whole of training": lambda r, p: p,
        "Divide by 3/7": lambda r, p: min(1.0, p * 3 / 7), "straight line": lambda r, p: 1}),
    "ch08-folder": (folder, {
        "return the VAE": lambda r, path: None, "Four latents": lambda r, path: r(path, 0, 2),
        "not finite": lambda r, path: r(path, 0, value=nan), "trained": lambda r, path: r(path, 0),
        "return that one": lambda r, path: (r(path), r(path, 0))[1], "two epochs": lambda r, path: r(path, 1),
        "learning rate": lambda r, path: r(path, rate=0.0),
        "have the shape": lambda r, path: r(path, 0, 4, (1, 16, 12)),
        "no convolution": lambda r, path: r(path, 0, conv=False)}),
    "ch09-entropy": (lambda a, b: log(2 * pi * e * a * b), {
        "in bits": lambda r, a, b: r(a, b) / log(2), "squared": lambda r, a, b: r(a**2, b**2),
        "The e in": lambda r, a, b: r(a, b) - 1, "logarithm of each": lambda r, a, b: a * b}),
    "ch09-quadrature": (lambda j, area: j.logsumexp(1) + log(area), {
        "with its area": lambda r, j, area: r(j, 1), "over the grid": lambda r, j, area: j.sum(1),
        "do not": lambda r, j, area: r(j, 0.02), "Its log": lambda r, j, area: r(j, area).exp(),
        "Use logsumexp": lambda r, j, area: r(j, area).exp().log(),
        "zero. Use": lambda r, j, area: r(j, area).exp().clamp(min=1e-30).log(),
        "row by itself": lambda r, j, a: ((j - j.max()).exp().sum(1) * a).log() + j.max()}),
    "ch10-masks": (lambda o, h: (h[:, None] >= o, o[:, None] > h), {
        "Transposed": lambda r, o, h: [mask.T for mask in r(o, h)],
        "must be strict": lambda r, o, h: (r(o, h)[0], o[:, None] >= h),
        "which is order": lambda r, o, h: (r(o, h)[0], o.sort().values[:, None] > h),
        "first mask": lambda r, o, h: (h[:, None] > o, r(o, h)[1]),
        "last mask": lambda r, o, h: (r(o, h)[0], o[:, None] < h),
        "Two masks": lambda r, o, h: (*r(o, h), 1)}),
    "ch10-stack": (stacked, {
        "each row": lambda r, *args: r(*args).sum(),
        "wrong sign": partial(stacked, sign=1), "are missing": partial(stacked, sign=0),
        "is reversed": partial(stacked, flip=False), "both flows": lambda r, z, *flows: z.sum(1),
        "undone first": lambda r, z, first, second: r(z, second, first)}),
    "ch11-straight": (lambda v, c: v + (c[torch.cdist(v, c).argmin(1)] - v).detach(), {
        "nearest": lambda r, v, c: v, "entry": lambda r, v, c: v - v.data + c[(v @ c.T).argmax(1)],
        "flow": lambda r, v, c: r(v, c).detach(), "identity": lambda r, v, c: r(v, c) + v - v.data,
        "reaches the codebook": lambda r, v, c: v - v.detach() + c[torch.cdist(v, c).argmin(1)],
        "Forward": lambda r, v, c: v - v.data + c[((c**2).sum(1) - v @ c.T).argmin(1)],
        "should be": lambda r, v, c: v - v.data + c[(c.norm(dim=1) - 2 * v @ c.T).argmin(1)],
        "No gradient reaches v": lambda r, v, c: r(v, c).detach() + 0 * c.sum()}),
    "ch11-perplexity": (lambda n: ((n / n.sum()) ** (-n / n.sum())).prod(), {
        "Not a number": lambda r, n: torch.exp(-(n / n.sum() * (n / n.sum()).log()).sum()),
        "exponential": lambda r, n: r(n).log(), "at all": lambda r, n: (n > 0).sum(),
        "Upside down": lambda r, n: 1 / r(n), "shares": lambda r, n: n.sum()}),
    "ch12-mask": (lambda n, a: torch.arange(n * n).reshape(n, n) < n * n // 2 + (not a), {
        "Upside down": lambda r, n, a: ~r(n, a), "the middle": lambda r, n, a: r(n, not a),
        "the right half": lambda r, n, a: torch.ones(n, n).tril(),
        "Rows above": lambda r, n, a: torch.zeros(n, n)}),
    "ch12-neighbour": (lambda n: -(n / n.sum() * (n / n.sum(1)[:, None]).log2()).nansum(), {
        "Not a number": lambda r, n: -(n * n.log2()).sum(), "nats": lambda r, n: r(n) * log(2),
        "leave out": lambda r, n: r(n) + 0 * (n / n.sum(1)[:, None]).sum(),
        "together": lambda r, n: r(n.flatten()[None]), "left symbol given": lambda r, n: r(n.T),
        "sign": lambda r, n: -r(n), "Average": lambda r, n: 7.0}),
    "ch13-merge": (lambda m, v, n, w: ((m * w + n * v) / (v + w), v * w / (v + w)), {
        "That is the precision": lambda r, m, v, n, w: (m, 1 / v + 1 / w),
        "Precisions add": lambda r, m, v, n, w: (m, v + w), "sum of": lambda r, m, v, n, w: (m, v),
        "surer opinion": lambda r, m, v, n, w: ((m + n) / 2, r(m, v, n, w)[1]),
        "add up to one": lambda r, m, v, n, w: (m / v + n / w, r(m, v, n, w)[1]),
        "weighted by their": lambda r, m, v, n, w: (m, r(m, v, n, w)[1])}),
    "ch14-elbo": (lambda a, x, m, v: likelihood(a, x).mean(0) - kl(m, v), {
        "averaged the logits": lambda r, a, x, m, v: likelihood(a.mean(0), x) - kl(m, v),
        "the pixels": lambda r, a, x, m, v: likelihood(a, x).mean(0) / 784 - kl(m, v),
        "over the samples": lambda r, a, x, m, v: likelihood(a, x).sum(0) - kl(m, v),
        "wrong sign": lambda r, *args: r(*args) + 2 * kl(*args[2:]),
        "negative ELBO": lambda r, *args: -r(*args), "Sum over": lambda r, *args: r(*args) + 1}),
    "ch14-weighted": (lambda w: torch.logsumexp(w, 0) - log(len(w)), {
        "too small": lambda r, w: w.exp().mean(0).log(), "the logarithms": lambda r, w: w.mean(0),
        "summed the weights": lambda r, w: w.logsumexp(0), "the loss": lambda r, w: -r(w),
        "over the images": lambda r, w: r(w.T), "over the batch": lambda r, w: r(w).mean(),
        "mean weight": lambda r, w: w.max(0).values}),
    "ch15-noise": (lambda y: torch.distributions.Bernoulli(y).entropy().sum((1, 2, 3)), {
        "0 log 0": lambda r, y: -(y * y.log() + (1 - y) * (1 - y).log()).sum((1, 2, 3)),
        "bits": lambda r, y: r(y) / log(2), "not negative": lambda r, y: -r(y),
        "do not average": lambda r, y: r(y) / 784, "per image": lambda r, y: r(y).mean(),
        "black's part": lambda r, y: -torch.xlogy(y, y).sum((1, 2, 3)),
        "shape": lambda r, y: r(y) + 1}),
    "ch15-shares": (lambda w: (w.softmax(0), w.softmax(0) ** 2), {
        "0 / 0": lambda r, w: (w.exp() / w.exp().sum(0) * 0 / 0, w),
        "is squared": lambda r, w: (w.softmax(0), w.softmax(0)),
        "not normalized again": lambda r, w: (w.softmax(0), (2 * w).softmax(0)),
        "draws, which": lambda r, w: (w.softmax(1), w.softmax(1) ** 2),
        "come first": lambda r, w: r(w)[::-1], "Two tensors": lambda r, w: w.softmax(0)}),
    "ch15-upper": (lambda t, w: torch.logaddexp(t, w.logsumexp(0)) - log(1 + len(w)), {
        "too small": lambda r, t, w: torch.full_like(t, -torch.inf),
        "true draw is missing": lambda r, t, w: w.logsumexp(0) - log(len(w)),
        "one more": lambda r, t, w: r(t, w) + log(7 / 6),
        "summed": lambda r, t, w: r(t, w) + log(7), "logarithms": lambda r, t, w: torch.cat([t[None], w]).mean(0),
        "alone": lambda r, t, w: t, "mean of all": lambda r, t, w: r(t, w) + 1}),
    "ch19-field": (on_a_line, {
        "fill the plane": lambda r, z, t: (2 * t - 1) / (t * t + (1 - t) ** 2) * z,
        "length sqrt 2": partial(on_a_line, variance=1), "counts negatively": partial(on_a_line, sign=1),
        "other way": lambda r, z, t: -r(z, t), "v_k of": lambda r, z, t: z}),
    "ch19-midpoint": (by_midpoints, {
        "itself": lambda r, v, e, n: e, "asks once": partial(by_midpoints, once=True),
        "time, too": partial(by_midpoints, clock=0), "not a whole": partial(by_midpoints, reach=1, clock=1),
        "not half-way": partial(by_midpoints, restart=False), "for a whole step": partial(by_midpoints, whole=0.5),
        "single step": lambda r, v, e, n: r(v, e, 1), "from its start": lambda r, v, e, n: r(v, e, n) + 1}),
    "ch19-trace": (lambda apply, e: ((e * apply(e)).sum(1).mean(), (e * apply(e)).sum(1).std() / len(e) ** 0.5), {
        "Two numbers": lambda r, f, e: r(f, e)[0], "not the sum": lambda r, f, e: ((e * f(e)).sum(), r(f, e)[1]),
        "not a mean": lambda r, f, e: ((e * f(e)).mean(), r(f, e)[1]),
        "over the K probes": lambda r, f, e: (f(e).sum(1).mean(), r(f, e)[1]),
        "spread of one": lambda r, f, e: (r(f, e)[0], r(f, e)[1] * len(e) ** 0.5),
        "by the square root": lambda r, f, e: (r(f, e)[0], r(f, e)[1] / len(e) ** 0.5),
        "over the square root": lambda r, f, e: (r(f, e)[0], 0)}),
    "ch18-unlabelled": (lambda a, q: (q * a - torch.xlogy(q, q)).sum(-1), {
        "is missing": lambda r, a, q: (q * a).sum(-1),
        "in favour": lambda r, a, q: (q * a + torch.xlogy(q, q)).sum(-1),
        "not the loss": lambda r, a, q: -r(a, q), "largest value": lambda r, a, q: a.logsumexp(-1),
        "not equally": lambda r, a, q: a.mean(-1) - torch.xlogy(q, q).sum(-1),
        "Sum over the labels": lambda r, a, q: q * a - torch.xlogy(q, q),
        "over the batch": lambda r, a, q: r(a, q).mean(),
        "xlogy": lambda r, a, q: (q * (a - q.log())).sum(-1),
        "adds nothing": lambda r, a, q: r(a, q) + (q == 0).any(-1),
        "Sum q": lambda r, a, q: r(a, q) + 1}),
    "ch18-kl": (lambda m, v, a, b: 0.5 * ((m - a) ** 2 / b.exp() + (v - b).exp() - 1 - v + b).sum(-1), {
        "standard normal": lambda r, m, v, a, b: r(m, v, 0 * a, 0 * b),
        "other way round": lambda r, m, v, a, b: r(a, b, m, v),
        "squared distance": lambda r, m, v, a, b: r(m, v, m, b) + 0.5 * ((m - a) ** 2).sum(-1),
        "ratio": lambda r, m, v, a, b: r(m, v, a, b) + 0.5 * (v.exp() - (v - b).exp()).sum(-1),
        "Sum over the latent": lambda r, m, v, a, b: 0.5 * ((m - a) ** 2 / b.exp() + (v - b).exp() - 1 - v + b),
        "do not average": lambda r, *args: r(*args) / 4, "over the batch": lambda r, *args: r(*args).sum(),
        "Half the sum": lambda r, *args: r(*args) + 1}),
    "ch21-digits": (mixed_radix, {
        "wrong order": lambda r, k, levels: r(k, levels).flip(1),
        "count most": lambda r, k, levels: r(k, levels[::-1]).flip(1),
        "Transposed": lambda r, k, levels: r(k, levels).T, "start at 0": lambda r, k, levels: r(k, levels) + 1,
        "lattice points": lambda r, k, levels: 2 * r(k, levels) / (torch.tensor(levels) - 1) - 1,
        "modulo": lambda r, k, levels: k[:, None] // torch.tensor(levels)}),
    "ch21-attend": (lambda q, k, v: attention(q, k, v), {
        "a mask is missing": lambda r, q, k, v: attention(q, k, v, None),
        r"products by sqrt\(d\)": lambda r, q, k, v: r(3**0.5 * q, k, v), "not by d": lambda r, q, k, v: r(q / 3**0.5, k, v),
        "before the softmax": lambda r, q, k, v: (q @ k.T / 3**0.5).softmax(1).tril() @ v,
        "minus infinity": lambda r, q, k, v: (q @ k.T / 3**0.5).tril().softmax(1) @ v,
        "along the rows": lambda r, q, k, v: (q @ k.T / 3**0.5 + torch.full((5, 5), -torch.inf).triu(1)).softmax(0) @ v,
        "Not a number": lambda r, q, k, v: (q @ k.T + torch.full((5, 5), -torch.inf).triu(0)).softmax(1) @ v,
        "equal shares": lambda r, q, k, v: r(0 * q, k, v), "places up to": lambda r, q, k, v: v}),
    "ch17-alarms": (lambda v, t, share: t > torch.quantile(v, 1 - share), {
        "from the test images": lambda r, v, t, share: r(t, t, share),
        "below": lambda r, v, t, share: r(v, t, 1 - share),
        "scores low": lambda r, v, t, share: r(-v, -t, share),
        "other way round": lambda r, v, t, share: ~r(v, t, share),
        "an argument": lambda r, v, t, share: r(v, t, 0.05),
        "one boolean for each": lambda r, v, t, share: r(v, t, share).sum(),
        "Compare": lambda r, v, t, share: torch.ones_like(t)}),
    "ch17-known": (lambda a, x, o: torch.where(o, x * a - softplus(a), 0).sum(-1), {
        "all pixels": lambda r, a, x, o: r(a, x, torch.ones_like(o)),
        "of the missing pixels": lambda r, a, x, o: r(a, x, ~o),
        "the loss": lambda r, a, x, o: -r(a, x, o),
        "averaged": lambda r, a, x, o: r(a, x, o) / o.sum(-1),
        "not a black one": lambda r, a, x, o: r(a, x * o, torch.ones_like(o)),
        "each latent": lambda r, a, x, o: r(a, x, o).logsumexp(0),
        "NaN": lambda r, a, x, o: (o * (x * a - softplus(a))).sum(-1),
        "Sum x": lambda r, a, x, o: r(a, x, o) + 1}),
    "ch22-dispersion": (lambda x: x.mean() ** 2 / (x.var(correction=0) - x.mean()) if x.var(correction=0) > x.mean() else float("inf"), {
        "1 / r": lambda r, x: 1 / r(x), "comes off first": lambda r, x: x.mean() ** 2 / x.var(correction=0),
        "is squared": lambda r, x: r(x) / x.mean(),
        "Square it": lambda r, x: x.mean() ** 2 / (x.std(correction=0) - x.mean()),
        "all equal": lambda r, x: x.mean() ** 2 / (x.var(correction=0) - x.mean()),
        "Solve": lambda r, x: r(x) + 1}),
    "ch23-mean": (lambda m, c: m @ c / c.sum(), {
        "do not count alike": lambda r, m, c: m.mean(), "how many they are": lambda r, m, c: m @ c,
        "not of processes": lambda r, m, c: (m * c).mean(), "not less": lambda r, m, c: r(m, 1 / c),
        "Weigh each": lambda r, m, c: r(m, c) + 1}),
    "ch16-bits": (lambda x, z, q: (q - z - x) * log2(e), {
        "The sign": lambda r, *args: -r(*args), "are nats": lambda r, *args: r(*args) * log(2),
        "do not multiply": lambda r, *args: r(*args) * log(2) ** 2,
        "plain message": lambda r, x, z, q: -(x + z) / log(2),
        "pixels alone": lambda r, x, z, q: -x / log(2),
        "shorter, not longer": lambda r, x, z, q: -(x + z + q) / log(2),
        "not the other way": lambda r, x, z, q: (z - x - q) / log(2),
        "You averaged": lambda r, *args: r(*args).mean(), "You summed": lambda r, *args: r(*args).sum(),
        "Two pushes": lambda r, *args: r(*args) + 1}),
    "ch20-guidance": (lambda a, b, w: (1 - w) * a + w * b, {
        "one less": lambda r, a, b, w: r(a, b, w + 1), "other way": lambda r, a, b, w: b + w * (a - b),
        "the difference": lambda r, a, b, w: a + w * b, "missing": lambda r, a, b, w: w * b,
        "No average": lambda r, a, b, w: (a + w * b) / (1 + w), "v_none": lambda r, *args: r(*args) + 1}),
    "ch20-precision": (covered, {
        "Leave it out": lambda r, x, y, k: r(x, y, k - 1), "recall": lambda r, x, y, k: r(y, x, k),
        "any of them": lambda r, x, y, k: (torch.cdist(y, x) <= radii(x, k)).double().mean(),
        "of its own": lambda r, x, y, k: (torch.cdist(y, x).min(1).values <= radii(x, k).mean()).double().mean(),
        "The share is": lambda r, x, y, k: r(x, y, k) * len(y), "outside": lambda r, *args: 1 - r(*args),
        "neighbour's distance": lambda r, *args: r(*args) + 1}),
}
# fmt: on
RIGHT = {name: row[0] for name, row in (NUMBERS | FUNCTIONS).items()}
WRONG = [(name, answer, word) for name, row in NUMBERS.items() for answer, word in row[2].items()]
WRONG += [(name, make, word) for name, row in FUNCTIONS.items() for word, make in row[1].items()]
TABLES = {name: c for name, (c, _) in checks.CHECKS.items() if isinstance(c, checks.Number)}


@pytest.fixture
def said(capsys):
    """What a check prints: its line, without the exercise's name."""

    def say(name, answer):
        right = checks.check(name, answer)
        printed = capsys.readouterr().out
        if answer is None or answer is ...:
            return printed  # nothing: an open exercise leaves no noise on the page
        line = re.fullmatch(f"{name}: (.*)\n", printed)[1]
        assert right is line.startswith("right. ")
        return line

    return say


def test_every_exercise_is_answered_here():
    assert set(checks.CHECKS) == set(RIGHT)
    assert set(TABLES) == set(NUMBERS)


@pytest.mark.parametrize("name", RIGHT)
def test_right_open_and_unusable_answers(name, said):
    assert re.fullmatch(r"right\. \w.*\.", said(name, RIGHT[name]))
    assert said(name, ...) == ""
    assert said(name, "what?").startswith("your answer could not be used")


@pytest.mark.parametrize(("name", "answer", "word"), WRONG)
def test_wrong_answers_get_their_own_hint(name, answer, word, said):
    if callable(answer):
        answer = partial(answer, RIGHT[name])
    assert re.match(f"not yet. .*{word}", said(name, answer))


def changed(answer, change):
    """The answer, or what it returns, changed."""
    if callable(answer):
        return lambda *args, **named: changed(answer(*args, **named), change)
    return (*map(change, answer),) if isinstance(answer, tuple) else change(torch.as_tensor(answer))


FORMS = {"float64": torch.Tensor.double, "tensors": lambda x: [*x] if x.ndim else x,
         "numpy": lambda x: x.detach().numpy(), "list": torch.Tensor.tolist}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"ch08-folder"}))
def test_answers_come_in_any_form_and_must_be_exact(name, form, said):
    if name not in ("ch02-sample", "ch11-straight") or form in ("float64", "tensors"):
        assert said(name, changed(RIGHT[name], FORMS[form])).startswith("right.")
    slightly_off = changed(RIGHT[name], lambda answer: FORMS[form](answer * 1.004))
    assert said(name, slightly_off).startswith("not yet.")


@pytest.mark.parametrize(("name", "answer"), [
    ("ch01-bce", lambda y, x: -np.sum(x * np.log(y) + (1 - x) * np.log(1 - y), axis=1)),
    ("ch01-scale", lambda W, A: W @ torch.linalg.inv(A.double())),
    ("ch01-scale", lambda W, A: W @ torch.linalg.solve(A, torch.eye(2, dtype=torch.float64))),
    ("ch01-scale", lambda W, A: np.dot(W, np.linalg.inv(A)).astype(np.float64)),
    ("ch03-variance", lambda m, v: np.var(m, axis=0) + np.exp(v).mean(0)),
    ("ch03-fitted", lambda z, e: z.mean(0) + e @ cov(z.double()).T),
    ("ch04-middle", lambda a, b: np.eye(5) @ half_angle(a, b)),
    ("ch04-middle", lambda a, b: torch.eye(5, dtype=torch.float64) @ half_angle(a, b)),
    ("ch06-price", lambda rho: -torch.log(1 - rho**2) / 2),
    ("ch07-warmup", LinearWarmUp(fraction=3 / 7)),
    ("ch07-warmup", lambda p: np.interp(p, [0, 3 / 7], [0, 1])),
    ("ch09-entropy", lambda a, b: torch.log(2 * pi * e * a * b)),
    ("ch09-quadrature", lambda j, area: (j + torch.log(area)).logsumexp(1)),
])  # fmt: skip
def test_arguments_may_be_taken_for_tensors_or_floats(name, answer, said):
    assert said(name, answer).startswith("right.")


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_right_to_their_decimals(name, said):
    right, decimals, wrong = NUMBERS[name]
    table = TABLES[name]
    assert table.expected == pytest.approx(right, rel=1e-12)
    forms = [float, np.float64, np.array, torch.tensor, lambda x: round(x, decimals)]
    for form in forms + [int] * (right == int(right)):
        assert said(name, form(right)).startswith("right.")
    for off in (-4, -1, -0.52, 0.52, 1, 4):
        assert said(name, right + off * 10**-decimals).startswith("not yet. Close")
    *known, _ = wrong  # the last is none that the table knows
    assert sorted(value for value, _ in table.wrong) == pytest.approx(sorted(known), rel=1e-9)
    for value, hint in table.wrong:  # to as many decimals, or digits
        rounding = 0.5 * 10**-decimals * max(1, abs(value / right))
        assert said(name, value) == said(name, value + rounding) == f"not yet. {hint}"
    windows = [(value, table.window(value)) for value in [right, *(v for v, _ in table.wrong)]]
    assert all(abs(a - b) > wa + wb for (a, wa), (b, wb) in combinations(windows, 2))
    assert said(name, nan) == f"not yet. {table.hint}"


@pytest.mark.parametrize(("name", "answers"), [
    ("ch05-sigma", (1.23, 1.25)), ("ch06-count", (115, 190, 229, 231, 250, 300, 345)),
])  # fmt: skip
def test_what_is_nearly_right_is_wrong(name, answers, said):
    for answer in answers:
        assert said(name, answer).startswith("not yet.")


@pytest.fixture
def double(monkeypatch):
    monkeypatch.setattr(protocol, "CHECKS", {})

    @checks.exercise("double", "Two times two is four.")
    def _(answer):
        wrong = [(3.0, "The sum alone.")]
        checks.close(answer(torch.tensor([1.0, 2.0])), [2.0, 4.0], "Add it to itself.", wrong)


@pytest.mark.parametrize(("answer", "words"), [
    (None, ""),
    (lambda x: x**3, "not yet. Add it to"),
    (lambda x: 2 * x.sum(), "not yet. Expected shape (2,), got (). Add"),
    (lambda x: x.sum(), "not yet. The sum alone."),
    (lambda x: x / "2", "your answer could not be used (TypeError"),
    (lambda x: x + x, "right. Two times two is four."),
])  # fmt: skip
def test_protocol(double, said, answer, words):
    found = said("double", answer)
    assert found.startswith(words)
    assert bool(found) is bool(words)
    with pytest.raises(ValueError, match="known are double"):
        checks.check("treble", 3)


def test_a_chapter_is_found_by_its_file_alone(double, monkeypatch, tmp_path, said):
    text = "from vae_tutorial.checks import number\nnumber('ch99-one', 1, 'One.')((..., 'No.'))\n"
    (tmp_path / "ch99.py").write_text(text)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    checks.discover()
    monkeypatch.delitem(sys.modules, "vae_tutorial.checks.ch99")
    assert said("ch99-one", 1) == "right. One."
