"""Tables: what is in them, what is missing, and that nobody looks at what is hidden."""

import numpy as np
import pandas as pd
import pytest
import torch

from vae_tutorial import data
from vae_tutorial.data import tables


def test_counts_are_whole_and_fewer_than_the_tokens():
    d, table = data.load("python-tokens"), tables.tokens()
    assert list(map(len, d.splits)) == [1396, 232, 698]
    assert len(table) == 2326 == len(set(zip(table["library"], table.module, strict=True)))
    rows = torch.cat([split.examples for split in d.splits])
    counts, exposure = rows[:, :-1], rows[:, -1]
    assert torch.equal(counts, counts.round())
    assert bool((counts >= 0).all())
    assert bool((counts.sum(1) <= 1000 * exposure + 0.01).all())
    assert set(np.round(1000 * exposure.double().numpy())) == set(table.tokens)
    labels = torch.cat([split.labels for split in d.splits])
    expected = table["library"].value_counts()
    assert [int((labels == i).sum()) for i in range(9)] == [expected[c] for c in d.classes]
    assert (table.groupby("library")[["self", "def", "STRING"]].sum() > 0).all(axis=None)


@pytest.mark.parametrize(("rate", "seed"), [(10, 0), (50, 3)])
def test_entries_are_missing_at_their_rate_and_standardized_by_what_is_known(rate, seed):
    d = data.load(f"breast-cancer-{rate}-{seed}")
    assert list(map(len, d.splits)) == [341, 57, 171]
    known = torch.cat([split.examples[:, 1] for split in d.splits])
    assert set(known.unique().tolist()) == {0.0, 1.0}
    assert float(1 - known.mean()) == pytest.approx(rate / 100, abs=0.015)
    x, m = d.train.examples.double().unbind(1)
    assert bool((x[m == 0] == 0).all())
    n = m.sum(0)
    torch.testing.assert_close((x * m).sum(0) / n, torch.zeros(30).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close((x**2 * m).sum(0) / n, torch.ones(30).double(), atol=1e-4, rtol=0)
    truth, (y, seen) = tables.hidden_truth(rate, seed), d.test.examples.unbind(1)
    assert torch.equal((truth * seen).float(), y)
    whole = tables.breast_cancer()[0]
    for column in (0, 29):  # the truth is the table's, in other units
        near = np.corrcoef(np.sort(truth[:, column]), np.sort(whole[:, column])[::3][:171])[0, 1]
        assert near > 0.9
    assert not torch.equal(seen, data.load("breast-cancer-10-1").test.examples[:, 1])


def test_windows_of_births_end_where_the_forecast_begins():
    pytest.importorskip("statsmodels")
    d, years = data.load("fertility"), tables.fertility()
    assert years.shape == (len(d.classes), 52)
    assert not years.isna().any().any()
    assert not any("OECD" in name or "small states" in name for name in d.classes)
    assert [len(split) // len(years) for split in d.splits] == [3, 1, 1]
    row = list(d.classes).index("France")
    for split, start in ((d.train, 1960), (d.validation, 1972), (d.test, 1982)):
        expected = (years.loc["France", str(start) : str(start + 29)].to_numpy() - 4) / 2
        np.testing.assert_allclose(split.examples[row], expected, rtol=1e-5)
        assert split.labels[row] == row
    assert isinstance(years, pd.DataFrame)
    # What is forecast, from 1992 for validation, lies beyond the last training window.
    assert tables.STARTS["train"][-1] + tables.WINDOW <= 1992
