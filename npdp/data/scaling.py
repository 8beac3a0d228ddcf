"""Scaling of features as they are taken, and the moments that standardising needs.

    take(rows)  =  (raw[rows] / unit - mean) / deviation

Small data is scaled once, when loaded (`in_memory`). A memory map stays one, and many pixels stay bytes: each batch is
scaled when taken. Data larger than memory then needs no second copy, and gathering bytes moves a quarter of what
float32 moves. Bytes that are only divided are gathered, converted and divided in one pass of C, where there is a
compiler. All give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npdp import kernels
from npdp.data.datasets import Array, ArrayDataset, Rows, checked_rows, gather

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean and deviation, (D,) each

BLOCK_ELEMENTS = 2**18  # of a pass over all rows: 1 MB in float32, stays in the cache


class ScaledDataset(ArrayDataset):
    """Data set of some rows of a raw array, flat and scaled, computed when they are taken.

    Args:
        x: (N_raw, ...) raw features; flattened to (n, D) when taken; may be a `np.memmap`.
        y: (N, ...) labels or targets of the chosen rows.
        rows: (N,) the chosen rows of `x`; None for all. IndexError where one lies outside.
        dtype: float32 or float64, of the features given.
        unit: raw features are divided by it (255 for pixels).
        moments: mean and deviation, (D,) float64 each, of the features divided by `unit`; None to leave them so.
    """

    def __init__(self, x: Array, y: Array, *, rows: NDArray[np.intp] | None = None, dtype: DTypeLike = "float32",
                 unit: float = 1.0, moments: Moments | None = None) -> None:
        if rows is not None:
            checked_rows(rows, len(x))
        self._rows, self._dtype, self._unit, self._moments = rows, np.dtype(dtype), unit, moments
        super().__init__(x, y)
        only_divided = self._x.flags.c_contiguous and moments is None and self._dtype == np.float32
        self._is_pixels = only_divided and self._x.dtype == np.uint8

    @property
    def x(self) -> Array:
        """All features, (N, D), computed anew: as large as the data, so prefer `take` where that matters."""
        return self._features(slice(None))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample's features, (D,)."""
        return (int(np.prod(self._x.shape[1:])),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the features that `take` returns."""
        return self._dtype

    def in_memory(self) -> ArrayDataset:
        """Scale all rows once.

        Returns:
            An equal dataset that holds its features; the raw array itself where there is nothing to change.
        """
        if self._rows is None and self._moments is None and self._unit == 1 and self._x.dtype == self._dtype:
            return ArrayDataset(np.ascontiguousarray(self._x).reshape(len(self), -1), self._y)
        x = np.empty((len(self), *self.sample_shape), self._dtype)  # (N, D)
        for block in self.blocks():
            x[block] = self._features(block)
        return ArrayDataset(x, self._y)

    def blocks(self) -> Iterator[slice]:
        """Yield slices that cover all rows once, of a size that stays in the cache."""
        length = max(1, BLOCK_ELEMENTS // max(1, self.sample_shape[0]))
        for start in range(0, len(self), length):
            yield slice(start, min(start + length, len(self)))

    def _row_count(self) -> int:
        return len(self._x) if self._rows is None else len(self._rows)

    def _features(self, rows: Rows) -> Array:
        if self._rows is not None:
            rows = self._rows[rows]
        if self._is_pixels and isinstance(rows, np.ndarray) and kernels.backend() == "c":
            from npdp.kernels.rows import scaled_rows  # there is one where there is a compiler

            return scaled_rows(self._x, np.ascontiguousarray(rows, np.int64), self._unit)
        raw = gather(self._x, rows)
        raw = raw.reshape(len(raw), self.sample_shape[0])  # (n, D)
        if self._moments is not None:  # float64 in between: a mean far from zero must not cost digits
            mean, deviation = self._moments
            return ((raw / self._unit - mean) / deviation).astype(self._dtype)
        features = raw.astype(self._dtype, copy=False)  # (n, D)
        if self._unit != 1:
            features /= self._unit
        return features


def moments(dataset: ScaledDataset) -> Moments:
    """Compute mean and standard deviation (of the population) of each feature, in two passes over blocks of rows.

    Sums are taken of the distance to the first row: precise far from zero, and exactly 0 for a constant feature,
    whose deviation is then taken as 1.

    Args:
        dataset: N >= 1 samples of D features, dtype float64.

    Returns:
        Mean and deviation, (D,) float64 each.
    """
    origin = dataset.take(slice(0, 1))[0][0]  # (D,)
    offset = np.zeros_like(origin)
    for block in dataset.blocks():
        offset += (dataset.take(block)[0] - origin).sum(axis=0)
    offset /= len(dataset)
    squares = np.zeros_like(origin)
    for block in dataset.blocks():
        squares += ((dataset.take(block)[0] - origin - offset) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / len(dataset))
    deviation[deviation == 0] = 1.0
    return origin + offset, deviation
