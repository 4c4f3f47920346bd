"""Mini-batches: tuples of tensors, cut from data that stays in one piece on the device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from vae_tutorial.data import Split

Data: TypeAlias = "Tensor | tuple[Tensor, ...] | Split | Iterable"


class Batches:
    """A data set as batches, in order or shuffled.

    Tensors are moved to the device once; a batch is then one indexing operation, without any
    Python work per example, which is what a plain ``DataLoader`` spends most of its time on. A
    loader is taken as it is, batch by batch.

    Args:
        data: a tensor (N, ...), a tuple of tensors of one length N, a
            :class:`~vae_tutorial.data.Split` (its examples alone), or an iterable of batches with
            a length, such as a ``DataLoader``.
        batch_size: examples per batch. A last batch of a single example joins the one before: batch
            normalization has nothing to say about one example.
        device: where batches are needed.

    Raises:
        ValueError: for data that are none of these, empty, of different lengths, or not finite.

    Example:
        >>> x, y = torch.arange(7.0), torch.arange(7)
        >>> [len(x) for x, y in Batches((x, y), batch_size=3)]
        [3, 4]
    """

    def __init__(self, data: Data, batch_size: int, device: torch.device | str = "cpu") -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device, self.loader = torch.device(device), None
        data = data.examples if isinstance(data, Split) else data
        data = (data,) if isinstance(data, Tensor) else data
        if not isinstance(data, tuple):
            if not (hasattr(data, "__len__") and hasattr(data, "__iter__")) or not len(data):
                raise ValueError(_needed(data))
            self.loader, self.count = data, len(data)
            return
        _check_tensors(data)
        lengths = {len(part) if part.ndim else 0 for part in data}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "the tensors of a batch need one length, and at least one example; got "
                f"{', '.join(str(tuple(part.shape)) for part in data) or 'an empty tuple'}"
            )
        if not all(bool(part.isfinite().all()) for part in data if part.is_floating_point()):
            raise ValueError("some values of the data are NaN or infinite; remove them")
        n = len(data[0])
        self.tensors = tuple(part.to(self.device) for part in data)
        self.batch_size, self.count = batch_size, math.ceil(n / batch_size)
        if n % batch_size == 1 and self.count > 1:
            self.count -= 1

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """In order."""
        return self._from_loader() if self.loader is not None else self._cut(None)

    def shuffled(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """In an order that depends on the seed alone. (A loader brings an order of its own.)"""
        if self.loader is not None:
            return self._from_loader()
        # Drawn on the CPU, so that the order is the same on every device.
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.tensors[0]), generator=generator)
        return self._cut(order.to(self.device))

    def fingerprint(self) -> str:
        """What a checkpoint knows its data by: a checksum of tensors, a loader's length."""
        if self.loader is not None:
            return f"a loader of {self.count} batches"
        digest = hashlib.sha256()
        for part in self.tensors:
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().numpy())
        return digest.hexdigest()

    def _cut(self, order: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
        for i in range(self.count):
            last = None if i + 1 == self.count else (i + 1) * self.batch_size
            where = slice(i * self.batch_size, last)
            where = where if order is None else order[where]
            yield tuple(part[where] for part in self.tensors)

    def _from_loader(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.loader:
            parts = batch if isinstance(batch, tuple | list) else (batch,)
            _check_tensors(parts)
            yield tuple(part.to(self.device, non_blocking=True) for part in parts)


def _check_tensors(parts: tuple | list) -> None:
    for part in parts:
        if not isinstance(part, Tensor):
            raise ValueError(_needed(part))


def _needed(given: object) -> str:
    return (
        "data must be a tensor (N, ...), a tuple of tensors, or a DataLoader of either with a length "
        f"that is not zero, got {type(given).__name__}; use torch.as_tensor(...) for arrays"
    )


def as_tuple(batch: Tensor | tuple | list) -> tuple:
    """What a ``prepare`` function answered with: a lone tensor is a batch of one part."""
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)
