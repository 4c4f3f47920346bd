"""Chapter 2: the variational autoencoder."""

from math import e, sqrt

import torch
from torch.distributions import Normal, kl_divergence

from vae_tutorial.checks.protocol import Hint, close, exercise, number, randn, tensor


@exercise("ch02-kl", "torch.distributions computes the same.")
def _kl(answer) -> None:
    mean, log_variance = randn(7, 5, 3), randn(8, 5, 3) - 1
    each, taken_for_log_sigma = (
        kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0))  # (5, 3)
        for sigma in (log_variance.exp().sqrt(), log_variance.exp())
    )
    wrong = [
        (each, "These are the dimensions one by one. Sum over the last axis."),
        (each.mean(-1), "You averaged over the latent dimensions. Sum over them."),
        (-each.sum(-1), "The sign is wrong: a KL divergence is never negative."),
        (taken_for_log_sigma.sum(-1), "The second argument is log(sigma^2), not log(sigma)."),
    ]
    hint = "Compare with 1/2 (mu^2 + sigma^2 - 1 - log sigma^2), term by term."
    close(answer(mean, log_variance), each.sum(-1), hint, wrong)


@exercise("ch02-sample", "Both parameters get a gradient, too.")
def _sample(answer) -> None:
    mean, log_variance = (x.requires_grad_() for x in (randn(7, 4, 2), randn(8, 4, 2) - 1))
    noise = randn(9, 3, 4, 2)
    got = tensor(answer(mean, log_variance, noise))
    variance = log_variance.exp()
    root = "exp(log_variance) is the variance. The noise is stretched by its square root."
    turn = "The log-variance stretched the noise. Turn it into a standard deviation first."
    wrong = [(mean + variance * noise, root), (mean + log_variance * noise, turn)]
    hint = "Shift standard normal noise by mu, stretch it by sigma."
    close(got, mean + variance.sqrt() * noise, hint, wrong)
    if not got.requires_grad:
        raise Hint("The numbers are right, but no gradient can flow back to the mean.")
    gradients = torch.autograd.grad(got.sum(), [mean, log_variance], allow_unused=True)
    if any(g is None or not g.abs().sum() > 0 for g in gradients):
        raise Hint("The numbers are right, but the mean or the log-variance gets no gradient.")


_COLOUR = "These are colour images of 3 x 32 x 32."
number("ch02-beta", 3 * 32 * 32 / 20, "Such a model is a beta-VAE that does not know it.")(
    (3 * 32 * 32, "Nearly. The KL term was averaged, too: over the latent dimensions."),
    (784, _COLOUR),
    (784 / 20, _COLOUR),
    (20 / 3072, "Upside down: the loss gives the KL term more weight, not less."),
    (..., "Multiply the loss by the number of pixels and read off."),
)

number("ch02-ellipse", sqrt(2 * e), "So e^KL draws from the prior give about one hit.")(
    (2 * e, "Nearly. That is the square of r."),
    (sqrt(e), "Density 1 / (2 pi) times area pi (r sigma)^2: a half is left."),
    (sqrt(2), "The KL term has a -1 in each dimension, and e^-KL an e."),
    (e, "A density times an area on one side, e^-KL on the other: solve for r."),
    (..., "Set e^-KL = e sigma^2 equal to the prior's density at zero times the disc's area."),
)
