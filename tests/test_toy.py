"""Data of two dimensions: as they are described, and the optima that are known for them."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from vae_tutorial import data
from vae_tutorial.data import toy


@pytest.mark.parametrize("name", toy.NAMES)
def test_a_toy_set_is_points_from_three_draws(name):
    found = toy.load(name, train=500, test=700)
    assert found.example_shape == toy.POINT
    assert [len(split) for split in found.splits] == [500, 50, 700]
    together = torch.cat([split.examples for split in found.splits])
    assert together.dtype == torch.float32
    assert len(together.unique(dim=0)) == len(together)  # no point is in two parts
    other = toy.load(name, train=500, test=700, seed=1).train.examples
    assert not torch.isin(other, together).all()


def test_a_toy_set_is_known_by_its_recipe():
    known = {
        toy.load(name, train=train, test=test, seed=seed).sha256
        for name in ("ring", "mixture")
        for train, test, seed in ((20, 30, 0), (21, 30, 0), (20, 31, 0), (20, 30, 1))
    }
    assert len(known) == 8
    assert data.load("ring").sha256 == toy.load("ring").sha256 not in known


@pytest.mark.parametrize(("name", "covariance"), [
    ("gaussian", [[25, 0], [0, 1]]), ("gaussian-rotated", [[13, 12], [12, 13]]),
])  # fmt: skip
def test_the_gaussians_have_the_moments_and_the_entropy_that_they_say(name, covariance):
    points = toy.draw(name, 200_000, seed=0)
    np.testing.assert_allclose(points.T.double().cov(), covariance, atol=0.25)
    np.testing.assert_allclose(points.double().mean(0), [0, 0], atol=0.03)
    expected = scipy.stats.multivariate_normal(cov=covariance)
    assert toy.entropy(name) == pytest.approx(expected.entropy(), abs=1e-5)
    assert toy.entropy(name) == pytest.approx(4.447, abs=5e-4)
    density = toy.log_density(name, points[:9])
    np.testing.assert_allclose(density, expected.logpdf(points[:9]), rtol=1e-5)


@pytest.mark.parametrize(("name", "radius"), [("mixture", 0.5), ("ring", 1)])
def test_a_density_adds_up_to_one_and_is_the_one_drawn_from(name, radius):
    axis = torch.linspace(-7, 7, 700).double()  # without the middle, where the ring's is infinite
    grid = torch.cartesian_prod(axis, axis)
    mass = toy.log_density(name, grid).exp() * float(axis[1] - axis[0]) ** 2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    points = toy.draw(name, 200_000, seed=3).double()
    middle = torch.tensor([4.0, 0.0])
    for inside in (lambda x: x[:, 1] > 0, lambda x: (x - middle).norm(dim=1) < radius):
        share = float(inside(points).double().mean())
        assert share == pytest.approx(float(mass[inside(grid)].sum()), abs=0.0025)


def test_ring_and_pinwheel_have_their_shapes():
    ring = toy.draw("ring", 50_000, seed=2).norm(dim=1)
    assert torch.std_mean(ring) == pytest.approx((0.3, 4), abs=0.01)
    points = toy.draw("pinwheel", 50_000, seed=2)
    turn = 2 * math.pi / 5  # the same after a fifth of a turn
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    edges = [np.linspace(-8, 8, 17)] * 2
    before, after = (np.histogram2d(*x.numpy(), edges)[0] for x in (points.T, rotation @ points.T))
    assert np.abs(before - after).sum() < 0.1 * len(points)
    assert toy.distribution("pinwheel") is toy.distribution("ring") is None
    assert toy.log_density("pinwheel", points) is None


def test_bad_names_and_sizes_are_named():
    with pytest.raises(ValueError, match="known are gaussian"):
        toy.draw("spiral", 3, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        toy.draw("ring", 0, seed=0)
    with pytest.raises(ValueError, match="no closed form"):
        toy.entropy("ring")
