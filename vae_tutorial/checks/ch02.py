"""Chapter 2: the variational autoencoder."""

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


@exercise("ch02-elbo", "One bound an image, in nats.")
def _elbo(answer) -> None:
    mean, log_variance = randn(7, 4, 2), randn(8, 4, 2) - 1
    logits, x = 2 * randn(9, 3, 4, 784), torch.sigmoid(randn(10, 4, 784))

    def log_likelihood(logits: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(logits.double())
        return (x * y.log() + (1 - x) * (1 - y).log()).sum(-1)

    kl = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    each = log_likelihood(logits)  # (3, 4)
    expected, mixed = each.mean(0) - kl, log_likelihood(logits.mean(0)) - kl
    wrong = [
        (mixed, "You averaged the logits. Average the log-likelihoods, one per sample."),
        (-expected, "This is the negative ELBO, the loss. The bound itself is asked for."),
        (each.mean(0) / 784 - kl, "You averaged over the pixels. Sum over them."),
        (each.sum(0) - kl, "You summed over the samples. Average over them."),
        (each.mean(0) + kl, "The KL term has the wrong sign: the bound subtracts it."),
    ]
    hint = "Sum over pixels, average over samples, subtract the KL: shape (B,)."
    close(answer(logits, x, mean, log_variance), expected, hint, wrong)


_COLOUR = "These are colour images of 3 x 32 x 32."
number("ch02-beta", 3 * 32 * 32 / 20, "Such a model is a beta-VAE that does not know it.")(
    (3 * 32 * 32, "Nearly. The KL term was averaged, too: over the latent dimensions."),
    (784, _COLOUR),
    (784 / 20, _COLOUR),
    (20 / 3072, "Upside down: the loss gives the KL term more weight, not less."),
    (..., "Multiply the loss by the number of pixels and read off."),
)
