"""Tables of numbers that are no pictures: counts, measurements, yearly series. Chapter 22's data.

An example is a row of numbers. All three sets come with libraries, so no network is needed, and all
their divisions are drawn by NumPy, the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vae_tutorial.data.sources import Dataset, Split

RATES, MASKS = (10, 30, 50), 5  # percent that are missing, and how many masks of each
MISSING = {f"breast-cancer-{rate}-{i}": (rate, i) for rate in RATES for i in range(MASKS)}
WINDOW = 30  # years
STARTS = {"train": range(1960, 1963), "validation": range(1972, 1973), "test": range(1982, 1983)}
# Groups of countries among the World Bank's countries.
GROUPS = ("IFC classification", "income levels", "OECD members", "small states")


def tokens() -> pd.DataFrame:
    """How often words and signs of Python occur in 2,326 modules of nine libraries.

    Columns: ``library``, ``module``, ``tokens`` (of all kinds), then one for each word or sign. A
    stored count, made by ``tools/count_tokens.py``: the libraries themselves change.
    """
    return pd.read_csv(Path(__file__).parent / "tokens.csv.gz", keep_default_na=False)


def load_tokens() -> Dataset:
    """The counts as data: 148 counts of a module and, last, its exposure in thousands of tokens.

    Of 2,326 modules three in ten are for testing, one in ten is for validation. The classes are the
    libraries.
    """
    table = tokens()
    counts = table.iloc[:, 3:].to_numpy(np.float32)  # (N, 148)
    rows = np.column_stack([counts, (table.tokens / 1000).to_numpy(np.float32)])
    names = tuple(table["library"].unique())
    labels = torch.tensor([names.index(library) for library in table["library"]])
    return Dataset("python-tokens", *_divided(torch.from_numpy(rows), labels, 22), names)


def load_missing(rate: int, seed: int) -> Dataset:
    """scikit-learn's breast-cancer table (569, 30) with ``rate`` percent of its entries missing.

    An example is (2, 30): the entries, zero where they are missing; and ones and zeros that say
    which are known. Which rows are for training, and which entries are missing, is drawn from
    ``rate`` and ``seed``. Columns are in units of their own: see :func:`standardized`.
    """
    parts = _with_holes(rate, seed)
    values, seen = parts[0].examples.unbind(1)
    for i, split in enumerate(parts):
        x, known = split.examples.unbind(1)
        x = torch.where(known > 0, standardized(x, values, seen), 0)
        parts[i] = Split(torch.stack([x, known], 1).float(), split.labels)
    return Dataset(f"breast-cancer-{rate}-{seed}", *parts, ("malignant", "benign"))


def breast_cancer() -> tuple[Tensor, Tensor]:
    """The whole table, (569, 30), float64, in its own units, and the classes (569,)."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return torch.from_numpy(found.data), torch.from_numpy(found.target).long()


def standardized(x: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """Columns of x (B, D) minus their mean, over their standard deviation.

    Both are of the **known** entries among ``values`` (N, D), where ``known`` (N, D) is one: what is
    missing may not help.
    """
    n = known.sum(0)
    mean = (values * known).sum(0) / n
    scale = (((values - mean) ** 2 * known).sum(0) / n).sqrt()
    return (x - mean) / scale


def hidden_truth(rate: int, seed: int) -> Tensor:
    """The test rows of :func:`load_missing` with no entry missing, (B, 30), in the same units."""
    train, _, test = _with_holes(rate, seed)
    return standardized(test.examples[:, 0], *train.examples.unbind(1)).float()


def _with_holes(rate: int, seed: int) -> list[Split]:
    """The whole rows, and which of their entries are known: (N, 2, 30) for each split."""
    complete, labels = breast_cancer()
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((rate, seed))))
    known = torch.from_numpy(random.random(complete.shape) >= rate / 100)
    return _divided(torch.stack([complete, known.double()], 1), labels, seed)


def load_fertility() -> Dataset:
    """Births per woman in windows of 30 years, one row a country and start; from statsmodels.

    Training windows begin in 1960 to 1962 and end by 1991. The validation window is 1972 to 2001,
    the test window 1982 to 2011: their last ten years lie beyond all that training saw. Units: of
    two births, from four: (x - 4) / 2. The labels are the countries.
    """
    years = fertility()
    parts = []
    for starts in STARTS.values():
        cut = [years.loc[:, str(s) : str(s + WINDOW - 1)].to_numpy() for s in starts]
        x = torch.from_numpy((np.concatenate(cut) - 4) / 2).float()
        parts.append(Split(x, torch.arange(len(years)).repeat(len(starts))))
    return Dataset("fertility", *parts, tuple(years.index))


def fertility() -> pd.DataFrame:
    """Births per woman, a row a country, a column a year from 1960 to 2011; complete rows alone."""
    from statsmodels.datasets import fertility as source

    table = source.load_pandas().data.set_index("Country Name")
    years = table.loc[:, "1960":"2011"].dropna().astype(float)
    group = years.index.str.contains("|".join(GROUPS))
    return years[~group]


def _divided(x: Tensor, labels: Tensor, seed: int) -> list[Split]:
    """Six in ten for training, one in ten for validation, three in ten for testing."""
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(len(x)))
    ends = [round(0.6 * len(x)), round(0.7 * len(x))]
    return [Split(x[part], labels[part]) for part in order.tensor_split(ends)]
