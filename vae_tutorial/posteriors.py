"""Approximate posteriors q(z|x): from the numbers that a network gives to a distribution."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae_tutorial.networks import check_latent_dim
from vae_tutorial.spec import Part


def bounded(value: Tensor, bound: float | None) -> Tensor:
    """Squash to (-bound, bound) smoothly: the identity near zero, flat far out.

    A hard clamp has no gradient beyond the bound, and a log-variance that has run away could never
    come back. Here the gradient fades: at three times the bound it is still 1% of its full size.
    """
    return value if bound is None else bound * torch.tanh(value / bound)


def check_bound(bound: float | None, name: str) -> float | None:
    """A bound is a positive number, or None for none; anything else is a ValueError."""
    if bound is not None and not bound > 0:
        raise ValueError(f"{name} must be positive or None, got {bound}")
    return bound


def check_parameters(head: nn.Module, parameters: Tensor) -> None:
    """Parameters must end in the ``param_shape`` of the posterior or likelihood that reads them."""
    wanted = tuple(head.param_shape)
    if tuple(parameters.shape[-len(wanted) :]) != wanted:
        raise ValueError(
            f"{type(head).__name__} needs parameters (..., {', '.join(map(str, wanted))}), got "
            f"{tuple(parameters.shape)}; build the network with out_shape={wanted}, its param_shape."
        )


class MeanFieldGaussian(Part):
    """The mean-field Gaussian posterior: one mean and one variance per latent dimension.

    q(z|x) = N(z; mu(x), diag(sigma(x)^2)), Kingma & Welling (2013), equation 9. The network gives
    ``2 * latent_dim`` numbers: first the means, then the **log-variances** log sigma^2.

    Args:
        latent_dim: D, the number of latent dimensions.
        log_variance_bound: log-variances are squashed smoothly to plus or minus this. Without a
            bound (``None``) one wild batch early in training can send exp(log-variance) to
            infinity (chapter 14). The default allows standard deviations from 0.0067 to 148.

    Shape:
        parameters ``(B, 2 * latent_dim)`` to a distribution with batch shape ``(B,)`` and event
        shape ``(latent_dim,)``: ``log_prob`` is one number per example, in nats.

    Raises:
        ValueError: for a latent dimension or a bound that is none, or parameters of another shape.

    Example:
        >>> q = MeanFieldGaussian(2)(torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
        >>> q.mean, q.stddev
        (tensor([[ 1., -1.]]), tensor([[1., 1.]]))
    """

    def __init__(self, latent_dim: int, log_variance_bound: float | None = 10.0) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        self.log_variance_bound = check_bound(log_variance_bound, "log_variance_bound")
        self.param_shape = (2 * latent_dim,)

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        mean, log_variance = parameters.chunk(2, dim=-1)  # each (B, D)
        scale = torch.exp(0.5 * bounded(log_variance, self.log_variance_bound))
        # Not validated: `fit` says of a diverging run which step and which term went wrong.
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


class _MultivariateNormal(MultivariateNormal):
    """Its density is computed in float32 at least: no CPU solves triangular systems in float16."""

    def log_prob(self, value: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.result_type(self.loc, value), torch.float32)
        tril = self._unbroadcasted_scale_tril.to(dtype)
        wide = MultivariateNormal(self.loc.to(dtype), scale_tril=tril, validate_args=False)
        return wide.log_prob(value.to(dtype))


class FullCovarianceGaussian(Part):
    """The full-covariance Gaussian posterior: latents may depend on each other, given the image.

    q(z|x) = N(z; mu(x), L(x) L(x)'), with L lower triangular and a positive diagonal: the Cholesky
    factor of the covariance, of which each has exactly one (Kingma & Welling 2019, section 2.5.1).

    The network gives D means, then D log-variances v, then the D (D - 1) / 2 entries below the
    diagonal, row by row. The diagonal of L is exp(v / 2). An entry l of row i gives L_ij = l L_ii:
    it keeps its meaning when the scale changes, and with zeros this is :class:`MeanFieldGaussian`.

    Args:
        latent_dim: D, the number of latent dimensions.
        log_variance_bound: as for :class:`MeanFieldGaussian`.

    Shape:
        parameters ``(B, D + D (D + 1) / 2)`` to a distribution with batch shape ``(B,)`` and event
        shape ``(D,)``.

    Example:
        >>> q = FullCovarianceGaussian(2)(torch.tensor([[0.0, 0.0, 0.0, 0.0, 3.0]]))
        >>> q.scale_tril
        tensor([[[1., 0.],
                 [3., 1.]]])
    """

    def __init__(self, latent_dim: int, log_variance_bound: float | None = 10.0) -> None:
        super().__init__()
        self.latent_dim = check_latent_dim(latent_dim)
        self.log_variance_bound = check_bound(log_variance_bound, "log_variance_bound")
        self.param_shape = (latent_dim + latent_dim * (latent_dim + 1) // 2,)

    def forward(self, parameters: Tensor) -> Distribution:
        check_parameters(self, parameters)
        d = self.latent_dim
        mean, log_variance, below = parameters.split([d, d, d * (d - 1) // 2], dim=-1)
        diagonal = torch.exp(0.5 * bounded(log_variance, self.log_variance_bound))  # (B, D)
        unit = torch.ones_like(diagonal).diag_embed()  # (B, D, D)
        row, column = torch.tril_indices(d, d, offset=-1, device=parameters.device)
        unit[..., row, column] = below
        scale_tril = diagonal.unsqueeze(-1) * unit  # each row by its diagonal entry
        return _MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)
