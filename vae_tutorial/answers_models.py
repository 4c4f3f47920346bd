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


# ------------------------------------------------------------- 10. A prior that is learnt


@exercise("ch10-masks")
def _masks(answer) -> str:
    for before, after in (([1, 2, 3], [1, 2, 1, 2]), ([2, 1, 3, 1], [3, 1, 2])):
        m, n = torch.tensor(before), torch.tensor(after)
        for last in (False, True):
            got = torch.as_tensor(answer(m, n, last)).double()
            # Independently: one entry after the other, by the rule in words.
            expected = torch.tensor(
                [[float(i < o if last else i <= o) for i in before] for o in after]
            ).double()
            if got.shape == expected.T.shape != expected.shape or same(got, expected.T):
                raise Hint("Turned round: a row is an output, a column an input, as in a weight.")
            if last and same(got, torch.tensor([[float(i <= o) for i in before] for o in after])):
                raise Hint("The last layer must be strict, or an output would see its own input.")
            close(got, expected, "1 where the input's degree is allowed, else 0.")
    return "No path from an input to its own output."


@exercise("ch10-density")
def _density(answer) -> str:
    generator = torch.Generator().manual_seed(10)
    z, shift, log_scale = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    got = torch.as_tensor(answer(z, shift, log_scale)).double()
    # Independently: given those before it, each dimension is a Gaussian of its own.
    each = torch.distributions.Normal(shift, log_scale.exp()).log_prob(z)
    expected = each.sum(1)
    if got.shape != expected.shape:
        raise Hint("One number for each row: sum over the dimensions.")
    if same(got, expected + 2 * log_scale.sum(1)):
        raise Hint("The log-determinant has the wrong sign: wide conditionals are thin ones.")
    if same(got, expected + log_scale.sum(1)):
        raise Hint("That is the density of the noise. The Jacobian is missing.")
    close(got, expected, "log N(noise; 0, I) minus the sum of the logarithmic scales.")
    return "Exact, in one pass."


@exercise("ch10-waste")
def _waste(answer) -> str:
    value = float(answer)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    aggregate = MultivariateNormal(zero, covariance)
    standard = MultivariateNormal(zero, torch.eye(2, dtype=torch.float64))
    expected = torch.distributions.kl_divergence(aggregate, standard)
    if abs(value + float(expected)) < 0.01:
        raise Hint("A gain is positive: -1/2 ln det C.")
    if abs(value - 2 * float(expected)) < 0.01:
        raise Hint("Twice too much: there is a factor of 1/2.")
    if abs(value - float(expected) / log(2)) < 0.01:
        raise Hint("That is in bits.")
    close(value, expected, "KL(N(0, C) || N(0, I)), with C the codes' covariance.", 5e-3)
    return "The mutual information of the two latents: what N(0, I) knows nothing of."


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


# ------------------------------------------------ 12. A prior over codes: Gated PixelCNN


@exercise("ch12-bits")
def _code_bits(answer) -> str:
    value = float(answer)
    symbols = 16 * 16
    if abs(value - 900 / symbols) < 0.01:
        raise Hint("That is nats a symbol. One bit is ln 2 nats.")
    if abs(value - 900 / log(2)) < 1:
        raise Hint("That is for the whole grid. It has 256 symbols.")
    if abs(value - 900 * log(2) / symbols) < 0.01:
        raise Hint("There are more bits than nats: divide by ln 2.")
    # Independently: 2 to the power of -value must be the geometric mean of the probabilities.
    geometric = torch.tensor(-900 / symbols, dtype=torch.float64).exp()
    close(value, -torch.log2(geometric), "Nats, by ln 2, by the number of symbols.", 1e-3)
    return "Of an alphabet of 512, which would take 9."


