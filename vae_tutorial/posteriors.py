"""Approximate posteriors q(z|x): from the numbers that a network gives to a distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal


def check_latent_dim(latent_dim: int) -> int:
    """A latent dimension is a positive whole number; anything else is named in a ValueError."""
    if isinstance(latent_dim, bool) or not isinstance(latent_dim, int) or latent_dim < 1:
        raise ValueError(
            f"latent_dim must be a whole number of at least 1, got {latent_dim!r}; "
            "2 is good for pictures of the latent space, 20 for good samples of MNIST."
        )
    return latent_dim


def bounded(value: Tensor, bound: float | None) -> Tensor:
    """Squash to (-bound, bound) smoothly: the identity near zero, flat far out.

    ``bound * tanh(value / bound)``. A hard clamp has no gradient beyond the bound, and a
    log-variance that has run away could never come back. Here it fades gradually: at three
    times the bound it is still 1% of its full size (far beyond, it vanishes in float32, too).
    """
    return value if bound is None else bound * torch.tanh(value / bound)


class MeanFieldGaussian(nn.Module):
    """The mean-field Gaussian posterior: one mean and one variance a latent dimension.

    q(z|x) = N(z; mu(x), diag(sigma(x)^2)), Kingma & Welling (2013), equation 9. The network gives
    ``2 * latent_dim`` numbers: first the means, then the **log-variances** log sigma^2. That is
    the second output's one meaning in this book.

    Args:
        latent_dim: D, the number of latent dimensions.
        log_variance_bound: log-variances are squashed smoothly to plus or minus this. Without a
            bound (``None``) one wild batch early in training can send exp(log-variance) to
            infinity; chapter 2 shows it. The default of 10 allows standard deviations from
            0.0067 to 148, far more than any posterior here uses.

    Shape:
        parameters ``(B, 2 * latent_dim)`` to a distribution with batch shape ``(B,)`` and event
        shape ``(latent_dim,)``: ``log_prob`` is one number an example, in nats.
    """

    def __init__(self, latent_dim: int, log_variance_bound: float | None = 10.0) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        self.log_variance_bound = _check_bound(log_variance_bound)
        self.param_shape = (2 * latent_dim,)

    def forward(self, parameters: Tensor) -> Distribution:
        _check_parameters(self, parameters)
        mean, log_variance = parameters.chunk(2, dim=-1)  # each (B, D)
        scale = torch.exp(0.5 * bounded(log_variance, self.log_variance_bound))
        # Validation would stop a diverging run with torch's own message; `fit` looks at every
        # loss and says which step and which term went wrong.
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, log_variance_bound={self.log_variance_bound}"


class FullCovarianceGaussian(nn.Module):
    """The full-covariance Gaussian posterior: latents may depend on each other, given the image.

    q(z|x) = N(z; mu(x), L(x) L(x)'), with L lower triangular and a positive diagonal (the Cholesky
    factor of the covariance; Kingma & Welling 2019, section 2.5.1). Every
    covariance matrix has exactly one such factor, so nothing is lost and nothing is counted twice.

    The network gives ``latent_dim`` means, then ``latent_dim`` log-variances v, then the
    D (D - 1) / 2 entries below the diagonal, row by row. The diagonal of L is exp(v / 2). An entry
    l of row i gives L_ij = l L_ii, so that an entry keeps its meaning when the scale changes: with
    all entries at zero this is :class:`MeanFieldGaussian`, whose v is log sigma^2.

    Args:
        latent_dim: D, the number of latent dimensions.
        log_variance_bound: as for :class:`MeanFieldGaussian`.

    Shape:
        parameters ``(B, D + D (D + 1) / 2)`` to a distribution with batch shape ``(B,)`` and event
        shape ``(D,)``.
    """

    def __init__(self, latent_dim: int, log_variance_bound: float | None = 10.0) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        self.log_variance_bound = _check_bound(log_variance_bound)
        self.param_shape = (latent_dim + latent_dim * (latent_dim + 1) // 2,)

    def forward(self, parameters: Tensor) -> Distribution:
        _check_parameters(self, parameters)
        d = self.latent_dim
        mean, log_variance, below = parameters.split([d, d, d * (d - 1) // 2], dim=-1)
        diagonal = torch.exp(0.5 * bounded(log_variance, self.log_variance_bound))  # (B, D)
        unit = torch.diag_embed(torch.ones_like(diagonal))  # (B, D, D)
        row, column = torch.tril_indices(d, d, offset=-1, device=parameters.device)
        unit[..., row, column] = below
        scale_tril = diagonal.unsqueeze(-1) * unit  # each row by its diagonal entry
        return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, log_variance_bound={self.log_variance_bound}"


def _check_bound(bound: float | None) -> float | None:
    if bound is not None and not bound > 0:
        raise ValueError(f"log_variance_bound must be positive or None, got {bound}")
    return bound


def _check_parameters(posterior: nn.Module, parameters: Tensor) -> None:
    if parameters.shape[-1:] != posterior.param_shape:
        raise ValueError(
            f"{type(posterior).__name__}(latent_dim={posterior.latent_dim}) needs "
            f"{posterior.param_shape[0]} numbers an example, got a batch of shape "
            f"{tuple(parameters.shape)}; give the network out_shape=posterior.param_shape."
        )
