"""Row-sparse gradients, most of whose rows are zero, and a finder of the rows that a batch touches.

    rows    [  2      7      9  ]      sorted, each once
    values  [[..], [..], [..]  ]       the gradient there; it is zero everywhere else

A batch of texts touches some thousand rows of a weight with a million: backward, the exchange over the ranks and the
update then cost what those rows cost, whatever the size of the weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.autograd.tensor import Array

Rows = NDArray[np.int64]


class RowGradient:
    """Row-sparse gradient: `values` at `rows`, zero in all other rows.

    Args:
        rows: (k,) int64, sorted, each once; kept, not copied.
        values: (k, ...); kept, not copied.
        shape: of the gradient, (N, ...).
    """

    __slots__ = ("rows", "shape", "values")
    __array_ufunc__ = None  # array + gradient asks the gradient

    def __init__(self, rows: Rows, values: Array, shape: tuple[int, ...]) -> None:
        if values.shape != (*rows.shape, *shape[1:]):
            raise ValueError(f"RowGradient of shape {shape}: got {rows.shape} rows and values of shape {values.shape}")
        self.rows, self.values, self.shape = rows, values, shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.values.dtype

    def astype(self, dtype: Any) -> RowGradient:
        """Return the gradient in this dtype; itself where it has it already."""
        if self.values.dtype == dtype:
            return self
        return RowGradient(self.rows, self.values.astype(dtype), self.shape)

    def copy(self) -> RowGradient:
        """Return a gradient with values of its own."""
        return RowGradient(self.rows, self.values.copy(), self.shape)

    def dense(self) -> Array:
        """Return the gradient as an array of the full shape."""
        array = np.zeros(self.shape, self.dtype)
        array[self.rows] = self.values
        return array

    def __add__(self, other: RowGradient | Array) -> Any:
        """Return the sum: of two of them by rows; with an array, which has all rows, an array."""
        if not isinstance(other, RowGradient):
            return self.dense() + other
        if other.shape != self.shape:
            raise ValueError(f"RowGradients of shapes {self.shape} and {other.shape} do not add up")
        rows = np.union1d(self.rows, other.rows)
        values = np.zeros((len(rows), *self.shape[1:]), np.result_type(self.values, other.values))
        values[np.searchsorted(rows, self.rows)] = self.values
        values[np.searchsorted(rows, other.rows)] += other.values
        return RowGradient(rows, values, self.shape)

    def __radd__(self, other: Array) -> Array:
        return other + self.dense()

    def added_to(self, gradient: RowGradient | Array) -> Any:
        """Return the sum with what a leaf has: of an array it is that array, whose other rows are not touched."""
        if isinstance(gradient, RowGradient):
            return gradient + self
        gradient[self.rows] += self.values
        return gradient

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.dense().astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"RowGradient({len(self.rows)} rows of shape {self.shape}, {self.dtype})"


def no_rows(shape: tuple[int, ...], dtype: Any) -> RowGradient:
    """Return a gradient that is zero everywhere."""
    return RowGradient(np.empty(0, np.int64), np.empty((0, *shape[1:]), dtype), shape)


class Distinct:
    """Finder of distinct numbers among many in 0 .. count - 1, and of each one's place among them, without a sort.

    Each number has a slot. All entries write their index into their number's slot, and one of them is the last: it
    stands for the number. Slots need not be cleared, for none is read that was not written before.

    Cost: three walks over the entries, and a sort of the distinct ones: a third of `np.unique` with `return_inverse`.

    Args:
        count: of numbers; memory for 4 bytes each is taken, and touched where numbers occur.
    """

    def __init__(self, count: int) -> None:
        self._slots = np.empty(count, np.int32)

    def __call__(self, numbers: Array) -> tuple[Rows, NDArray[np.int32]]:
        """Return the distinct numbers, sorted; and for each entry the index of its number among them.

        Args:
            numbers: (entries,) integers in range.
        """
        numbers = numbers.astype(np.int64, copy=False)
        indices = np.arange(len(numbers), dtype=np.int32)
        self._slots[numbers] = indices
        last = np.flatnonzero(self._slots.take(numbers) == indices)  # quicker than numbers[mask]: it does not branch
        distinct = numbers.take(last)
        distinct.sort()
        self._slots[distinct] = indices[: len(distinct)]
        return distinct, self._slots.take(numbers)
