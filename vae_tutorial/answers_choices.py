"""The answers to the exercises of chapters 5 to 8, computed independently of the text."""

from __future__ import annotations

import tempfile
from math import log
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vae_tutorial.exercises import Hint, close, exercise, same
from vae_tutorial.vae import VAE

# ----------------------------------------------------------------------------- 5. Likelihoods


@exercise("ch05-sigma")
def _sigma(answer) -> str:
    value = float(answer)
    pixels, weight = 3 * 32 * 32, 0.001
    if abs(value - pixels * weight / 2) < 0.01:
        raise Hint("That is the variance. The standard deviation is asked for.")
    if abs(value - (pixels / 2) ** 0.5) < 0.05:
        raise Hint("The weight of the KL term is missing.")
    if abs(value - (32 * 32 * weight / 2) ** 0.5) < 0.01:
        raise Hint("Colour images have three values a pixel.")
    if abs(value - (weight / 2) ** 0.5) < 0.003:
        raise Hint("mse_loss divides by the number of pixels.")
    # Independently: for the loss and the negative ELBO to be proportional, the ratio of the
    # squared error's factor to the KL term's must be the same in both.
    squares = torch.linspace(0.5, 3, 2_000_001, dtype=torch.float64)
    match = (1 / (2 * squares**2) - (1 / pixels) / weight).abs().argmin()
    close(value, squares[match], "Bring the loss to the form ||x - y||^2 / (2 sigma^2) + KL.", 5e-3)
    return "Wider than the whole range of a pixel."


