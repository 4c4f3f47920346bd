"""Data of two dimensions: as they are described, and the optima that are known for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from vae_tutorial import data, toy


@pytest.mark.parametrize("name", toy.NAMES)
def test_a_toy_set_is_points_from_three_draws(name):
    found = toy.load(name, train=500, test=700)
    assert found.image_shape == toy.POINT
    assert (len(found.train), len(found.validation), len(found.test)) == (500, 50, 700)
    parts = [split.images.flatten(1) for split in (found.train, found.validation, found.test)]
    together = torch.cat(parts)
    assert len(together.unique(dim=0)) == len(together)  # no point is in two parts
    assert found.sha256 == toy.load(name, train=500, test=700).sha256
    assert found.sha256 != toy.load(name, train=500, test=700, seed=1).sha256
    data.check_images(found.train.images)


def test_the_gaussians_have_the_moments_that_they_say():
    straight, rotated = (toy.draw(name, 200_000, seed=0).double() for name in toy.GAUSSIANS)
    np.testing.assert_allclose(straight.T.cov(), [[25, 0], [0, 1]], atol=0.25)
    np.testing.assert_allclose(rotated.T.cov(), [[13, 12], [12, 13]], atol=0.2)
    # 45 degrees: the standard deviations along the diagonals are 5 and 1.
    diagonals = rotated @ torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double() / math.sqrt(2)
    np.testing.assert_allclose(diagonals.std(0), [5, 1], rtol=0.01)


@pytest.mark.parametrize("name", toy.GAUSSIANS)
def test_the_entropy_is_scipys(name):
    covariance = toy.distribution(name).covariance_matrix.numpy()
    expected = scipy.stats.multivariate_normal(cov=covariance).entropy()
    assert toy.entropy(name) == pytest.approx(expected, abs=1e-5)
    assert toy.entropy(name) == pytest.approx(4.447, abs=5e-4)
    points = toy.draw(name, 100_000, seed=7)
    measured = -toy.distribution(name).log_prob(points).mean()
    assert float(measured) == pytest.approx(expected, abs=0.015)


def test_the_mixture_is_drawn_from_its_density():
    axis = torch.linspace(-7, 7, 701)
    grid = torch.cartesian_prod(axis, axis)
    density = toy.distribution("mixture").log_prob(grid).exp()
    cell = float(axis[1] - axis[0]) ** 2
    assert float(density.sum() * cell) == pytest.approx(1, abs=1e-3)
    points = toy.draw("mixture", 100_000, seed=1)
    right_half = float(density[grid[:, 0] > 0].sum() * cell)
    assert float((points[:, 0] > 0).float().mean()) == pytest.approx(right_half, abs=0.01)
    inside = (grid - torch.tensor([4.0, 0.0])).norm(dim=1) < 0.5
    share = ((points - torch.tensor([4.0, 0.0])).norm(dim=1) < 0.5).float().mean()
    assert float(share) == pytest.approx(float(density[inside].sum() * cell), abs=0.005)


def test_ring_and_pinwheel_have_their_shapes():
    ring = toy.draw("ring", 50_000, seed=2).norm(dim=1)
    assert float(ring.mean()) == pytest.approx(4, abs=0.01)
    assert float(ring.std()) == pytest.approx(0.3, abs=0.01)
    points = toy.draw("pinwheel", 50_000, seed=2)
    turn = 2 * math.pi / 5  # the same after a fifth of a turn
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    edges = [np.linspace(-8, 8, 17)] * 2
    before = np.histogram2d(*points.T.numpy(), bins=edges)[0] / len(points)
    after = np.histogram2d(*(points @ rotation.T).T.numpy(), bins=edges)[0] / len(points)
    assert np.abs(before - after).sum() < 0.1
    assert toy.distribution("pinwheel") is toy.distribution("ring") is None


def test_the_rings_density_adds_up_to_one_and_is_the_one_drawn_from():
    axis = torch.linspace(-7, 7, 1401).double()
    grid = torch.cartesian_prod(axis, axis)
    density = toy.log_density("ring", grid).exp().nan_to_num(0)
    cell = float(axis[1] - axis[0]) ** 2
    assert float(density.sum() * cell) == pytest.approx(1, abs=1e-3)
    inside = (grid - torch.tensor([4.0, 0.0])).norm(dim=1) < 1
    points = toy.draw("ring", 200_000, seed=3).double()
    share = ((points - torch.tensor([4.0, 0.0])).norm(dim=1) < 1).double().mean()
    assert float(share) == pytest.approx(float(density[inside].sum() * cell), abs=0.003)
    assert toy.log_density("pinwheel", grid[:3]) is None
    for name in ("mixture", *toy.GAUSSIANS):
        x = toy.draw(name, 5, seed=0)
        assert torch.equal(toy.log_density(name, x), toy.distribution(name).log_prob(x))


def test_bad_names_and_sizes_are_named():
    with pytest.raises(ValueError, match="unknown toy data 'spiral'; known are gaussian"):
        toy.draw("spiral", 3, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        toy.draw("ring", 0, seed=0)
    with pytest.raises(ValueError, match="no closed form"):
        toy.entropy("ring")
    with pytest.raises(ValueError, match="not finite"):
        data.check_images(torch.full((2, 2, 1, 1), math.nan))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        data.check_images(torch.full((2, 2, 1, 2), 3.0))  # no point: an image
