"""Sparse data sets, most of whose features are zero: `ArrayDataset` for compressed rows.

    dataset.take([4, 0, 4])  ->  SparseRows of three samples, their labels
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npdp.autograd.sparse_rows import SparseRows
from npdp.base.errors import InputError
from npdp.data.datasets import Array, ArrayDataset, Rows, checked_rows, gather, sampled


class SparseDataset(ArrayDataset):
    """Data set of sparse features and labels: `ArrayDataset`'s interface, with `SparseRows` in place of arrays.

    Args:
        x: (N, D) `SparseRows`, a CSR matrix of scipy's, or (indptr, indices, values, D); kept, not copied.
        y: (N, ...) labels or targets; kept, not copied.

    Raises:
        InputError: the arrays do not fit together, or there are not as many labels as samples.
    """

    def __init__(self, x: Any, y: ArrayLike) -> None:
        self._x: SparseRows = _rows_of(x)  # type: ignore[assignment]
        self._y: Array = np.asarray(y)
        if not self._y.ndim or len(self._y) != len(self._x):
            raise InputError(f"dataset: expected as many labels as samples, got {len(self._x)} rows in x "
                             f"and labels of shape {self._y.shape}")  # fmt: skip

    @property
    def x(self) -> SparseRows:  # type: ignore[override]
        """The features, (N, D)."""
        return self._x

    @property
    def elements_per_sample(self) -> int:
        """Approximate count of numbers in memory per sample: an index and a value for each entry."""
        return 2 * len(self._x.values) // max(1, len(self)) + 1

    def __getitem__(self, row: int) -> tuple[SparseRows, Array]:  # type: ignore[override]
        x, y = self.take(np.array([row]))
        return x, y[0]

    def take(self, rows: Rows) -> tuple[SparseRows, Array]:  # type: ignore[override]
        """Copy the samples of the given rows, in the given order; see `ArrayDataset.take`."""
        rows = checked_rows(rows, len(self))
        return self._x.take(rows), gather(self._y, rows)

    def fingerprint(self) -> str:
        """Hash shapes, dtypes and contents, to compare the data of several ranks; see `ArrayDataset.fingerprint`.

        Returns:
            32 hexadecimal digits.
        """
        digest = hashlib.blake2b(digest_size=16)
        sizes = f"{self._x.shape} {len(self._x.values)} {self.dtype.str} {self._y.shape} {self._y.dtype.str}"
        digest.update(sizes.encode())
        x = self._x.take(sampled((len(self), self.elements_per_sample), self.dtype))
        for array in (x.indptr, x.indices, x.values):
            digest.update(np.ascontiguousarray(array).data)
        digest.update(gather(self._y, sampled(self._y.shape, self._y.dtype)).data)
        return digest.hexdigest()


def _rows_of(x: Any) -> SparseRows:
    try:
        if isinstance(x, tuple):
            indptr, indices, values, features = x
            return SparseRows(indptr, indices, values, (len(indptr) - 1, features))
        return SparseRows.of(x)
    except (TypeError, ValueError) as error:
        raise InputError(f"dataset: {error}") from None