@exercise("ch05-normalizer")
def _normalizer(answer) -> str:
    logits = torch.tensor([-9.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    got = torch.as_tensor(answer(logits))
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    bce = torch.nn.functional.softplus(logits) - x * logits
    expected = -torch.trapezoid(torch.exp(-bce), x, dim=0).log()
    if got.shape == expected.shape:
        if same(got, -expected):
            raise Hint("That is the logarithm of the integral. C divides by it.")
        if same(got, expected.exp()):
            raise Hint("That is C. Its logarithm is asked for.")
        if same(got, torch.log(logits.abs() / torch.tanh(logits.abs()))):
            raise Hint("Nearly: the tangent is of half the logit.")
    close(got, expected, "C = l / tanh(l / 2). Compare with a sum over a fine grid of x.")
    far = torch.as_tensor(answer(torch.tensor([-200.0, 200.0])))
    if not torch.isfinite(far).all():
        raise Hint("Right for small logits, but not finite at 200: avoid exp of the logit.")
    return "Even in the logit: black and white are treated alike."


@exercise("ch05-bits")
def _bits(answer) -> str:
    value, pixels = float(answer), 3 * 32 * 32
    if abs(value - 7000 / pixels) < 0.01:
        raise Hint("Those are nats per dimension. One bit is log 2 nats.")
    if abs(value - 7000 / (32 * 32 * log(2))) < 0.01:
        raise Hint("Colour images have three values a pixel.")
    if abs(value - 7000 / log(2)) < 1:
        raise Hint("Those are bits an image.")
    if abs(value - 7000 * log(2) / pixels) < 0.01:
        raise Hint("Divide by log 2: there are more bits than nats.")
    bits_of_one_nat = torch.tensor(1.0).exp().log2()  # independently: log2 of e
    close(value, 7000 / pixels * bits_of_one_nat, "Nats to bits, and by the dimensions.", 5e-3)
    return "An uncompressed file has 8."


# ------------------------------------------------------------------------------ 6. Posteriors


@exercise("ch06-factor")
def _factor(answer) -> str:
    got = torch.as_tensor(answer, dtype=torch.float64)
    if got.shape != (2, 2):
        raise Hint("Give two rows of two numbers: [[L11, 0], [L21, L22]].")
    wanted = torch.tensor([[4.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    if abs(float(got[0, 1])) > 1e-6:
        if same(got @ got.T, wanted) or same(got.T @ got, wanted):
            raise Hint("The product is right, but L has zeros above its diagonal, not below.")
        raise Hint("A lower triangular matrix has a zero in the upper right corner.")
    if bool((got.diagonal() < 0).any()) and same(got @ got.T, wanted):
        raise Hint("The product is right, but the diagonal must be positive.")
    close(got, torch.linalg.cholesky(wanted), "Multiply L by its transpose: is it the matrix?")
    return "Each entry follows from those above and to the left."


@exercise("ch06-count")
def _count(answer) -> str:
    value = float(answer)
    if value == 420:
        raise Hint("A full square of entries. The factor is triangular.")
    if value == 210:
        raise Hint("That is the factor. The means are missing.")
    if value == 40:
        raise Hint("That is the mean-field posterior.")
    # Independently: count the positions of a 20 x 20 matrix on and below the diagonal.
    expected = 20 + int(torch.ones(20, 20).tril().sum())
    close(value, float(expected), "Means, the diagonal, and what lies below it.", 0.5)
    return "It grows with the square of D."


@exercise("ch06-price")
def _price(answer) -> str:
    for rho in (0.5, 0.9, -0.9):
        got = torch.as_tensor(answer(rho), dtype=torch.float64)
        p_covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
        p = torch.distributions.MultivariateNormal(torch.zeros(2).double(), p_covariance)
        variances = torch.full((2,), 1 - rho**2, dtype=torch.float64)
        q = torch.distributions.MultivariateNormal(torch.zeros(2).double(), variances.diag())
        expected = torch.distributions.kl_divergence(q, p)
        if same(got, -expected):
            raise Hint("A KL divergence is never negative. Look at the sign.")
        if same(got, 2 * expected):
            raise Hint("Twice too much: log-determinants come with a factor of 1/2.")
        close(got, expected, "Compare with torch.distributions.kl_divergence(q, p).")
    return "It is small until the correlation is strong."


# ------------------------------------------------------------ 7. Beta, warm-up and collapse


@exercise("ch07-warmup")
def _warmup(answer) -> str:
    points = (0.0, 1 / 7, 0.3, 3 / 7, 0.8, 1.0)
    got = torch.tensor([float(answer(p)) for p in points], dtype=torch.float64)
    if bool((got > 1 + 1e-6).any()):
        raise Hint("It goes on growing beyond 1. After the ramp it stays at 1.")
    if _follows(got, points, lambda p: p):
        raise Hint("This ramp lasts for the whole of training. It should end at 3/7.")
    if _follows(got, points, lambda p: min(1.0, p * 3 / 7)):
        raise Hint("Divide by 3/7, to be at 1 when progress is 3/7.")
    # Independently: linear interpolation between the corners of the schedule.
    expected = torch.from_numpy(np.interp(points, [0, 3 / 7, 1], [0, 1, 1]))
    close(got, expected, "0 at the start, 1 at 3/7, a straight line between.")
    return "Three sevenths of training go by before the objective is the bound."


def _follows(got, points, function) -> bool:
    return same(got, torch.tensor([function(p) for p in points], dtype=torch.float64))


@exercise("ch07-price")
def _at_which_price(answer) -> str:
    value = float(answer)
    if abs(value - 0.5) < 0.01:
        raise Hint("Upside down: beta is nats of distortion for a nat of rate.")
    if abs(value + 2) < 0.01:
        raise Hint("That is the slope of the line through both. Its negative is asked for.")
    a, b = (torch.tensor(pair, dtype=torch.float64) for pair in ([10.0, 100.0], [25.0, 70.0]))
    # Independently: solve [R, -1] (beta, loss) = -D for both models at once.
    matrix = torch.stack([a[0], -torch.ones(()), b[0], -torch.ones(())]).reshape(2, 2).double()
    expected = torch.linalg.solve(matrix, -torch.stack([a[1], b[1]]))[0]
    close(value, expected, "Set D + beta R equal for both.", 5e-3)
    return "Above it the frugal model wins, below it the lavish one."


@exercise("ch07-water")
def _water(answer) -> str:
    value = float(answer)
    variances = torch.tensor([4.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    level = 0.6
    all_four = 0.5 * (variances / level).log().sum()
    if abs(value - float(all_four)) < 0.01:
        raise Hint("A KL term is never negative: what lies under water counts as zero.")
    if abs(value - float(0.5 * (variances[:3] / 0.3).log().sum())) < 0.01:
        raise Hint("The water level is beta times the noise.")
    if abs(value - float((variances[:2] / level).log().sum())) < 0.01:
        raise Hint("Half of that: the formula has a factor of 1/2.")
    # Independently: the KL term of each latent's posterior, averaged over its prior-like means.
    kl = torch.zeros((), dtype=torch.float64)
    for variance in variances[variances > level]:
        s2 = level / variance
        kl += 0.5 * (s2 + (1 - s2) - 1 - s2.log())
    close(value, kl, "Which variances are above beta sigma^2? Add half the log ratios.", 5e-3)
    return "Two latents are enough for these data at this price."


# -------------------------------------------------------------------- 8. Networks and data


@exercise("ch08-pixels")
def _pixels(answer) -> str:
    value = float(answer)
    if value == 64 * 48 / 2**4:
        raise Hint("Each convolution halves both sides, not the number of pixels.")
    if value in (4, 3):
        raise Hint("That is one side. A channel has height times width.")
    x = torch.zeros(1, 1, 64, 48)  # independently: send an image through
    for _ in range(4):
        x = torch.nn.functional.conv2d(x, torch.zeros(1, 1, 4, 4), stride=2, padding=1)
    close(value, float(x.numel()), "Halve 64 and 48 four times.", 1e-6)
    return "A dense layer can take over from here."


@exercise("ch08-parameters")
def _parameters(answer) -> str:
    value = float(answer)
    if value == 32 * 64 * 9:
        raise Hint("The biases are missing: one for each output channel.")
    if value == 32 * 64 * 9 + 32:
        raise Hint("Biases belong to the output channels.")
    if value == 9 * 64 + 64:
        raise Hint("Each output channel looks at all 32 input channels.")
    layer = torch.nn.Conv2d(32, 64, 3)  # independently: ask torch
    close(value, float(sum(p.numel() for p in layer.parameters())), "Windows, and biases.", 1e-6)
    return "The size of the image does not enter."


@exercise("ch08-folder")
def _folder(answer) -> str:
    images = torch.randint(0, 256, (40, 16, 12, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images.numpy()):
            Image.fromarray(image).save(Path(folder) / f"{i:02d}.png")
        vae = answer(folder)
    if not isinstance(vae, VAE):
        raise Hint(f"The function should return the VAE, it returned {type(vae).__name__}.")
    if vae.latent_dim != 4:
        raise Hint(f"Four latents are asked for, this VAE has {vae.latent_dim}.")
    got = tuple(vae.cpu().sample(3, seed=0).shape)
    if got != (3, 3, 16, 12):
        raise Hint(f"Three samples should have the shape (3, 3, 16, 12) here, they have {got}.")
    if not any(isinstance(layer, torch.nn.Conv2d) for layer in vae.modules()):
        raise Hint("There is no convolution in it. Use ConvEncoder and ConvDecoder.")
    if not all(p.isfinite().all() for p in vae.parameters()):
        raise Hint("Some weights are not finite. A smaller learning rate?")
    return "Now with your own."
