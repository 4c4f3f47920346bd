"""Data of two dimensions, where everything can be seen, and for some everything be known.

A point is an image of one pixel with two channels: (N, 2, 1, 1), float32, any real numbers. So the
same networks, likelihoods, objectives and training serve points and pictures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from vae_tutorial.sources import ImageData, Split

GAUSSIANS = ("gaussian", "gaussian-rotated")
NAMES = (*GAUSSIANS, "mixture", "ring", "pinwheel")
POINT = (2, 1, 1)  # the image_shape of a point


def distribution(name: str) -> Distribution | None:
    """The distribution that a toy set is drawn from, where it has a density in closed form.

    - ``"gaussian"``: mean zero, standard deviations 5 and 1 along the axes.
    - ``"gaussian-rotated"``: the same, turned by 45 degrees; its covariance is ((13, 12), (12, 13)).
    - ``"mixture"``: eight Gaussians of standard deviation 0.4 on a circle of radius 4.
    - ``"ring"`` and ``"pinwheel"``: ``None``; they are given by how they are drawn. (The ring's
      density is in :func:`log_density`.)

    Raises:
        ValueError: for an unknown name.
    """
    if name == "gaussian":
        return MultivariateNormal(torch.zeros(2), torch.diag(torch.tensor([25.0, 1.0])))
    if name == "gaussian-rotated":
        covariance = torch.tensor([[13.0, 12.0], [12.0, 13.0]])
        return MultivariateNormal(torch.zeros(2), covariance)
    if name == "mixture":
        angle = torch.arange(8) * (2 * math.pi / 8)
        centres = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)  # (8, 2)
        parts = Independent(Normal(centres, torch.full_like(centres, 0.4)), 1)
        return MixtureSameFamily(Categorical(logits=torch.zeros(8)), parts)
    if name in NAMES:
        return None
    raise ValueError(f"unknown toy data {name!r}; known are {', '.join(NAMES)}")


def draw(name: str, n: int, *, seed: int) -> Tensor:
    """n points (n, 2) of a toy set.

    The ring has radius 4 with Gaussian noise of 0.3 across; the pinwheel (Johnson et al. 2016) has
    five blades, each a Gaussian that is stretched along the radius and turned the further out it is.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    known = distribution(name)  # also refuses an unknown name
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 2, generator=generator)
    if name in GAUSSIANS:
        return noise @ known.scale_tril.T
    if name == "mixture":
        centres = known.component_distribution.mean
        return centres[torch.randint(0, 8, (n,), generator=generator)] + 0.4 * noise
    turn = torch.rand(n, generator=generator) * 2 * math.pi
    if name == "ring":
        radius = 4 + 0.3 * noise[:, 0]
        return radius[:, None] * torch.stack([turn.cos(), turn.sin()], dim=1)
    blade = torch.randint(0, 5, (n,), generator=generator) * (2 * math.pi / 5)
    radius, across = 3 + 0.9 * noise[:, 0], 0.3 * noise[:, 1]
    angle = blade + 0.25 * radius
    along = torch.stack([angle.cos(), angle.sin()], dim=1)
    sideways = torch.stack([-angle.sin(), angle.cos()], dim=1)
    return 1.4 * (radius[:, None] * along + across[:, None] * sideways)


def load(name: str, *, train: int = 20_000, test: int = 100_000, seed: int = 0) -> ImageData:
    """A toy set as data: training, validation and test points from seeds of their own.

    Args:
        name: one of ``NAMES``.
        train: how many points to train on; a tenth as many are for validation.
        test: how many to test on.
        seed: of the draws; the three parts use three different ones made from it.
    """
    sizes = {"train": train, "validation": max(1, train // 10), "test": test}
    splits = []
    for i, n in enumerate(sizes.values()):
        points = draw(name, n, seed=3 * seed + i)
        splits.append(Split(points.reshape(-1, *POINT), torch.zeros(n, dtype=torch.int64)))
    return ImageData(name, *splits, ("point",))


def log_density(name: str, x: Tensor) -> Tensor | None:
    """log p(x) of points (N, 2) under a toy set's true density, (N,), in nats.

    ``None`` for the pinwheel. The ring's is log N(r; 4, 0.3^2) - log(2 pi r), with r the distance
    from the middle.
    """
    if name == "ring":
        r = x.norm(dim=-1)
        return Normal(4.0, 0.3).log_prob(r) - torch.log(2 * math.pi * r)
    known = distribution(name)
    return None if known is None else known.log_prob(x)


def entropy(name: str) -> float:
    """The least negative log-likelihood that any model can have on average: the entropy, in nats.

    For the two Gaussians ln(2 pi e) + ln 5 = 4.447.

    Raises:
        ValueError: for a set whose entropy is not known in closed form.
    """
    known = distribution(name)
    if name not in GAUSSIANS:
        raise ValueError(f"the entropy of {name} has no closed form; known: {', '.join(GAUSSIANS)}")
    return float(known.entropy())
