"""Datasets made of tensors and of other datasets, as PyTorch has them.

    TensorDataset(x, y)                 ArrayDataset whose samples are tensors
    Subset(dataset, [4, 0])             rows 4 and 0
    ConcatDataset([a, b])               the rows of a, then those of b
    random_split(dataset, [0.8, 0.2])   two subsets that share no row
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import floor, isclose
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array, result
from npdp.base import random
from npdp.base.errors import InputError
from npdp.data.datasets import ArrayDataset
from npdp.data.rows import gives_batches, take_rows


class TensorDataset(ArrayDataset):
    """Data set of two tensors with a row per sample: inputs and labels.

    Args:
        tensors: two, (N, ...) and (N, ...); arrays will do.

    Raises:
        InputError: there are not two, or of other lengths.
    """

    def __init__(self, *tensors: Any) -> None:
        if len(tensors) != 2:
            raise InputError(f"TensorDataset: expected two tensors, inputs and labels, got {len(tensors)}")
        super().__init__(*(np.asarray(tensor) for tensor in tensors))
        self.tensors = tuple(result(array) for array in (self.x, self.y))

    def __getitem__(self, row: Any) -> Any:
        """Return the input and the label of a row, or those of a slice, as tensors."""
        return tuple(tensor[row] for tensor in self.tensors)

    take = ArrayDataset.take  # beside a `__getitem__` of its own the loader takes rows one by one


class _Rows:
    """Data set whose rows are found in others."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self._sources = [(dataset, gives_batches(dataset)) for dataset in datasets]

    def __len__(self) -> int:
        raise NotImplementedError

    def _place(self, row: int) -> tuple[int, int]:
        """Return the number of the dataset that has a row, and the row's number there."""
        raise NotImplementedError

    def __getitem__(self, row: int) -> Any:
        source, there = self._place(range(len(self))[row])
        return self._sources[source][0][there]

    def take(self, rows: Any) -> tuple[Array, Array]:
        """Return the samples of some rows, stacked, in their order."""
        places = [self._place(int(row)) for row in rows] or [self._place(0)]
        parts, order = [], []
        for number, (dataset, whole) in enumerate(self._sources):
            mine = [i for i, (source, _) in enumerate(places) if source == number]
            if mine:
                parts.append(take_rows(dataset, np.array([places[i][1] for i in mine]), whole))
                order += mine
        back = np.argsort(order)[: len(rows)]
        return np.concatenate([x for x, _ in parts])[back], np.concatenate([y for _, y in parts])[back]


class Subset(_Rows):
    """Data set of some rows of another.

    Args:
        dataset: anything that a DataLoader takes.
        indices: the rows, in order.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        super().__init__([dataset])
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def _place(self, row: int) -> tuple[int, int]:
        return 0, int(self.indices[row])


class ConcatDataset(_Rows):
    """Data set of several, one after the other."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        super().__init__(self.datasets)
        self.cumulative_sizes = np.cumsum([len(dataset) for dataset in self.datasets]).tolist()

    def __len__(self) -> int:
        return int(self.cumulative_sizes[-1])

    def _place(self, row: int) -> tuple[int, int]:
        source = int(np.searchsorted(self.cumulative_sizes, row, side="right"))
        return source, row - (self.cumulative_sizes[source - 1] if source else 0)


def random_split(dataset: Any, lengths: Sequence[float], generator: Any = None) -> list[Subset]:
    """Split a dataset into subsets that share no row and have all.

    Args:
        dataset: anything that a DataLoader takes.
        lengths: numbers of rows, or fractions that add up to 1; what these leave over goes to the first ones.
        generator: draws the order; this rank's (`npdp.manual_seed`) where None, which is the same on every rank.

    Raises:
        ValueError: the lengths do not add up.
    """
    counts: list[Any] = list(lengths)
    if isclose(sum(counts), 1) and all(0 <= part <= 1 for part in counts):
        counts = [floor(len(dataset) * part) for part in counts]
        for number in range(len(dataset) - sum(counts)):
            counts[number % len(counts)] += 1
    if sum(counts) != len(dataset):
        raise ValueError(f"random_split: wanted lengths that add up to {len(dataset)}, got {list(lengths)}")
    rng = random.default_generator() if generator is None else getattr(generator, "numpy", generator)
    order, ends = rng.permutation(len(dataset)).tolist(), np.cumsum([0, *counts]).tolist()
    return [Subset(dataset, order[start:stop]) for start, stop in pairwise(ends)]
