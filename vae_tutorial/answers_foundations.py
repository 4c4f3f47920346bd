"""The answers to the exercises of chapters 1 to 4, computed independently of the text."""

from __future__ import annotations

from math import log

import torch

from vae_tutorial.exercises import Hint, close, exercise, same

# ------------------------------------------------------------- 1. The autoencoder


@exercise("ch01-bce")
def _bce(answer) -> str:
    generator = torch.Generator().manual_seed(1)
    y, x = 0.05 + 0.9 * torch.rand(2, 4, 784, generator=generator)
    # -log p of a Bernoulli with probability y, once for each of the two values, mixed by the grey.
    white, black = -torch.log(y.double()), -torch.log1p(-y.double())
    each = x * white + (1 - x) * black  # (4, 784)
    got = answer(y, x)
    if same(got, each):
        raise Hint("These are the pixels one by one. Sum over the last axis.")
    if same(got, each.mean(1)):
        raise Hint("You averaged over the pixels. Sum over them.")
    if same(got, each.sum()) or same(got, each.sum(1).mean()):
        raise Hint("One number an image is asked for: keep the batch axis.")
    if same(got, -each.sum(1)):
        raise Hint("The sign is turned round: a loss is large when the reconstruction is bad.")
    if same(got, (x * white).sum(1)):
        raise Hint("The second half is missing: the black part, (1 - x) log(1 - y).")
    if same(got, (y * -x.double().log() + (1 - y) * -torch.log1p(-x.double())).sum(1)):
        raise Hint("x and y have changed places: the logarithm is taken of the reconstruction.")
    close(got, each.sum(1), "Compare with -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)].")
    return "In nats an image."


@exercise("ch01-floor")
def _floor(answer) -> str:
    value = float(answer)
    if value == 0:
        raise Hint("It is not zero: put x = y = 0.5 into the formula.")
    if abs(value - log(2)) < 0.01:
        raise Hint("That is one pixel. There are 784.")
    if abs(value - 784) < 0.01:
        raise Hint("That is in bits. One bit is log 2 nats.")
    if abs(value - 392 * log(2)) < 0.01:
        raise Hint("Each pixel has two terms, one for its white half and one for its black half.")
    greys = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    smallest = float((-0.5 * greys.log() - 0.5 * torch.log1p(-greys)).min())
    close(value, 784 * smallest, "Which y makes -0.5 log y - 0.5 log(1 - y) smallest?", 1e-3)
    return "No network can do better, however large."


@exercise("ch01-pca")
def _pca(answer) -> str:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(30, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 5
    mean, k = x.mean(0), 2

    def project(points: torch.Tensor, centre: torch.Tensor, columns: slice) -> torch.Tensor:
        moments = (points - centre).T.double() @ (points - centre).double()
        vectors = torch.linalg.eigh(moments)[1][:, columns]  # in ascending order
        return (points - centre).double() @ vectors @ vectors.T + centre

    expected = project(x, mean, slice(-k, None))
    got = answer(x, k)
    if same(got, expected - mean):
        raise Hint("Nearly. Add the mean again at the end.")
    if same(got, project(x, torch.zeros(6), slice(-k, None))):
        raise Hint("The points are not centred. Subtract their mean first.")
    if same(got, project(x, mean, slice(None, k))):
        raise Hint("These are the last components: torch.linalg.eigh sorts in ascending order.")
    if torch.as_tensor(got).shape == (30, k):
        raise Hint("These are the k numbers of each point. Turn them back into points.")
    close(got, expected, "Centre, project on the first k components, come back, add the mean.")
    return "An eigendecomposition of the covariance matrix gives the same."


@exercise("ch01-scale")
def _scale(answer) -> str:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, 2, generator=generator)
    matrix = torch.tensor([[2.0, 1.0], [0.5, 3.0]])
    z = torch.randn(5, 2, generator=generator)
    got = torch.as_tensor(answer(weight, matrix))
    if same(got, weight @ matrix):
        raise Hint("The decoder must undo A, not apply it once more.")
    if same(got, weight @ torch.linalg.inv(matrix).T):
        raise Hint("Nearly: the inverse is transposed. Write out W_new A z = W z for a column z.")
    if got.shape != weight.shape:
        raise Hint(f"Expected the shape of W, {tuple(weight.shape)}, got {tuple(got.shape)}.")
    before = torch.einsum("hd,nd->nh", weight, z)
    after = torch.einsum("hd,de,ne->nh", got, matrix, z)
    close(after, before, "W_new A z must equal W z for every z.")
    return "So the coordinates of a code mean nothing by themselves."


