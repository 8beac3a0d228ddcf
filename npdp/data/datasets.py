"""Datasets: samples that can be counted and taken by row number.

    x   (N, ...)  features           take([4, 0, 4])  ->  x[[4, 0, 4]], y[[4, 0, 4]]   fresh copies
    y   (N, ...)  labels or targets

`x` may be a memory map, so that the data can be larger than memory: only the rows taken are read.
"""

from __future__ import annotations

import hashlib
import zlib
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdp.base.errors import InputError

Array = NDArray[Any]
Rows: TypeAlias = "NDArray[np.integer[Any]] | slice"

HASHED_WHOLE_BYTES = 16 * 2**20  # up to here a fingerprint reads every byte (about 20 ms)
SAMPLED_ROWS = 1024  # rows that a fingerprint reads of a larger array
SAMPLED_LABELS = 1024  # numbers that a checksum reads


class ArrayDataset:
    """Data set of features and labels in two arrays with the same first dimension.

    Args:
        x: (N, ...) features, any dtype; kept, not copied; may be a `np.memmap`.
        y: (N, ...) labels or targets; kept, not copied.

    Raises:
        InputError: the first dimensions differ, or there is none.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike) -> None:
        self._x: Array = np.asarray(x)
        self._y: Array = np.asarray(y)
        if not self._x.ndim or not self._y.ndim:
            raise InputError(f"dataset: expected arrays with a row per sample, got shapes {np.shape(x)}, {np.shape(y)}")
        if not self._row_count() == len(self._y):
            raise InputError(f"dataset: expected as many labels as samples, got {self._row_count()} rows in x "
                             f"and {len(self._y)} in y")

    @property
    def x(self) -> Array:
        """The features, (N, ...), a view."""
        return self._x

    @property
    def y(self) -> Array:
        """The labels or targets, (N, ...), a view."""
        return self._y

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample's features."""
        return self._x.shape[1:]

    @property
    def elements_per_sample(self) -> int:
        """Approximate count of numbers in memory per sample, by which blocks of samples are measured."""
        return int(np.prod(self.sample_shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the features that `take` returns."""
        return self._x.dtype

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, row: int | slice) -> tuple[Array, Array]:
        if isinstance(row, slice):
            return self.take(row)
        x, y = self.take(np.array([row]))
        return x[0], y[0]

    def take(self, rows: Rows) -> tuple[Array, Array]:
        """Copy the samples of the given rows, in the given order.

        Args:
            rows: (n,) integers in 0..N-1, repeats allowed, or a slice.

        Returns:
            Two fresh C-contiguous arrays: (n, ...) features and (n, ...) labels.

        Raises:
            IndexError: a row lies outside 0..N-1.
        """
        rows = checked_rows(rows, len(self))
        return self._features(rows), gather(self._y, rows)

    def fingerprint(self) -> str:
        """Hash shapes, dtypes and contents, to compare the data of several ranks.

        Of an array above 16 MB only 1024 evenly spaced rows, first and last among them, are read: cheap for data
        larger than memory, but a difference between those rows is not seen.

        Returns:
            32 hexadecimal digits.
        """
        digest = hashlib.blake2b(digest_size=16)
        shape = (len(self), *self.sample_shape)
        digest.update(f"{shape} {self.dtype.str} {self._y.shape} {self._y.dtype.str}".encode())
        digest.update(self._features(sampled(shape, self.dtype)).data)
        digest.update(gather(self._y, sampled(self._y.shape, self._y.dtype)).data)
        return digest.hexdigest()

    def labels_checksum(self) -> int:
        """Return a number that differs where labels do, as those of a shard and of the whole; some microseconds.

        Of labels that are no whole numbers it is 0: another processor may have computed another last bit. Evenly spaced
        rows, first and last among them, are read of more than 1024 labels.
        """
        if self._y.dtype.kind not in "biuf":
            return 0
        a_row = max(1, int(np.prod(self._y.shape[1:])))
        labels = gather(self._y, evenly_spaced(len(self), max(2, SAMPLED_LABELS // a_row)))
        with np.errstate(invalid="ignore"):  # NaN and infinity are no whole numbers
            numbers = labels.astype(np.int64)
        return zlib.crc32(numbers.data) if np.array_equal(numbers, labels) else 0

    def _row_count(self) -> int:
        return len(self._x)

    def _features(self, rows: Rows) -> Array:
        return gather(self._x, rows)


def gather(array: Array, rows: Rows) -> Array:
    """Copy rows of an array; they must lie inside it.

    Args:
        array: (N, ...), any layout.
        rows: (n,) integers in 0..N-1 (anything else is clipped), or a slice.

    Returns:
        A fresh C-contiguous (n, ...) array.
    """
    if isinstance(rows, slice):
        return np.array(array[rows], order="C")
    return array.take(rows, axis=0, mode="clip")


def checked_rows(rows: Rows, count: int) -> Rows:
    """Return row numbers as contiguous intp, or the slice; IndexError where one lies outside 0..count-1."""
    if isinstance(rows, slice):
        return rows
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise IndexError(f"rows: expected one dimension of integers, got {rows.dtype} of shape {rows.shape}")
    rows = np.ascontiguousarray(rows, dtype=np.intp)
    # Seen as unsigned, a negative row is a huge one: one pass finds both ends.
    if rows.size and rows.view(np.uintp).max() >= count:
        wrong = rows[(rows < 0) | (rows >= count)][0]
        raise IndexError(f"row {wrong}: expected 0 to {count - 1}, the rows of this dataset")
    return rows


def sampled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Rows:
    """Return the rows that a fingerprint reads: all; of much data some, evenly spaced, first and last among them."""
    nbytes = dtype.itemsize * prod(shape)
    return slice(None) if nbytes <= HASHED_WHOLE_BYTES else evenly_spaced(shape[0], SAMPLED_ROWS)


def evenly_spaced(count: int, most: int) -> Rows:
    """Return all of so many rows; of more than `most`, that many, evenly spaced, first and last among them."""
    return slice(None) if count <= most else np.linspace(0, count - 1, most).astype(np.intp)
