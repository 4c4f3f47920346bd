"""Walks through latent space, against closed forms, scikit-learn's neighbours, SciPy and NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import random_images, tiny_vae
from torch import nn
from torch.distributions import Normal

from vae_tutorial import latent
from vae_tutorial.latent import four_corners, interpolate, pca, tsne

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMAGES = random_images(7, (1, 3, 2))
POINTS = 9 * torch.randn(7, 2, generator=torch.Generator().manual_seed(0))


class Doubles(nn.Module):
    """Codes are twice what is read, in batches of at most 3; q is N(x, 1 + |x|)."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Parameter(torch.tensor(2.0, device=DEVICE))

    def encode(self, x):
        assert x.device.type == DEVICE
        assert len(x) <= 3
        return self.two * x

    decode = encode

    def encoder(self, x):
        return Normal(self.encode(x) / 2, 1 + x.abs())


@pytest.mark.parametrize("x", [IMAGES, (255 * IMAGES).byte(), POINTS], ids=lambda x: str(x.dtype))
def test_everything_is_encoded_in_batches_without_a_gradient(x):
    read = x / 255 if x.dtype == torch.uint8 else x
    codes = latent.encode(Doubles(), x, batch_size=3)
    torch.testing.assert_close(codes, 2 * read)
    assert not codes.requires_grad
    found = latent.encode_distribution(Doubles(), x, batch_size=3)
    torch.testing.assert_close(found, (read, 1 + read.abs()))


def test_decode_keeps_the_leading_axes():
    for z in (POINTS[0], POINTS, POINTS[:6].reshape(2, 3, 2).requires_grad_()):
        images = latent.decode(Doubles(), z, batch_size=3)
        torch.testing.assert_close(images, 2 * z.detach())
        assert not images.requires_grad


@given(st.integers(0, 10_000), st.integers(2, 9))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_interpolations(seed, steps):
    a, b = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)).double()
    b = b * a.norm() / b.norm()
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    line, arc = interpolate(a, b, steps), interpolate(a, b, steps, spherical=True)
    for path in (line, arc):
        torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(line, a + t[:, None] * (b - a))
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(steps))
    angles = torch.arccos((arc @ a / a.norm() ** 2).clamp(-1, 1))
    torch.testing.assert_close(angles, t * angles[-1], atol=1e-6, rtol=0)  # evenly along the arc


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-5, 1e-3, math.pi - 1e-3, math.pi - 1e-5])
def test_spherical_interpolation_is_exact_in_float32_for_small_and_large_angles(angle):
    # The cosine of these is 1 or -1 to six digits: an arc cosine would lose the angle.
    a, b = torch.tensor([[3.0, 0.0], [3 * math.cos(angle), 3 * math.sin(angle)]])
    arc = interpolate(a, b, 5, spherical=True)
    assert arc.dtype == torch.float32
    t = np.linspace(0, 1, 5)
    expected = 3 * np.stack([np.cos(t * angle), np.sin(t * angle)], 1)
    # What rounding changes in a length of 3 is that much larger where the ends are near-opposite.
    np.testing.assert_allclose(arc, expected, atol=1e-6 + 1e-7 / (math.pi - angle))


def test_a_sheet_between_four_images_is_that_between_their_codes():
    vae, x = tiny_vae(spread=2.0), random_images(4)
    sheet = latent.four_corner_images(vae, x, 5)
    torch.testing.assert_close(sheet, vae.decode(four_corners(vae.encode(x), 5)).detach())
    torch.testing.assert_close(sheet[[0, 0, -1, -1], [0, -1, 0, -1]], vae.reconstruct(x))


def test_grids_are_laid_out_as_pictures():
    grids = {latent.linear_grid(7, 2.0): np.linspace(-2, 2, 7)}
    grids[latent.quantile_grid(7)] = stats.norm.ppf((np.arange(7) + 0.5) / 7)
    for grid, axis in grids.items():
        columns, rows = np.meshgrid(axis, axis[::-1])  # z_1 grows to the right, z_2 upwards
        np.testing.assert_allclose(grid.numpy(), np.stack([columns, rows], -1), atol=1e-5)


def test_the_nearest_to_a_class_mean_far_from_zero():
    codes = 1000 + torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    found = latent.nearest_to_class_mean(codes, torch.arange(300) % 2)
    for k in (0, 1):
        distance = (codes.double() - codes[k::2].double().mean(0)).norm(dim=1)
        assert distance[found[k]] == pytest.approx(float(distance[k::2].min()), abs=1e-3)
        assert found[k] % 2 == k


def test_pca_is_the_singular_value_decomposition():
    codes = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 5)
    coordinates, shares = pca(codes.clone().to(DEVICE).requires_grad_())
    centred = codes.numpy() - codes.numpy().mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(centred @ vt[:2].T), atol=1e-4)
    np.testing.assert_allclose(shares, (s**2 / (s**2).sum())[:2], rtol=1e-4)


def test_tsne_keeps_neighbours_and_repeats_itself():
    codes = torch.randn(45, 5, generator=torch.Generator().manual_seed(0))
    codes += 50 * (torch.arange(45) % 3)[:, None]  # three clusters
    codes, state = codes.to(DEVICE).requires_grad_(), torch.get_rng_state()
    flat = tsne(codes, perplexity=5.0, seed=3)
    assert np.array_equal(flat, tsne(codes, perplexity=5.0, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    nearest = np.linalg.norm(flat[:, None] - flat + 1e9 * np.eye(45)[..., None], axis=-1).argmin(1)
    assert flat.shape == (45, 2)
    assert (nearest % 3 == np.arange(45) % 3).all()


@pytest.mark.parametrize(("call", "word"), [
    (lambda: latent.encode(Doubles(), 255 * IMAGES), "divide"),
    (lambda: latent.encode(Doubles(), POINTS.numpy()), "tensor"),
    (lambda: interpolate(torch.zeros(2), torch.zeros(2), 1), "steps"),
    (lambda: interpolate(torch.zeros(2), torch.zeros(3), 4), "both"),
    (lambda: interpolate(torch.zeros(2), torch.ones(2), 4, spherical=True), "zero"),
    (lambda: interpolate(POINTS[0], -0.3 * POINTS[0], 4, spherical=True), "opposite"),
    (lambda: latent.traverse(torch.zeros(3), 3, torch.ones(2)), "dimension"),
    (lambda: latent.traverse(torch.zeros(3), -1, torch.ones(2)), "dimension"),
    (lambda: four_corners(torch.zeros(3, 2), 4), "corners"),
    (lambda: latent.four_corner_images(Doubles(), IMAGES[:3], 5), "four images"),
    (lambda: latent.four_corner_images(Doubles(), [*IMAGES[:3], IMAGES[0, :, :2]], 5), "one size"),
    (lambda: latent.linear_grid(1), "points"),
    (lambda: tsne(torch.zeros(5, 2)), "perplexity"),
])  # fmt: skip
def test_misuse_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
