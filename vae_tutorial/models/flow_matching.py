"""Flow matching: a prior that is learnt by regression, as a velocity field from noise to codes.

Lipman et al. (2023); Liu et al. (2023) and Albergo & Vanden-Eijnden (2023) found the same at the same
time. Time runs from noise at t = 0 to data at t = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, TransformedDistribution

from vae_tutorial.flows import ContinuousFlow
from vae_tutorial.networks import device_of
from vae_tutorial.priors import StandardNormal
from vae_tutorial.randomness import seeded
from vae_tutorial.spec import Part


class FlowMatching(Part):
    """A prior by a velocity field: noise is carried along dz/dt = v(z, t) from t = 0 to t = 1.

    v(z, t) = z (2t - 1) / (t^2 + (1 - t)^2) + network(z, t). The first term is the field that
    :func:`flow_matching` would find for codes from N(0, I); a network that starts at zero starts
    with that distribution, and learns how the codes differ from it.

    Called, it gives a distribution of event shape ``(D,)``, and of batch shape ``()``, or that of
    the labels.

    Args:
        network: ``network(z, t)`` or, with classes, ``network(z, t, labels)``, to the shape of z
            (..., D), such as :class:`~vae_tutorial.networks.TimeMLP`. It says its ``latent_dim``
            and its ``classes``.
        steps: Runge-Kutta steps between noise and codes; see
            :class:`~vae_tutorial.flows.ContinuousFlow`.
        drop: with classes, the share of the training codes whose label is hidden, so that the field
            is also learnt for "not told which": Ho & Salimans (2022), algorithm 1.

    Example:
        >>> from vae_tutorial.networks import TimeMLP
        >>> prior, z = FlowMatching(TimeMLP(2, width=16)), torch.randn(5, 2)
        >>> torch.allclose(prior().log_prob(z), StandardNormal(2)().log_prob(z), atol=1e-3)
        True
    """

    def __init__(self, network: nn.Module, steps: int = 20, drop: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop must lie in [0, 1), got {drop}")
        self.network, self.steps, self.drop = network, steps, drop
        self.latent_dim = network.latent_dim
        self.classes = getattr(network, "classes", None)
        self.base = StandardNormal(self.latent_dim)

    def velocity(
        self, z: Tensor, t: Tensor, labels: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """v (..., D) at points z (..., D) and times t (...), or one time for all of them.

        ``guidance`` w goes from the field without labels (w = 0) to that with them (w = 1), and
        beyond: v_none + w (v_label - v_none), Ho & Salimans (2022), equation 6, there for noise and
        with 1 + w for our w. For w other than 0 and 1 it is the field of no known distribution.
        """
        if labels is not None and self.classes is None:
            raise ValueError("labels came, but this prior was built without classes")
        labels = () if labels is None else (labels.expand(z.shape[:-1]),)
        learnt = self.network(z, t, *labels)
        if labels and guidance != 1:
            without = self.network(z, t)
            learnt = without + guidance * (learnt - without)
        t = torch.as_tensor(t, dtype=z.dtype, device=z.device)[..., None]
        return (2 * t - 1) / (t.square() + (1 - t).square()) * z + learnt

    def forward(
        self,
        labels: Tensor | None = None,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
        probes: int | None = None,
    ) -> Distribution:
        """The distribution of codes, of one class per label (B,) where labels are given.

        ``probes`` estimates the divergence, which is exact without it and costs D derivatives for
        every evaluation; see :class:`~vae_tutorial.flows.ContinuousFlow`.
        """

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            return self.velocity(z, t, labels, guidance)

        base = self.base() if labels is None else self.base().expand(labels.shape)
        transform = ContinuousFlow(velocity, self.steps if steps is None else steps, probes)
        return TransformedDistribution(base, [transform], validate_args=False)

    @torch.no_grad()
    def sample(
        self, n: int | Tensor, *, guidance: float = 1.0, steps: int | None = None,
        seed: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Codes (n, D); for a tensor of labels (n,) in the place of n, one of each label's class."""
        labels = n.to(device_of(self)) if isinstance(n, Tensor) else None
        with seeded(seed):
            shape = (n,) if labels is None else ()
            return self(labels, guidance=guidance, steps=steps).sample(shape)


def flow_matching(
    model: FlowMatching, z: Tensor, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """The regression that teaches the field: Lipman et al. (2023), equations 9 and 23, sigma_min = 0.

    On the straight line z_t = (1 - t) epsilon + t z from noise to a code the velocity is z - epsilon.
    Its best prediction from z_t alone, E[z - epsilon | z_t], is a field that carries N(0, I) to the
    distribution of the codes.

    Args:
        model: a :class:`FlowMatching`.
        z: codes (B, D).
        labels: (B,), int64, for a model with classes. In training mode some are hidden at random.

    Returns:
        ``loss`` (B,): the squared error, summed over D, at one time and one noise per code. Times
        are uniform on [0, 1], and spread evenly over the batch, which makes the average less noisy.
    """
    n = len(z)
    t = (torch.rand((), device=z.device) + torch.arange(n, device=z.device) / n) % 1
    noise = torch.randn_like(z)
    if labels is not None and model.training:
        hidden = torch.rand(n, device=z.device) < model.drop
        labels = torch.where(hidden, model.classes, labels)
    path = (1 - t)[:, None] * noise + t[:, None] * z
    return {"loss": (model.velocity(path, t, labels) - (z - noise)).square().sum(-1)}
