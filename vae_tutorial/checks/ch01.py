"""Chapter 1: the autoencoder."""

from math import log

import torch

from vae_tutorial.checks.protocol import Hint, ask, close, exercise, number, randn, tensor


@exercise("ch01-bce", "The answer is in nats per image.")
def _bce(answer) -> None:
    y, x = torch.sigmoid(randn(1, 2, 4, 784))
    # -log p of a Bernoulli with probability y, once for each of the two values, mixed by the grey.
    white, black = -torch.log(y.double()), -torch.log1p(-y.double())
    each = x * white + (1 - x) * black  # (4, 784)
    swapped = y * -x.double().log() + (1 - y) * -torch.log1p(-x.double())
    keep = "One number per image is asked for: keep the batch axis."
    wrong = [
        (each, "These are the pixels one by one. Sum over the last axis."),
        (each.mean(1), "You averaged over the pixels. Sum over them."),
        (each.sum(), keep),
        (each.sum(1).mean(), keep),
        (-each.sum(1), "The sign is wrong: a loss is large when the reconstruction is bad."),
        ((x * white).sum(1), "The second half is missing: the black part, (1 - x) log(1 - y)."),
        (swapped.sum(1), "x and y are swapped: the logarithm is taken of the reconstruction."),
    ]
    hint = "Compare with -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)]."
    close(ask(answer, y, x), each.sum(1), hint, wrong)


number("ch01-floor", 784 * log(2), "No network can do better, however large.")(
    (543, "Right so far. Two decimals are asked for."),
    (0, "It is not zero: put x = y = 0.5 into the formula."),
    (log(2), "That is one pixel. There are 784."),
    (784, "That is in bits. One bit is log 2 nats."),
    (392 * log(2), "Each pixel has two terms: one for its white half, one for its black."),
    (..., "Which y makes -0.5 log y - 0.5 log(1 - y) smallest?"),
)


@exercise("ch01-pca", "An eigendecomposition of the covariance matrix gives the same.")
def _pca(answer) -> None:
    x = randn(2, 30, 6) @ randn(3, 6, 6) + 5

    def project(centre: torch.Tensor, columns: slice) -> torch.Tensor:
        centred = (x - centre).double()
        vectors = torch.linalg.eigh(centred.T @ centred)[1][:, columns]  # in ascending order
        return centred @ vectors @ vectors.T + centre

    mean, zero = x.mean(0), torch.zeros(6)
    for k, other in ((2, 3), (3, 2)):
        first, last = slice(-k, None), slice(None, k)
        expected, got = project(mean, first), tensor(ask(answer, x, k))
        wrong = [
            (expected - mean, "Nearly. Add the mean again at the end."),
            (project(zero, first), "The points are not centred. Subtract their mean first."),
            (project(mean, last), "These are the last components: eigh sorts in ascending order."),
            (project(mean, slice(-other, None)), f"Here k is {k}, and you use {other} components."),
        ]
        if got.shape == (30, k):
            raise Hint("These are the k numbers of each point. Turn them back into points.")
        hint = "Centre, project on the first k components, come back, add the mean."
        close(got, expected, hint, wrong)


@exercise("ch01-scale", "So the coordinates of a code mean nothing by themselves.")
def _scale(answer) -> None:
    W, A = randn(3, 7, 2), torch.tensor([[2.0, 1.0], [0.5, 3.0]])
    wrong = [
        (W @ A, "The decoder must undo A, not apply it once more."),
        (W @ A.inverse().T, "The inverse is transposed. Write out W_new A z = W z for a column z."),
    ]
    # Independently: A^T W_new^T = W^T, solved.
    expected = torch.linalg.solve(A.T, W.T).T
    close(
        ask(answer, W, A), expected, "W_new has W's shape, and W_new A z = W z for every z.", wrong
    )
