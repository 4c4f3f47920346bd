"""Batches: every form of data, cut, shuffled, told apart, refused."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from vae_tutorial.batches import Batches, as_tuple
from vae_tutorial.data import Split

X = torch.arange(33.0).reshape(11, 3) * 100 - 50  # any range
Y, CODES = torch.arange(11), torch.arange(44).reshape(11, 2, 2)


def test_tensors_are_cut_in_order_or_shuffled_all_parts_alike():
    parts = (CODES, X, Y)
    batches = Batches(parts, 4)
    assert [len(batch[0]) for batch in batches] == [4, 4, 3]
    for part, *found in zip(parts, *batches, strict=True):
        assert torch.equal(torch.cat(found), part)
        assert found[0].dtype == part.dtype
    one, again, other = (
        [torch.cat(found) for found in zip(*batches.shuffled(seed), strict=True)]
        for seed in (0, 0, 1)
    )
    rows = [int((parts[0] == row).flatten(1).all(1).nonzero()) for row in one[0]]
    assert sorted(rows) == list(range(11)) != rows
    for part, a, b, c in zip(parts, one, again, other, strict=True):
        assert torch.equal(a, part[rows])  # the parts of an example stay together
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(10, 5, [5, 5]), (11, 5, [5, 6]), (12, 5, [5, 5, 2]), (1, 5, [1]), (3, 1, [1, 1, 1]), (6, 5, [6])],
)  # fmt: skip
def test_no_last_batch_of_one_where_another_can_take_it(n, size, sizes):
    batches = Batches(torch.rand(n, 2), size)
    assert [len(x) for (x,) in batches] == [len(x) for (x,) in batches.shuffled(0)] == sizes
    assert len(batches) == len(sizes)


def test_a_loader_is_taken_as_it_is():
    for loader in (DataLoader(TensorDataset(X, Y), batch_size=4), [X[:4], X[4:8], X[8:]]):
        batches = Batches(loader, 2)
        assert [len(batch[0]) for batch in batches.shuffled(5)] == [4, 4, 3]
        assert torch.equal(torch.cat([batch[0] for batch in batches]), X)
        assert len(batches) == 3
        assert "3 batches" in batches.fingerprint()
    assert as_tuple(X) == (X,)
    assert as_tuple([X, Y]) == (X, Y)


def test_fingerprints_tell_data_apart():
    alike = [X, X.clone(), (X,), Split(X, Y), X.T.contiguous().T]
    other = [X.flip(0), X.double(), X.reshape(11, 1, 3), (X, Y), (X, Y.flip(0)), X[:10], CODES]
    found = [Batches(data, 4).fingerprint() for data in alike + other]
    assert len(set(found[: len(alike)])) == 1
    assert len(set(found)) == 1 + len(other)


@pytest.mark.parametrize(
    ("data", "match"),
    [(X.numpy(), "as_tensor"), ((X, Y.numpy()), "as_tensor"), ((X, None), "as_tensor"), ([[0.1]], "as_tensor"),
     (3, "tensor"), (iter([X]), "length"), ([], "zero"), ((), "at least one"), (X[:0], "at least one"),
     (torch.tensor(1.0), "at least one"), ((X, Y[:5]), "one length"), (X.where(X < 0, torch.nan), "NaN"),
     ((Y, X.where(X < 0, torch.inf)), "infinite")],
)  # fmt: skip
def test_what_is_no_data_is_refused(data, match):
    with pytest.raises(ValueError, match=match):
        list(Batches(data, 4))
    with pytest.raises(ValueError, match="batch_size"):
        Batches(X, 0)
