"""Precision and recall by balls, against loops in NumPy and cases that are known."""

import numpy as np
import pytest
import torch

from vae_tutorial.coverage import inside, neighbour_radii, precision_recall


def by_loops(real, drawn, k):
    def covered(points, centres):
        hits = []
        radii = [np.sort(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
        for p in points:
            distances = np.linalg.norm(centres - p, axis=1)
            hits.append(any(d <= r for d, r in zip(distances, radii, strict=True)))
        return np.mean(hits)

    return covered(drawn, real), covered(real, drawn)


@pytest.mark.parametrize("k", [1, 3])
def test_as_loops_over_all_pairs_find(k):
    random = np.random.default_rng(0)
    real, drawn = random.normal(size=(60, 3)), 0.7 * random.normal(size=(45, 3)) + 0.4
    found = precision_recall(torch.tensor(real), torch.tensor(drawn), k=k)
    precision, recall = by_loops(real, drawn, k)
    assert (float(found["precision"]), float(found["recall"])) == pytest.approx((precision, recall))
    for p, n, estimate in ((precision, 45, found["precision"]), (recall, 60, found["recall"])):
        assert estimate.standard_error == pytest.approx(np.sqrt(p * (1 - p) / n))


def test_one_good_spot_is_precise_and_recalls_little():
    random = torch.Generator().manual_seed(0)
    real = torch.randn(400, 2, generator=random)
    spot = 0.05 * torch.randn(400, 2, generator=random)
    wide = 5 * torch.randn(400, 2, generator=random)
    one, other = precision_recall(real, spot), precision_recall(real, wide)
    assert float(one["precision"]) > 0.9
    assert float(one["recall"]) < 0.2
    assert float(other["precision"]) < 0.4
    assert float(other["recall"]) > 0.8
    same = precision_recall(real, real)
    assert float(same["precision"]) == float(same["recall"]) == 1


def test_radii_skip_the_point_itself_and_parts_change_nothing():
    points = torch.arange(2500.0)[:, None]
    radii = neighbour_radii(points, 2)
    assert radii[0] == 2
    assert (radii[1:-1] == 1).all()
    assert radii[-1] == 2
    assert inside(torch.tensor([[-2.0], [-2.5], [2500.9]]), points, radii).tolist() == [
        True,
        False,
        True,
    ]


def test_bad_input_is_named():
    real = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="one network"):
        precision_recall(real, torch.zeros(5, 3))
    with pytest.raises(ValueError, match="k from 1"):
        precision_recall(real, torch.zeros(3, 2), k=3)
    with pytest.raises(ValueError, match="k from 1"):
        neighbour_radii(real, 0)
