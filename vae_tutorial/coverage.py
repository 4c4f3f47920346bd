"""How good a set of drawn images is, and how much of the real variety it has: two numbers apart."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_tutorial.evaluate import Estimate


def neighbour_radii(features: Tensor, k: int = 3) -> Tensor:
    """The distance from each of N points to its k-th nearest other one: (N,), float64.

    Args:
        features: (N, D).
        k: which neighbour, from 1 to N - 1; a point is none of its own.
    """
    if features.ndim != 2 or not 1 <= k < len(features):
        raise ValueError(
            f"needs features (N, D) and k from 1 to N - 1, got {tuple(features.shape)} and k={k}"
        )
    features = features.double()
    radii = [
        torch.cdist(part, features).kthvalue(k + 1, dim=1).values for part in features.split(1000)
    ]
    return torch.cat(radii)  # the nearest of all, at distance 0, is the point itself


def inside(points: Tensor, features: Tensor, radii: Tensor) -> Tensor:
    """Which points (M, D) lie in a ball around one of N features with its radius: (M,), bool."""
    features = features.double()
    return torch.cat(
        [(torch.cdist(part, features) <= radii).any(1) for part in points.double().split(1000)]
    )


def precision_recall(real: Tensor, drawn: Tensor, *, k: int = 3) -> dict[str, Estimate]:
    """Precision and recall of drawn images by balls in feature space, Kynkäänniemi et al. (2019).

    Around each point of a set lies a ball that reaches to its k-th nearest neighbour in the set; all
    balls together stand for the set's manifold (their equation 1). Precision is the share of drawn
    points inside the real ones' balls, recall the share of real points inside the drawn ones'
    (equation 2). Both depend on N, M and k, so compare only what was computed with the same.

    Args:
        real, drawn: features (N, D) and (M, D) from one network.
        k: how far a ball reaches; 3 in the paper.

    Returns:
        ``precision`` and ``recall``, with the standard errors of shares (the balls taken as given).

    Raises:
        ValueError: for features of different widths, or fewer than k + 1 of either.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> found = precision_recall(real, real[:3] + 0.5, k=1)
        >>> float(found["precision"]), float(found["recall"])  # 10 is near none of the drawn
        (1.0, 0.75)
    """
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise ValueError(
            "features must be (N, D) and (M, D), from one network; got "
            f"{tuple(real.shape)} and {tuple(drawn.shape)}"
        )
    shares = {
        "precision": inside(drawn, real, neighbour_radii(real, k)).double(),
        "recall": inside(real, drawn, neighbour_radii(drawn, k)).double(),
    }
    return {
        name: Estimate(hits.mean(), hits.std(correction=0) / len(hits) ** 0.5)
        for name, hits in shares.items()
    }
