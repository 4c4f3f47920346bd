"""Chapter 18: labels."""

from math import log

import torch

from vae_tutorial.checks.protocol import Hint, ask, close, exercise, number, randn, tensor


@exercise("ch18-unlabelled", "It lies below the logarithm of the sum, wherever q is not the best.")
def _unlabelled(answer) -> None:
    labelled, q = 3 * randn(7, 5, 10) - 90, (2 * randn(8, 5, 10)).softmax(-1)
    entropy = -(q * q.log()).sum(-1)
    expected = (q * labelled).sum(-1) + entropy
    wrong = [
        (expected - entropy, "The entropy of q is missing."),
        (expected - 2 * entropy, "The entropy counts in favour of the bound: subtract log q."),
        (-expected, "The bound itself is asked for, not the loss."),
        (labelled.logsumexp(-1), "That is the largest value, reached by the best q. Use the q given."),
        (labelled.mean(-1) + entropy, "Weight the bounds by q, not equally."),
        (q * (labelled - q.log()), "Sum over the labels."),
        (expected.mean(), "One number per image, (B,): do not average over the batch."),
    ]  # fmt: skip
    hint = "Sum q * (labelled - log q) over the labels: shape (B,)."
    close(ask(answer, labelled, q), expected, hint, wrong)
    sure = torch.eye(10)[:5]
    got = tensor(ask(answer, labelled, sure))
    if not bool(got.isfinite().all()):
        raise Hint("Right, but where q is zero: 0 times log 0 is NaN. Use torch.xlogy(q, q).")
    hint = "Right, but where q is zero: such a label adds nothing."
    close(got, labelled[:, :5].diagonal(), hint)


number("ch18-information", 1.5 * log(2), "Rarer labels say more, but they come less often.", 3)(
    (log(3), "That is for equal shares. Here the average of log 1 / p(y) is smaller."),
    (1.5, "That is in bits; nats are asked for."),
    (log(4), "That holds for an image of a rare class. Average over the images."),
    ((log(2) + 2 * log(4)) / 3, "The first class has half of the images: weight by the shares."),
    (..., "For each image at most log 1 / p(y); average it with the shares."),
)


@exercise("ch18-kl", "With a standard normal prior it is the formula of chapter 2.")
def _kl(answer) -> None:
    mean, log_variance, to, spread = randn(1, 6, 4), randn(2, 6, 4), randn(3, 6, 4), randn(4, 6, 4)
    difference = log_variance - spread
    distance = (mean - to) ** 2 / spread.exp()
    each = 0.5 * (distance + difference.exp() - 1 - difference)
    other = 0.5 * ((mean - to) ** 2 / log_variance.exp() + (-difference).exp() - 1 + difference)
    standard = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
    wrong = [
        (standard.sum(-1), "That is the KL to a standard normal. The prior has a mean and a variance."),
        (other.sum(-1), "The other way round: it is KL(q || p), with q the posterior."),
        ((each - distance / 2 + (mean - to) ** 2 / 2).sum(-1),
         "Divide the squared distance of the means by the prior's variance."),
        ((each - difference.exp() / 2 + log_variance.exp() / 2).sum(-1),
         "The ratio of the variances: divide by the prior's."),
        (each, "Sum over the latent dimensions."),
        (each.mean(-1), "Sum over the latent dimensions, do not average."),
        (each.sum(), "One number per image, (B,): do not sum over the batch."),
    ]  # fmt: skip
    hint = "Half the sum of distance + ratio - 1 - log ratio, all in units of the prior's variance."
    close(ask(answer, mean, log_variance, to, spread), each.sum(-1), hint, wrong)


praise = "One nat of the average cross-entropy weighs as much as ten of the average of -U."
number("ch18-alpha", 500_000 / 49_900, praise)(
    (5000, "That stands before each term of the sum. How many terms does the average have?"),
    (10, "Close: divide by the number of *unlabelled* images."),
    (5000 / 49_900, "The sum over labelled images has 100 terms: it is 100 times their average."),
    (100 / 49_900, "And alpha?"),
    (..., "alpha * 100 * (average over the labelled), divided by the 49,900 unlabelled images."),
)