# ------------------------------------------------- 2. The variational autoencoder


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
    if same(got, each):
        raise Hint("These are the dimensions one by one. Sum over the last axis.")
    if same(got, each.mean(-1)):
        raise Hint("You averaged over the latent dimensions. Sum over them.")
    if same(got, -each.sum(-1)):
        raise Hint("The sign is turned round: a KL divergence is never negative.")
    if same(got, wrong_unit.sum(-1)):
        raise Hint("The second argument is log(sigma^2), not log(sigma).")
    close(got, each.sum(-1), "Compare with 1/2 (mu^2 + sigma^2 - 1 - log sigma^2), term by term.")
    return "torch.distributions computes the same."


@exercise("ch02-sample")
def _sample(answer) -> str:
    mean, log_variance = _gaussian_numbers(4, 2)
    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(8))
    mean.requires_grad_()
    log_variance.requires_grad_()
    got = answer(mean, log_variance, noise)
    if same(got, mean + log_variance.exp() * noise):
        raise Hint("exp(log_variance) is the variance. The noise is stretched by its square root.")
    if same(got, mean + log_variance * noise):
        raise Hint("The log-variance stretched the noise. Turn it into a standard deviation first.")
    expected = mean.detach().numpy() + noise.numpy() * log_variance.exp().detach().numpy() ** 0.5
    close(got, torch.as_tensor(expected), "Shift standard normal noise by mu, stretch it by sigma.")
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
    if same(got, log_likelihood(logits.mean(0)) - kl):
        raise Hint("You averaged the logits. Average the log-likelihoods, one a sample.")
    if same(got, -expected):
        raise Hint("This is the negative ELBO, the loss. The bound itself is asked for.")
    if same(got, log_likelihood(logits).mean(0) / 784 - kl):
        raise Hint("You averaged over the pixels. Sum over them.")
    if same(got, log_likelihood(logits).sum(0) - kl):
        raise Hint("You summed over the samples. Average over them.")
    if same(got, log_likelihood(logits).mean(0) + kl):
        raise Hint("The KL term has the wrong sign: the bound subtracts it.")
    close(got, expected, "Sum over pixels, average over samples, subtract the KL: shape (B,).")
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
    close(value, pixels / latents, "Multiply the loss by the number of pixels and read off.")
    return "Such a model is a beta-VAE that does not know it."


# ----------------------------------------------------- 3. Autoencoder against VAE


@exercise("ch03-variance")
def _variance(answer) -> str:
    mean, log_variance = _gaussian_numbers(6, 3)
    # Independently: moments of a mixture of six Gaussians, E[z^2] - E[z]^2.
    second = (mean.double() ** 2 + log_variance.double().exp()).mean(0)
    expected = second - mean.double().mean(0) ** 2  # (D,)
    between = mean.double().var(0, correction=0)
    got = answer(mean, log_variance)
    if same(got, between):
        raise Hint("This is the spread of the means alone. Each posterior has a width, too.")
    if same(got, log_variance.exp().mean(0)):
        raise Hint("This is the width within an image alone. The means differ, too.")
    if same(got, between + log_variance.mean(0)):
        raise Hint("The second argument is log(sigma^2). Turn it into a variance first.")
    if same(got, mean.var(0) + log_variance.exp().mean(0)):
        raise Hint("Nearly: you divided by N - 1. Divide by N.")
    if same(got, between + (0.5 * log_variance).exp().mean(0) ** 2):
        raise Hint("Average the variances, not the standard deviations.")
    close(got, expected, "Variance of the means plus mean of the variances: shape (D,).")
    return "The moments of the mixture say the same."