@exercise("ch12-mask")
def _mask(answer) -> str:
    for size in (3, 5):
        for first in (True, False):
            got = torch.as_tensor(answer(size, first)).double()
            # Independently: count the places row by row until the middle is reached.
            expected, middle = torch.zeros(size, size).double(), (size // 2, size // 2)
            for row in range(size):
                for column in range(size):
                    if (row, column) == middle:
                        expected[row, column] = float(not first)
                    expected[row, column] += float((row, column) < middle)
            if same(got, 1 - expected):
                raise Hint("Upside down: 1 is for places that may be looked at.")
            flipped = expected.clone()
            flipped[middle] = 1 - flipped[middle]
            if same(got, flipped):
                raise Hint("Look at the middle: the first layer must not see its own place.")
            if same(got, torch.ones(size, size).double().tril()):
                raise Hint("Above, the whole row is earlier, the right half, too.")
            close(got, expected, "Rows above, and to the left in the row of the middle.")
    return "Correct, and with a blind spot."


@exercise("ch12-neighbour")
def _neighbour(answer) -> str:
    counts = torch.tensor([[6.0, 2.0, 0.0], [1.0, 1.0, 2.0], [0.0, 4.0, 0.0]]).double()
    got = torch.as_tensor(answer(counts), dtype=torch.float64)
    if bool(got.isnan()):
        raise Hint("Not a number: leave out pairs that never occurred.")
    p = counts / counts.sum()
    # Independently, by the chain rule: H(b | a) = H(a, b) - H(a).
    joint, left, right = (-torch.xlogy(q, q).sum() / log(2) for q in (p, p.sum(1), p.sum(0)))
    expected = joint - left
    if same(got, expected * log(2)):
        raise Hint("That is in nats.")
    if same(got, joint):
        raise Hint("That is the entropy of both together, H(a, b).")
    if same(got, joint - right):
        raise Hint("That is the left symbol given the right one.")
    if same(got, -expected):
        raise Hint("An entropy is not negative: look at the sign.")
    close(got, expected, "Average -log2 p(b | a) over the pairs, each as often as it occurs.")
    return "Never more than the entropy of b alone."


# --------------------------------------------------- 13. Hierarchies: the ladder VAE


@exercise("ch13-merge")
def _merge(answer) -> str:
    generator = torch.Generator().manual_seed(13)
    mean_a, mean_b = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    var_a, var_b = 0.2 + torch.rand(2, 4, generator=generator, dtype=torch.float64)
    mean, variance = (torch.as_tensor(part) for part in answer(mean_a, var_a, mean_b, var_b))
    # Independently: multiply the densities on a grid, and take the moments.
    z = torch.linspace(-15, 15, 60_001, dtype=torch.float64)[:, None]
    log_a, log_b = ((-0.5 * (z - m).square() / v) for m, v in ((mean_a, var_a), (mean_b, var_b)))
    weight = (log_a + log_b).softmax(0)
    expected = (weight * z).sum(0)
    spread = (weight * (z - expected).square()).sum(0)
    if same(variance, 1 / spread):
        raise Hint("That is the precision. The variance is one over it.")
    if same(variance, var_a + var_b):
        raise Hint("Precisions add up, not variances: two opinions are surer than one.")
    close(variance, spread, "The precision is the sum of both precisions.")
    if same(mean, (mean_a + mean_b) / 2):
        raise Hint("The surer opinion should count for more: weight the means by precision.")
    if same(mean, mean_a / var_a + mean_b / var_b):
        raise Hint("The weights must add up to one: multiply by the merged variance.")
    close(mean, expected, "The mean of both means, weighted by their precisions.")
    return "It is never less sure than either."


@exercise("ch13-agree")
def _agree(answer) -> str:
    value = float(answer)
    normal = torch.distributions.Normal
    prediction = normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    merged = normal(prediction.mean, torch.tensor(0.5).double().sqrt())
    expected = torch.distributions.kl_divergence(merged, prediction)
    if value == 0:
        raise Hint("The merged posterior is surer than the prediction, so it is not the same.")
    if abs(value - 2 * float(expected)) < 1e-3:
        raise Hint("Twice too much: there is a factor of 1/2.")
    if abs(value - float(torch.distributions.kl_divergence(prediction, merged))) < 1e-3:
        raise Hint("That is the other direction. The posterior comes first.")
    close(
        value, expected, "Two equal opinions have half the variance. Then 1/2 (v - 1 - ln v).", 1e-3
    )
    return "To repeat what is known costs a little, too."


@exercise("ch13-linear")
def _linear(answer) -> str:
    value = float(answer)
    if abs(value - 0.36) < 1e-6:
        raise Hint("That is the variance of z_1 once z_2 is known.")
    if abs(value - 1.16) < 1e-6:
        raise Hint("A factor enters the variance with its square.")
    if abs(value - 0.64) < 1e-6:
        raise Hint("That is what comes from z_2. The layer adds noise of its own.")
    # Independently: by the covariance of (noise_1, z_2) under the map to z_1.
    row = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    close(value, float(row @ row.T), "The factor squared times the variance above, plus its own.")
    return "A standard normal again: straight lines gain nothing. It takes networks that bend."
