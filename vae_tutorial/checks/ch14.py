"""Chapter 14: estimating the bound."""

from math import log

import torch
from torch.distributions import Normal, kl_divergence

from vae_tutorial.checks.protocol import close, exercise, number, randn


@exercise("ch14-elbo", "One bound per image, in nats.")
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


@exercise("ch14-weighted", "It holds for weights of any size.")
def _weighted(answer) -> None:
    log_weight = 3 * randn(7, 5, 4) - 120  # e^-120 is zero in single precision
    expected = log_weight.logsumexp(0) - log(5)
    under = "The weights are too small for single precision, and become zero. Use logsumexp."
    wrong = [
        (torch.full((4,), -torch.inf), under),
        (log_weight.mean(0), "You averaged the logarithms: that is the ELBO. Average the weights."),
        (log_weight.logsumexp(0), "You summed the weights. Their mean is asked for."),
        (log_weight.logsumexp(1) - log(4), "You averaged over the images. The draws come first."),
        (expected.mean(), "You averaged over the batch. One bound per image is asked for."),
        (-expected, "The bound itself is asked for, not the loss."),
    ]
    hint = "Take the logarithm of the mean weight of each image: shape (B,)."
    close(answer(log_weight), expected, hint, wrong)


number("ch14-work", 31 / 4, "More images help both parts of the variance.")(
    (10, "Nearly. The encoder runs once per image, whatever S is."),
    (5.5, "Here the decoder costs three times what the encoder costs."),
    (4 / 31, "Upside down: how many times as many images?"),
    (31, "That is the work with ten draws. Divide by the work with one."),
    (..., "Add up encoder and decoder passes for S = 1 and for S = 10."),
)

number("ch14-half", log(65504), "A bound of 10 keeps it finite even there.")(
    (log(65504) / log(10), "Natural logarithms, please."),
    (2 * log(65504), "There the standard deviation overflows. The KL term has the variance."),
    (log(65504) / log(2), "Natural logarithms, please: e^v, not 2^v."),
    (..., "Solve e^v = 65,504."),
)
