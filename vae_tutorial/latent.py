"""Walks through a latent space: encode, interpolate, lay out grids, embed in the plane."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vae_tutorial.data import check_images, to_float
from vae_tutorial.networks import device_of


def _batches(model: nn.Module, x: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Images or points as floats on the model's device, batch by batch."""
    if not (isinstance(x, Tensor) and x.ndim == 2):  # points (N, 2) may take any values
        check_images(x)
    return (to_float(part.to(device_of(model))) for part in x.split(batch_size))


@torch.no_grad()
def encode(model: nn.Module, x: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The codes (N, D) of images (N, C, H, W), bytes or floats, or of points (N, 2), on the CPU.

    A VAE answers with posterior means, a plain autoencoder with its codes. Images that
    :func:`~vae_tutorial.data.check_images` refuses raise its ValueError.
    """
    return torch.cat([model.encode(part).cpu() for part in _batches(model, x, batch_size)])


@torch.no_grad()
def encode_distribution(vae, x: Tensor, *, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """As :func:`encode`: posterior means and standard deviations, each (N, D), on the CPU."""
    posteriors = [vae.encoder(part) for part in _batches(vae, x, batch_size)]
    means, scales = ([getattr(q, key).cpu() for q in posteriors] for key in ("mean", "stddev"))
    return torch.cat(means), torch.cat(scales)


@torch.no_grad()
def decode(model: nn.Module, z: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The mean images (..., C, H, W) of latents (..., D), or points (..., 2), on the CPU."""
    parts = z.reshape(-1, z.shape[-1]).to(device_of(model)).split(batch_size)
    decoded = torch.cat([model.decode(part).cpu() for part in parts])
    return decoded.reshape(*z.shape[:-1], *decoded.shape[1:])


def interpolate(start: Tensor, end: Tensor, steps: int, *, spherical: bool = False) -> Tensor:
    """Points (steps, D) on the path from one code (D,) to another, both ends included.

    Linear: (1 - t) a + t b. Spherical: along the great arc, sin((1 - t) w) / sin(w) a +
    sin(t w) / sin(w) b with w the angle between a and b (Shoemake 1985; for latent spaces White
    2016); it keeps the length that samples of a high-dimensional Gaussian have. For parallel
    codes the arc is the line. Between opposite codes there is not one arc but many, and near
    them codes of different lengths make the path bulge.

    Raises:
        ValueError: for fewer than 2 steps, codes of other shapes, and, where the path is
            spherical, codes that are zero or opposite (an angle within 1e-6 of pi).
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2 (the two ends), got {steps}")
    if start.shape != end.shape or start.ndim != 1:
        raise ValueError(f"start and end must both be (D,), got {start.shape}, {end.shape}")
    dtype = torch.result_type(start, 1.0)  # whole numbers become floats
    t = torch.linspace(0, 1, steps, dtype=dtype, device=start.device).unsqueeze(1)  # (steps, 1)
    if spherical:
        a, b, t64 = start.double(), end.double(), t.double()
        if not (a.any() and b.any()):
            raise ValueError("a spherical interpolation needs codes that are not zero")
        u, v = a / a.norm(), b / b.norm()
        # Exact for small and large angles, too, where the arc cosine of u v has lost its digits.
        angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
        if float(angle) > torch.pi - 1e-6:
            raise ValueError("start and end are opposite: no arc is shortest; go by a third code")
        if float(angle) > 1e-6:
            path = torch.sin((1 - t64) * angle) * a + torch.sin(t64 * angle) * b
            return (path / torch.sin(angle)).to(dtype)
    return (1 - t) * start + t * end


def traverse(code: Tensor, dimension: int, values: Tensor) -> Tensor:
    """Copies (steps, D) of one code (D,), a dimension of which takes the values (steps,) in turn.

    >>> traverse(torch.tensor([5.0, 6.0, 7.0]), 1, torch.tensor([0.0, 1.0]))
    tensor([[5., 0., 7.],
            [5., 1., 7.]])
    """
    if code.ndim != 1 or not 0 <= dimension < len(code):
        raise ValueError(f"needs a code (D,), a dimension below D, got {code.shape}, {dimension}")
    codes = code.repeat(len(values), 1)  # (steps, D)
    codes[:, dimension] = values
    return codes


def four_corners(corners: Tensor, n: int) -> Tensor:
    """A bilinear grid (n, n, D), row by row from the top, between four codes (4, D).

    They are its corners: top left, top right, bottom left, bottom right.

    >>> four_corners(torch.tensor([[0], [2], [4], [10]]), 3)[..., 0]
    tensor([[ 0.,  1.,  2.],
            [ 2.,  4.,  6.],
            [ 4.,  7., 10.]])
    """
    if corners.ndim != 2 or len(corners) != 4:
        raise ValueError(f"corners must be (4, D), got {tuple(corners.shape)}")
    left, right = (interpolate(corners[i], corners[i + 2], n) for i in (0, 1))
    return torch.stack([interpolate(a, b, n) for a, b in zip(left, right, strict=True)])


def four_corner_images(model: nn.Module, images: Sequence[Tensor], n: int) -> Tensor:
    """The decoded images (n, n, C, H, W) of the grid between the codes of four images (C, H, W).

    They lie as in :func:`four_corners`. A ValueError where there are not four of one size.
    """
    shapes = [tuple(image.shape) for image in images]
    if len(images) != 4 or len(set(shapes)) > 1:
        raise ValueError(f"needs four images (C, H, W) of one size (crop or resize), got {shapes}")
    return decode(model, four_corners(encode(model, torch.stack([*images])), n))


def linear_grid(n: int, limit: float = 3.0) -> Tensor:
    """An evenly spaced (n, n, 2) grid over [-limit, limit] squared.

    Laid out as a picture: the first row has the largest z_2, the first column the smallest z_1.

    >>> linear_grid(2)[0]
    tensor([[-3.,  3.],
            [ 3.,  3.]])
    """
    return _picture(torch.linspace(-limit, limit, n))


def quantile_grid(n: int) -> Tensor:
    """An (n, n, 2) grid at evenly spaced quantiles of the standard normal.

    Coordinates are the inverse of the Gaussian's cumulative distribution at (i - 1/2) / n, as in
    figure 4 of Kingma & Welling (2013): every cell holds the same prior probability, so the
    picture shows images as often as the prior would draw them. Laid out as :func:`linear_grid`.
    """
    return _picture(torch.special.ndtri((torch.arange(n) + 0.5) / n))


def _picture(axis: Tensor) -> Tensor:
    if len(axis) < 2:
        raise ValueError("a grid needs at least 2 points per side")
    rows, columns = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def nearest_to_class_mean(codes: Tensor, labels: Tensor) -> Tensor:
    """For each class, in order, the index of the example whose code is nearest the class's mean.

    >>> codes = torch.tensor([[0.0], [1.0], [2.1], [50.0], [10.0], [11.0], [12.5]])
    >>> nearest_to_class_mean(codes, torch.tensor([3, 3, 3, 8, 5, 5, 5]))
    tensor([1, 5, 3])
    """
    classes = labels.unique()  # sorted
    means = torch.stack([codes[labels == k].mean(0) for k in classes])
    # Not by matrix products, whose rounding hides small distances between codes far from 0.
    distance = torch.cdist(means, codes, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.masked_fill(labels != classes[:, None], torch.inf).argmin(1)


def pca(codes: Tensor, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, D) on their first principal components, (N, dimensions), and each one's variance.

    The latter as a share of the whole, (dimensions,).
    """
    from sklearn.decomposition import PCA

    model = PCA(dimensions, svd_solver="full")
    return model.fit_transform(codes.detach().cpu().numpy()), model.explained_variance_ratio_


def tsne(codes: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Codes (N, D) in the plane, (N, 2), by t-SNE (van der Maaten & Hinton 2008), from PCA.

    Neighbours stay neighbours, roughly ``perplexity`` of them; sizes of clusters and distances
    between them mean nothing. For a few thousand codes at most: the time grows quickly.
    """
    from sklearn.manifold import TSNE

    if len(codes) <= perplexity:
        raise ValueError(f"needs more codes than the perplexity ({perplexity}), got {len(codes)}")
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    return model.fit_transform(codes.detach().cpu().double().numpy())
