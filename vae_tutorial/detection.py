"""Detecting what a model was not trained on: how well scores part two sets; bits of a file."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from vae_tutorial.evaluate import Estimate

_FRAME = 57  # bytes of a PNG file that do not depend on its pixels: signature, header, trailer


def auroc(inside: Tensor, outside: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """The area under the ROC curve: how often an outlier's score is above an ordinary one's.

    P(outside > inside) + 1/2 P(outside = inside), over all pairs of one score from each side: the
    statistic of Mann & Whitney (1947), divided by the number of pairs. Chance is
    1/2; below it the scores point the wrong way.

    Args:
        inside, outside: scores of ordinary examples and of outliers, (N,) and (M,); larger means
            more of an outlier.
        resamples: how many bootstrap samples, of both sides, the standard error is made from; none
            gives no standard error.
        seed: of the bootstrap samples.

    Raises:
        ValueError: where a side has no score, is not one row of them, or holds a NaN.
    """
    sides = []
    for name, scores in (("inside", inside), ("outside", outside)):
        scores = torch.as_tensor(scores).detach().cpu().double()
        if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
            raise ValueError(
                f"{name} must be scores (N,) with N >= 1 and no NaN, got shape "
                f"{tuple(scores.shape)}; flatten them, and leave out what has no score"
            )
        sides.append(scores.numpy())
    area = _area(*sides)
    if not resamples:
        return Estimate(area)
    random, areas = np.random.default_rng(seed), []
    for _ in range(resamples):
        areas.append(_area(*(side[random.integers(0, len(side), len(side))] for side in sides)))
    return Estimate(area, np.std(areas, ddof=1))


def _area(inside: np.ndarray, outside: np.ndarray) -> float:
    """The rank statistic: for each outlier, the ordinary scores below it, ties counted half."""
    ordered = np.sort(inside)
    below = np.searchsorted(ordered, outside, "left") + np.searchsorted(ordered, outside, "right")
    return float(below.mean() / (2 * len(inside)))


def png_bits(images: Tensor) -> Tensor:
    """The bits that PNG spends on each image: a complexity that knows no model, (N,), float64.

    Serrà et al. (2020) subtract such bits from a negative log-likelihood in bits. The
    57 bytes of the file's frame, which are the same for every image, are not counted.

    Args:
        images: bytes (N, C, H, W), uint8, with C of 1 or 3; a file holds nothing finer.

    Raises:
        ValueError: for images that are not such bytes.

    Example:
        >>> flat = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
        >>> bool(png_bits(flat) < png_bits(torch.arange(784).reshape(1, 1, 28, 28).byte()))
        True
    """
    from PIL import Image

    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"expected bytes (N, C, H, W) with C of 1 or 3, got {images.dtype} of shape "
            f"{tuple(images.shape)}; greys in [0, 1] become bytes by (255 * x).round().byte()"
        )
    sizes = []
    for image in images.cpu().movedim(1, -1).numpy():
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            file, "PNG", optimize=True
        )
        sizes.append(8 * (len(file.getvalue()) - _FRAME))
    return torch.tensor(sizes, dtype=torch.float64)