@exercise("ch03-fitted")
def _fitted(answer) -> str:
    generator = torch.Generator().manual_seed(11)
    codes = torch.randn(40, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 2
    mean, covariance = codes.double().mean(0), torch.cov(codes.T.double())
    # What an affine function of the noise is made of: its value at zero, and at each unit vector.
    got = torch.as_tensor(answer(codes, torch.cat([torch.zeros(1, 3), torch.eye(3)]))).double()
    if got.shape != (4, 3):
        raise Hint(f"Four rows of noise must give four draws, (4, 3), got {tuple(got.shape)}.")
    if same(got[0], torch.zeros(3)):
        raise Hint("The draws are centred at zero. Add the mean of the codes.")
    close(got[0], mean, "Where the noise is zero, the draw must be the mean of the codes.")
    columns = (got[1:] - got[0]).T  # L, with the image of each unit vector as a column
    if same(columns, covariance):
        raise Hint("You multiplied by the covariance. Take a factor L of it, with L L' = C.")
    if same(columns, torch.diag(codes.double().std(0))):
        raise Hint("The widths are right, the correlations are missing.")
    if same(columns.T @ columns, covariance) and not same(columns @ columns.T, covariance):
        raise Hint("L is transposed: with one draw a row, it is noise @ L.T.")
    close(columns @ columns.T, covariance, "The draws' covariance must be that of the codes.")
    return "Mean and covariance are those of the codes."


@exercise("ch03-midpoint")
def _midpoint(answer) -> str:
    value = float(answer)
    if abs(value - 20**0.5) < 0.01:
        raise Hint("That is the length of the ends. The average of two draws varies less.")
    if abs(value - 20**0.5 / 2) < 0.01:
        raise Hint("Half of the length of one draw: where is the other one?")
    if abs(value - 10) < 0.01:
        raise Hint("That is the mean squared length. Take the root.")
    # Var[(a + b) / 2] from the covariance of the pair (a, b), which is the identity.
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    expected = float(20 * (half @ torch.eye(2, dtype=torch.float64) @ half)) ** 0.5
    close(value, expected, "What is the variance of (a + b) / 2 in one dimension?", 2e-3)
    return "A straight walk cuts through the inside of the shell."


# ----------------------------------------------------- 4. Exploring the latent space


@exercise("ch04-middle")
def _middle(answer) -> str:
    generator = torch.Generator().manual_seed(13)
    a, b = torch.randn(2, 5, generator=generator)
    b = 2 * b
    got = torch.as_tensor(answer(a, b))
    # Independently: in the plane of a and b, half of the rotation that turns a's direction to b's.
    first = a / a.norm()
    second = b - (b @ first) * first
    second = second / second.norm()
    angle = torch.atan2(b @ second, b @ first)
    weight = torch.sin(angle / 2) / torch.sin(angle)
    expected = weight * (a.norm() + (b @ first)) * first + weight * (b @ second) * second
    if same(got, (a + b) / 2):
        raise Hint("This is half-way on the straight line.")
    if same(got, (a + b) / 2**0.5):
        raise Hint("That is right for right angles alone. These two are at another angle.")
    if same(got, (a + b) / (a + b).norm()):
        raise Hint("The direction is right. The length should lie between those of the ends.")
    close(got, expected, "Put t = 1/2 into the formula: both weights are sin(w / 2) / sin(w).")
    return "It stays in the shell."


@exercise("ch04-quarter")
def _quarter(answer) -> str:
    value = float(answer)
    if abs(value - 20**0.5) < 0.01:
        raise Hint("That is the length of the ends. The straight way leaves the shell.")
    if abs(value - 12.5) < 0.01:
        raise Hint("That is the squared length. Take the root.")
    if abs(value - 10**0.5) < 0.01:
        raise Hint("That is half-way. A quarter of the way is asked for.")
    ends = 20**0.5 * torch.eye(2, dtype=torch.float64)  # two vectors at right angles
    expected = float((0.75 * ends[0] + 0.25 * ends[1]).norm())
    close(value, expected, "At right angles the squares of both parts add up.", 2e-3)
    return "Half-way it is shorter still."


@exercise("ch04-atleast")
def _atleast(answer) -> str:
    value = float(answer)
    if abs(value - log(60_000)) < 0.06:
        raise Hint("That is the most that the middle part can take. The rest is asked for.")
    if abs(value - 30) < 0.06:
        raise Hint("The KL term has two parts. The middle one may take up to log N of it.")
    if abs(value - (30 - log(60_000) / log(2))) < 0.06:
        raise Hint("log N in nats is the natural logarithm.")
    close(value, 30 - torch.tensor(60_000.0, dtype=torch.float64).log(), "30 less log N.", 3e-3)
    return "However well the model was trained."
