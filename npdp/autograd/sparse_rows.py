"""Sparse matrix in compressed rows (CSR): a batch of samples most of whose features are zero.

    indptr   [0       2    3          6]     sample i has entries indptr[i] .. indptr[i + 1]
    indices  [4   90  17   3   4   51  ]     feature of each entry, from 0
    values   [.5  .5  1.   .2  .1  .9  ]     its value
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.autograd.tensor import Array


class SparseRows:
    """Sparse matrix in compressed rows.

    Args:
        indptr: (n + 1,) integers: where each row's entries begin, and where the last one's end.
        indices: (entries,) integers, the column of each entry; kept as int32 where the columns fit, else int64.
        values: (entries,) numbers; kept, not copied.
        shape: (n, columns).

    Raises:
        ValueError: the arrays do not fit together, or a column lies outside the shape.
    """

    __slots__ = ("indices", "indptr", "shape", "values")

    indptr: NDArray[np.int64]
    indices: Array
    values: Array
    shape: tuple[int, int]

    def __init__(self, indptr: Any, indices: Any, values: Any, shape: tuple[int, int]) -> None:
        self.indptr, self.indices, self.values = np.asarray(indptr, np.int64), np.asarray(indices), np.asarray(values)
        self.shape = int(shape[0]), int(shape[1])
        self._check()
        narrow = np.int32 if self.shape[1] <= 2**31 else np.int64
        self.indices = self.indices.astype(narrow, copy=False)

    @classmethod
    def of(cls, matrix: Any) -> SparseRows:
        """Return a CSR matrix or array of scipy's as SparseRows on the same arrays; SparseRows as they are.

        Raises:
            TypeError: it is neither.
        """
        if isinstance(matrix, cls):
            return matrix
        if getattr(matrix, "format", None) != "csr":
            raise TypeError(f"wanted SparseRows or a CSR matrix of scipy.sparse, got {type(matrix).__name__}")
        return cls(matrix.indptr, matrix.indices, matrix.data, matrix.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def astype(self, dtype: Any) -> SparseRows:
        """Return the rows with values of this dtype."""
        return unchecked(self.indptr, self.indices, self.values.astype(dtype, copy=False), self.shape)

    def take(self, rows: NDArray[np.integer[Any]] | slice) -> SparseRows:
        """Copy rows, in the given order; they must lie inside."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        starts = self.indptr.take(rows)
        lengths = self.indptr.take(rows + 1) - starts
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        entries = np.repeat(starts - indptr[:-1], lengths)  # of these rows, by number
        entries += np.arange(indptr[-1])
        shape = (len(rows), self.shape[1])
        return unchecked(indptr, self.indices.take(entries), self.values.take(entries), shape)

    def dense(self) -> Array:
        """Return the table, (n, columns); entries of the same row and column add up."""
        table = np.zeros(self.shape, self.dtype)
        np.add.at(table, (self.row_numbers(), self.indices), self.values)
        return table

    def row_numbers(self) -> NDArray[np.int64]:
        """Return the row of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def __repr__(self) -> str:
        return f"SparseRows({self.shape[0]} x {self.shape[1]}, {len(self.values)} entries, {self.dtype})"

    def _check(self) -> None:
        indptr, indices, (count, columns) = self.indptr, self.indices, self.shape
        if count < 0 or columns < 0:
            raise ValueError(f"SparseRows: wanted a shape without negative extents, got {self.shape}")
        if indptr.shape != (count + 1,) or indptr[0] != 0 or np.any(np.diff(indptr) < 0):
            raise ValueError(f"SparseRows: indptr must rise from 0 in {count + 1} steps, got shape {indptr.shape}, "
                             f"from {indptr[:1]} to {indptr[-1:]}")  # fmt: skip
        if not indices.shape == self.values.shape == (int(indptr[-1]),):
            raise ValueError(f"SparseRows: indptr ends at {indptr[-1]}, but there are {indices.shape} indices "
                             f"and {self.values.shape} values")  # fmt: skip
        if indices.dtype.kind not in "iu" and indices.size:
            raise ValueError(f"SparseRows: indices must be integers, got {indices.dtype}")
        if indices.size and (indices.min() < 0 or indices.max() >= columns):
            wrong = int(np.flatnonzero((indices < 0) | (indices >= columns))[0])
            row = int(np.searchsorted(indptr, wrong, side="right")) - 1
            raise ValueError(f"SparseRows: row {row} has the index {indices[wrong]}, wanted 0 to {columns - 1}")


def unchecked(indptr: NDArray[np.int64], indices: Array, values: Array, shape: tuple[int, int]) -> SparseRows:
    """Return rows on arrays that are known to fit together: the quick way in."""
    rows: SparseRows = object.__new__(SparseRows)
    rows.indptr, rows.indices, rows.values, rows.shape = indptr, indices, values, shape
    return rows
