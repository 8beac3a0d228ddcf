"""Products of sparse rows and a dense table: with scipy where it is installed, else with NumPy alone.

scipy's loops go over the entries once, in order; NumPy gathers a row of the table for each entry first, which takes
about three times as long. Both add up in float32 or float64 as given; their last bits may differ.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from npdp.autograd.sparse_rows import SparseRows
from npdp.autograd.tensor import Array
from npdp.kernels import layers as kernels


@cache
def _csr_array() -> Any:
    """Return scipy's class of CSR arrays, None where scipy (the extra `npdp[sparse]`) is not installed."""
    try:
        from scipy.sparse import csr_array
    except ImportError:
        return None
    return csr_array


def times(x: SparseRows, indices: Array, table: Array) -> Array:
    """Return the product of x and the rows of a table that it meets; (n, width).

    Args:
        x: (n, columns).
        indices: (entries,) int32, the row of the table for each entry.
        table: (count, width), the rows for the columns that x has entries in.
    """
    if _csr_array() is not None:
        return _matrix(x, indices, len(table)) @ table
    terms = table.take(indices, axis=0)
    terms *= x.values[:, None]
    return _sums(terms, x.indptr, len(x))


def transposed_times(x: SparseRows, indices: Array, count: int, g: Array) -> Array:
    """Return x.T @ g where it is not zero: for `count` columns, each entry's given by `indices`; g (n, width)."""
    if _csr_array() is not None:
        return _matrix(x, indices, count).T @ g
    order = np.argsort(indices, kind="stable")
    terms = g.take(x.row_numbers().take(order), axis=0)
    terms *= x.values.take(order)[:, None]
    ends = np.cumsum(np.bincount(indices, minlength=count))
    return _sums(terms, np.concatenate([[0], ends]), count)


def sums_of_rows(g: Array, indices: Array, count: int) -> Array:
    """Return for each of `count` indices the sum of the rows of `g` that have it; g (n, width) -> (count, width)."""
    sums = np.zeros((count, g.shape[1]), g.dtype)
    kernels.add_rows(sums, indices, g)
    return sums


def _matrix(x: SparseRows, indices: Array, columns: int) -> Any:
    indptr = x.indptr.astype(indices.dtype)  # scipy wants both of one dtype, and would look for it
    return _csr_array()((x.values, indices, indptr), shape=(len(x), columns))


def _sums(terms: Array, bounds: Array, count: int) -> Array:
    """Return the sum of terms[bounds[i] : bounds[i + 1]] for each i; of none it is zero."""
    sums = np.zeros((count, *terms.shape[1:]), terms.dtype)
    filled = bounds[1:] > bounds[:-1]  # reduceat would give an empty stretch its first neighbour
    if filled.any():
        sums[filled] = np.add.reduceat(terms, bounds[:-1][filled], axis=0)
    return sums
