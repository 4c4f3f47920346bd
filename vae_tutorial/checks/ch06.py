"""Chapter 6: posteriors."""

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from vae_tutorial.checks.protocol import Hint, close, exercise, number, same, tensor


@exercise("ch06-factor", "Each entry follows from those above and to the left.")
def _factor(answer) -> None:
    got = tensor(answer)
    if got.shape != (2, 2):
        raise Hint("Give two rows of two numbers: [[L11, 0], [L21, L22]].")
    wanted = torch.tensor([[4.0, 2.0], [2.0, 5.0]])
    if abs(got[0, 1]) > 1e-6:
        if same(got @ got.T, wanted) or same(got.T @ got, wanted):
            raise Hint("The product is right, but L has zeros above its diagonal, not below.")
        raise Hint("A lower triangular matrix has a zero in the upper right corner.")
    if (got.diagonal() < 0).any() and same(got @ got.T, wanted):
        raise Hint("The product is right, but the diagonal must be positive.")
    close(got, torch.linalg.cholesky(wanted), "Multiply L by its transpose: is it the matrix?")


number("ch06-count", 20 + 20 * 21 // 2, "It grows with the square of D.")(
    (20 + 20 * 20, "A full square of entries. The factor is triangular."),
    (20 * 21 // 2, "That is the factor. The means are missing."),
    (20 + 20, "That is the mean-field posterior."),
    (..., "Means, the diagonal, and what lies below it."),
)


@exercise("ch06-price", "It is small until the correlation is strong.")
def _price(answer) -> None:
    for rho in torch.tensor([0.5, 0.9, -0.9], dtype=torch.float64):
        # Independently: torch's own divergence.
        covariance, zero = torch.eye(2).double(), torch.zeros(2).double()
        q = MultivariateNormal(zero, covariance * (1 - rho**2))
        p = MultivariateNormal(zero, covariance * (1 - rho) + rho)
        expected = kl_divergence(q, p)
        wrong = [
            (-expected, "A KL divergence is never negative. Look at the sign."),
            (2 * expected, "Twice too much: log-determinants come with a factor of 1/2."),
        ]
        close(answer(rho), expected, "Compare with torch.distributions.kl_divergence(q, p).", wrong)
