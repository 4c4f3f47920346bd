"""Ways to walk through a latent space: encode, interpolate, lay out grids, embed in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vae_tutorial.data import check_images, to_float
from vae_tutorial.networks import device_of


@torch.no_grad()
def encode(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The codes (N, D) of images (N, C, H, W), on the CPU.

    A VAE answers with posterior means, a plain autoencoder with its codes.
    """
    check_images(images)
    device = device_of(model)
    chunks = [model.encode(to_float(c.to(device))).cpu() for c in images.split(batch_size)]
    return torch.cat(chunks)


@torch.no_grad()
def encode_distribution(vae, images: Tensor, *, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations, each (N, D), on the CPU."""
    check_images(images)
    device = device_of(vae)
    means, scales = [], []
    for chunk in images.split(batch_size):
        q = vae.encoder(to_float(chunk.to(device)))
        means.append(q.mean.cpu())
        scales.append(q.stddev.cpu())
    return torch.cat(means), torch.cat(scales)


@torch.no_grad()
def decode(model: nn.Module, z: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The mean images (..., C, H, W) of latents (..., D), on the CPU, in batches."""
    flat = z.reshape(-1, z.shape[-1])
    device = device_of(model)
    images = torch.cat([model.decoder(c.to(device)).mean.cpu() for c in flat.split(batch_size)])
    return images.reshape(*z.shape[:-1], *images.shape[1:])


def interpolate(start: Tensor, end: Tensor, steps: int, *, spherical: bool = False) -> Tensor:
    """Points on the way from one code to another, both ends included.

    Linear: (1 - t) a + t b. Spherical: along the great arc, sin((1 - t) w) / sin(w) a +
    sin(t w) / sin(w) b with w the angle between a and b (Shoemake 1985; for latent spaces White
    2016); it keeps the length that samples of a high-dimensional Gaussian have. For parallel
    codes the arc is the line.

    Args:
        start, end: (D,).
        steps: how many points, at least 2.

    Returns:
        (steps, D).
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2 (the two ends), got {steps}")
    if start.shape != end.shape or start.ndim != 1:
        raise ValueError(
            f"start and end must both be (D,), got {tuple(start.shape)}, {tuple(end.shape)}"
        )
    t = torch.linspace(0, 1, steps, dtype=start.dtype).unsqueeze(1)  # (steps, 1)
    if spherical:
        lengths = start.norm() * end.norm()
        if float(lengths) == 0:
            raise ValueError("a spherical interpolation needs codes that are not zero")
        angle = torch.arccos((start @ end / lengths).clamp(-1, 1))
        if float(torch.sin(angle)) > 1e-4:
            return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(
                angle
            )
    return (1 - t) * start + t * end


def traverse(code: Tensor, dimension: int, values: Tensor) -> Tensor:
    """Copies of one code, one dimension of which takes the given values in turn.

    Args:
        code: (D,).
        dimension: which, counted from 0.
        values: (steps,).

    Returns:
        (steps, D).
    """
    if code.ndim != 1 or not 0 <= dimension < len(code):
        raise ValueError(
            f"needs a code (D,) and a dimension from 0 to D - 1, got {tuple(code.shape)}, {dimension}"
        )
    codes = code.repeat(len(values), 1)  # (steps, D)
    codes[:, dimension] = values
    return codes


def four_corners(corners: Tensor, n: int) -> Tensor:
    """A bilinear grid between four codes: top left, top right, bottom left, bottom right.

    Args:
        corners: (4, D).
        n: points a side.

    Returns:
        (n, n, D), row by row from the top.
    """
    if corners.ndim != 2 or len(corners) != 4:
        raise ValueError(f"corners must be (4, D), got {tuple(corners.shape)}")
    left = interpolate(corners[0], corners[2], n)
    right = interpolate(corners[1], corners[3], n)
    return torch.stack([interpolate(a, b, n) for a, b in zip(left, right, strict=True)])


def four_corner_images(model: nn.Module, images: Sequence[Tensor], n: int) -> Tensor:
    """The decoded sheet between four images: their codes at the corners, a bilinear grid between.

    Args:
        model: a VAE (whose codes are posterior means) or an autoencoder.
        images: four images (C, H, W) of one size: top left, top right, bottom left, bottom right.
        n: images a side.

    Returns:
        (n, n, C, H, W), row by row from the top.

    Raises:
        ValueError: when there are not four, or their sizes differ.
    """
    images = list(images)
    shapes = [tuple(image.shape) for image in images]
    if len(images) != 4 or len(set(shapes)) > 1:
        raise ValueError(
            f"needs four corner images (C, H, W) of one size, got {len(images)} of shapes "
            f"{shapes}; crop or resize them to one."
        )
    return decode(model, four_corners(encode(model, torch.stack(images)), n))


def linear_grid(n: int, limit: float = 3.0) -> Tensor:
    """An evenly spaced (n, n, 2) grid over [-limit, limit] squared.

    Laid out as a picture: the first row has the largest z_2, the first column the smallest z_1.
    """
    axis = torch.linspace(-limit, limit, n)
    return _picture(axis)


def quantile_grid(n: int) -> Tensor:
    """An (n, n, 2) grid at evenly spaced quantiles of the standard normal.

    Coordinates are the inverse of the Gaussian's cumulative distribution at (i - 1/2) / n, as in
    figure 4 of Kingma & Welling (2013): every cell holds the same prior probability, so the
    picture shows images as often as the prior would draw them.
    """
    axis = torch.special.ndtri((torch.arange(n) + 0.5) / n)
    return _picture(axis)


def _picture(axis: Tensor) -> Tensor:
    if len(axis) < 2:
        raise ValueError("a grid needs at least 2 points a side")
    rows, columns = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def nearest_to_class_mean(codes: Tensor, labels: Tensor) -> Tensor:
    """For each class, in order, the index of the image whose code is nearest the class's mean."""
    found = []
    for label in labels.unique(sorted=True):
        members = (labels == label).nonzero().flatten()
        distance = (codes[members] - codes[members].mean(0)).square().sum(1)
        found.append(members[distance.argmin()])
    return torch.stack(found)


def pca(codes: Tensor, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Codes on their first principal components.

    Returns:
        (N, dimensions) coordinates, and the share of the variance on each component.
    """
    from sklearn.decomposition import PCA

    model = PCA(dimensions, svd_solver="full")
    return model.fit_transform(codes.numpy()), model.explained_variance_ratio_


def tsne(codes: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Codes in the plane by t-SNE (van der Maaten & Hinton 2008), started from PCA.

    Neighbours stay neighbours; sizes of clusters and distances between them mean nothing.

    Args:
        codes: (N, D); a few thousand at most, the time grows quickly.
        perplexity: roughly how many neighbours count.

    Returns:
        (N, 2).
    """
    from sklearn.manifold import TSNE

    if len(codes) <= perplexity:
        raise ValueError(f"needs more codes than the perplexity ({perplexity}), got {len(codes)}")
    return TSNE(
        2, perplexity=perplexity, init="pca", random_state=seed, method="barnes_hut", n_jobs=1
    ).fit_transform(codes.double().numpy())
