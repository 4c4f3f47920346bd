"""The answers to the exercises, checked with a friendly message.

``check("kl", answer)`` looks an exercise up by its name, compares the answer with an independent
computation, and prints one line: right, not answered yet, or what is off. It raises nothing, so a
notebook with open exercises still runs from top to bottom; it returns whether the answer is right,
which is what the tests look at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_CHECKS: dict[str, Callable] = {}


class Hint(Exception):
    """Raised by a check: what is off about an answer, in words for the reader."""


def exercise(name: str) -> Callable:
    """Register a check under the exercise's name."""

    def register(function: Callable) -> Callable:
        _CHECKS[name] = function
        return function

    return register


def check(name: str, answer: object) -> bool:
    """Check an exercise's answer, print what came of it, and return whether it is right.

    Args:
        name: the exercise, as named in the chapter.
        answer: a number, a tensor or a function, as the exercise asks; ``...`` or ``None`` for
            one that is not answered yet.

    Raises:
        ValueError: for an exercise that does not exist.
    """
    if name not in _CHECKS:
        raise ValueError(f"there is no exercise {name!r}; known are {', '.join(sorted(_CHECKS))}")
    if answer is None or answer is ...:
        print(f"{name}: not answered yet. Put your answer in place of the three dots.")
        return False
    try:
        praise = _CHECKS[name](answer)
    except Hint as hint:
        print(f"{name}: not yet. {hint}")
        return False
    except Exception as error:
        print(f"{name}: your answer could not be used ({type(error).__name__}: {error}).")
        return False
    print(f"{name}: right. {praise or ''}".rstrip())
    return True


def _close(answer, expected, hint: str, tolerance: float = 1e-4) -> None:
    """The answer must have the expected shape and be close to it."""
    answer = torch.as_tensor(answer, dtype=torch.float64).detach()
    expected = torch.as_tensor(expected, dtype=torch.float64)
    if answer.shape != expected.shape:
        raise Hint(f"Expected shape {tuple(expected.shape)}, got {tuple(answer.shape)}. {hint}")
    if not torch.allclose(answer, expected, rtol=tolerance, atol=tolerance):
        raise Hint(hint)


# ------------------------------------------------------------- 1. The autoencoder


# ------------------------------------------------- 2. The variational autoencoder


def _same(answer, expected) -> bool:
    """Whether a tensor equals another up to rounding, without complaint about its shape."""
    answer = torch.as_tensor(answer).detach()
    return answer.shape == expected.shape and torch.allclose(
        answer.double(), expected.double(), rtol=1e-4, atol=1e-4
    )


def _gaussian_numbers(batch: int, latent_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    mean = torch.randn(batch, latent_dim, generator=generator)
    return mean, torch.randn(batch, latent_dim, generator=generator) - 1.0


@exercise("ch02-kl")
def _kl(answer) -> str:
    mean, log_variance = _gaussian_numbers(5, 3)
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(
        normal(mean, log_variance.exp().sqrt()), normal(0.0, 1.0)
    )  # (5, 3)
    wrong_unit = torch.distributions.kl_divergence(
        normal(mean, log_variance.exp()), normal(0.0, 1.0)
    )
    got = answer(mean, log_variance)
    if _same(got, each):
        raise Hint("These are the dimensions one by one. Sum over the last axis.")
    if _same(got, each.mean(-1)):
        raise Hint("You averaged over the latent dimensions. Sum over them.")
    if _same(got, -each.sum(-1)):
        raise Hint("The sign is turned round: a KL divergence is never negative.")
    if _same(got, wrong_unit.sum(-1)):
        raise Hint("The second argument is log(sigma^2), not log(sigma).")
    _close(got, each.sum(-1), "Compare with 1/2 (mu^2 + sigma^2 - 1 - log sigma^2), term by term.")
    return "torch.distributions computes the same."


@exercise("ch02-sample")
def _sample(answer) -> str:
    mean, log_variance = _gaussian_numbers(4, 2)
    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(8))
    mean.requires_grad_()
    log_variance.requires_grad_()
    got = answer(mean, log_variance, noise)
    if _same(got, mean + log_variance.exp() * noise):
        raise Hint("exp(log_variance) is the variance. The noise is stretched by its square root.")
    if _same(got, mean + log_variance * noise):
        raise Hint("The log-variance stretched the noise. Turn it into a standard deviation first.")
    expected = mean.detach().numpy() + noise.numpy() * log_variance.exp().detach().numpy() ** 0.5
    _close(
        got, torch.as_tensor(expected), "Shift standard normal noise by mu, stretch it by sigma."
    )
    if not got.requires_grad:
        raise Hint("The numbers are right, but no gradient can flow back to the mean.")
    gradients = torch.autograd.grad(got.sum(), [mean, log_variance], allow_unused=True)
    if any(g is None or not g.abs().sum() > 0 for g in gradients):
        raise Hint("The numbers are right, but the mean or the log-variance gets no gradient.")
    return "Both parameters get a gradient, too."


@exercise("ch02-elbo")
def _elbo(answer) -> str:
    mean, log_variance = _gaussian_numbers(4, 2)
    generator = torch.Generator().manual_seed(9)
    logits = 2 * torch.randn(3, 4, 784, generator=generator)
    x = torch.rand(4, 784, generator=generator)

    def log_likelihood(logits: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(logits.double())
        return (x * y.log() + (1 - x) * (1 - y).log()).sum(-1)

    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)
    ).sum(-1)
    expected = log_likelihood(logits).mean(0) - kl
    got = answer(logits, x, mean, log_variance)
    if _same(got, log_likelihood(logits.mean(0)) - kl):
        raise Hint("You averaged the logits. Average the log-likelihoods, one a sample.")
    if _same(got, -expected):
        raise Hint("This is the negative ELBO, the loss. The bound itself is asked for.")
    if _same(got, log_likelihood(logits).mean(0) / 784 - kl):
        raise Hint("You averaged over the pixels. Sum over them.")
    if _same(got, log_likelihood(logits).sum(0) - kl):
        raise Hint("You summed over the samples. Average over them.")
    if _same(got, log_likelihood(logits).mean(0) + kl):
        raise Hint("The KL term has the wrong sign: the bound subtracts it.")
    _close(got, expected, "Sum over pixels, average over samples, subtract the KL: shape (B,).")
    return "One bound an image, in nats."


@exercise("ch02-beta")
def _beta(answer) -> str:
    pixels, latents = 3 * 32 * 32, 20
    value = float(answer)
    if abs(value - pixels) < 0.5:
        raise Hint("Nearly. The KL term was averaged, too: over the latent dimensions.")
    if abs(value - 784) < 0.5 or abs(value - 784 / 20) < 0.5:
        raise Hint("These are colour images of 3 x 32 x 32.")
    if abs(value - latents / pixels) < 1e-3:
        raise Hint("Upside down: the loss gives the KL term more weight, not less.")
    _close(value, pixels / latents, "Multiply the loss by the number of pixels and read off.")
    return "Such a model is a beta-VAE that does not know it."


# ----------------------------------------------------- 3. Autoencoder against VAE
