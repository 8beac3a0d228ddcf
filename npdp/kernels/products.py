"""Products of two matrices, by the quickest of npdp's own kernels, BLAS, and BLAS in small blocks.

    float32, large enough, one BLAS thread, laid as csrc/gemm/ takes it      gemm.py, the first kind that is for it
    a @ b.T of a narrow b (`trans_b`), more than BLAS is quick at            BLAS, in blocks of rows
    all others                                                               BLAS

Each adds up in an order of its own, so results agree up to rounding. Blocks are for `trans_b` alone, a layer's forward.
Measured: docs/measurements.md.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp import kernels
from npdp.base import environment

Array = NDArray[Any]

NARROW = 16  # outputs: up to here a layer's weight lies in memory as (out, in), above as (in, out)
SMALL_PRODUCT = 2**19  # multiply-adds up to which OpenBLAS is sure to take its quicker kernel for small matrices


def matmul(a: Array, b: Array, out: Array | None = None, *, trans_b: bool = False) -> Array:
    """Return a @ b; with `trans_b`, as BLAS names it, a @ b.T.

    Args:
        a: (m, k), of any order in memory.
        b: (k, n) or, with `trans_b`, (n, k), likewise.
        out: (m, n), C-contiguous, of the result's dtype, apart from a and b; the result, made anew where None.

    Raises:
        ValueError: shapes do not fit each other, or `out` is not what NumPy's `dot` takes.
    """
    own, least_work = _own_dot()
    if trans_b:
        b = b.T
    work = a.size * b.shape[1]
    if work >= least_work:
        product = own(a, b, out)
        if product is not None:
            return product
    if trans_b and work > SMALL_PRODUCT and b.shape[1] <= NARROW:
        return _in_blocks(a, b, out)
    return np.dot(a, b, out)


@cache
def _own_dot() -> tuple[Callable[..., Array | None], float]:
    """Return npdp's own product, and from how many multiply-adds on it may be quicker than BLAS.

    On several threads, and on some processors, BLAS always is.
    """
    if kernels.backend() == "numpy" or environment.blas_threads_in_use() > 1:
        return np.dot, inf
    from npdp.kernels import gemm  # there is one where there is a compiler

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    kinds = gemm.quicker() if "openblas" in blas else []
    return partial(gemm.dot, kinds), min((tiles.least_work for tiles in kinds), default=inf)


def _in_blocks(a: Array, b: Array, out: Array | None) -> Array:
    """Return a @ b, made of products of some rows each, so small that BLAS is quick at them."""
    products = -(-len(a) * b.size // SMALL_PRODUCT)
    y = np.empty((len(a), b.shape[1]), np.result_type(a, b)) if out is None else out
    length = -(-len(a) // products)
    for start in range(0, len(a), length):
        np.dot(a[start : start + length], b, out=y[start : start + length])
    return y
