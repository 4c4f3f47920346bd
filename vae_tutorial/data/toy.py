"""Data of two dimensions, where everything can be seen, and for some everything be known.

A point is a row of two numbers: (N, 2), float32, any real numbers. NumPy draws them in float64,
and they are rounded to four decimals: where the last bits of a sine differ, the points do not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from vae_tutorial.data.sources import Dataset, Split

GAUSSIANS = ("gaussian", "gaussian-rotated")
NAMES = (*GAUSSIANS, "mixture", "ring", "pinwheel")
POINT = (2,)  # the shape of a point
_VERSION = 1  # of the recipe: one more whenever `draw` gives other points


def distribution(name: str) -> td.Distribution | None:
    """The distribution that a toy set is drawn from, where it has a density in closed form.

    - ``"gaussian"``: mean zero, standard deviations 5 and 1 along the axes.
    - ``"gaussian-rotated"``: the same, turned by 45 degrees; its covariance is ((13, 12), (12, 13)).
    - ``"mixture"``: eight Gaussians of standard deviation 0.4 on a circle of radius 4.
    - ``"ring"`` and ``"pinwheel"``: ``None``; they are given by how they are drawn. (The ring's
      density is in :func:`log_density`.)

    An unknown name is a ValueError.
    """
    if name in GAUSSIANS:
        rows = [[25.0, 0.0], [0.0, 1.0]] if name == "gaussian" else [[13.0, 12.0], [12.0, 13.0]]
        return td.MultivariateNormal(torch.zeros(2), torch.tensor(rows))
    if name == "mixture":
        angle = torch.arange(8) * (2 * math.pi / 8)
        centres = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)  # (8, 2)
        parts = td.Independent(td.Normal(centres, torch.full_like(centres, 0.4)), 1)
        return td.MixtureSameFamily(td.Categorical(logits=torch.zeros(8)), parts)
    if name in NAMES:
        return None
    raise ValueError(f"unknown toy data {name!r}; known are {', '.join(NAMES)}")


def draw(name: str, n: int, *, seed: int | tuple[int, ...]) -> Tensor:
    """n points (n, 2) of a toy set, the same on every machine.

    The ring has radius 4 with Gaussian noise of 0.3 across; the pinwheel (Johnson et al. 2016) has
    five blades, each a Gaussian that is stretched along the radius and turned the further out it is.
    """
    distribution(name)  # refuses an unknown name
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    noise, across = random.standard_normal((n, 2)).T
    if name in GAUSSIANS:  # points as complex numbers, so that a product turns them
        z = (5 * noise + 1j * across) * np.exp(1j * math.pi / 4 * (name == "gaussian-rotated"))
    elif name == "mixture":
        centre = 4 * np.exp(2j * math.pi / 8 * random.integers(8, size=n))
        z = centre + 0.4 * (noise + 1j * across)
    elif name == "ring":
        z = (4 + 0.3 * noise) * np.exp(1j * random.uniform(0, 2 * math.pi, n))
    else:
        radius, blade = 3 + 0.9 * noise, 2 * math.pi / 5 * random.integers(5, size=n)
        z = 1.4 * (radius + 0.3j * across) * np.exp(1j * (blade + 0.25 * radius))
    return torch.from_numpy(np.stack([z.real, z.imag], axis=1).round(4)).float()


def load(name: str, *, train: int = 20_000, test: int = 100_000, seed: int = 0) -> Dataset:
    """A toy set as data: ``train`` points, a tenth as many for validation, ``test`` to test on.

    Each part has a draw of its own.
    """
    sizes = (train, max(1, train // 10), test)
    points = [draw(name, n, seed=(seed, i)) for i, n in enumerate(sizes)]
    splits = [Split(x, torch.zeros(len(x), dtype=torch.int64)) for x in points]
    recipe = f"toy points, version {_VERSION}: {name}, {sizes}, seed {seed}"
    return Dataset(name, *splits, ("point",), recipe)


def log_density(name: str, x: Tensor) -> Tensor | None:
    """log p(x) of points (N, 2) under a toy set's true density, (N,), in nats.

    ``None`` for the pinwheel. The ring's is log N(r; 4, 0.3^2) - log(2 pi r), with r the distance
    from the middle.
    """
    if name == "ring":
        r = x.norm(dim=-1)
        return td.Normal(4.0, 0.3).log_prob(r) - torch.log(2 * math.pi * r)
    known = distribution(name)
    return None if known is None else known.log_prob(x)


def entropy(name: str) -> float:
    """The least negative log-likelihood that any model can have on average: the entropy, in nats.

    For the two Gaussians ln(2 pi e) + ln 5 = 4.447; a ValueError elsewhere: it has no closed form.
    """
    known = distribution(name)
    if name not in GAUSSIANS:
        raise ValueError(f"the entropy of {name} has no closed form; known: {', '.join(GAUSSIANS)}")
    return float(known.entropy())
