"""Products of float32 matrices by `csrc/matmul.c`, through cffi.

Where the C code was not compiled, importing this raises ImportError. On one thread, and on Intel's processors with
AVX-512, a layer's product takes 0.6 to 1 of OpenBLAS's time (docs/measurements.md). Sums are made in another order than
BLAS makes them in: results agree up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]

Array = NDArray[Any]

ROWS, COLUMNS = 8, 32  # of a tile: what is smaller is not made of tiles
LEAST_WORK = 1 << 22  # multiply-adds: from there on it is quicker
MOST_WORK = 1.4  # of what the result needs, where tiles overlap
LARGEST = 1 << 19  # numbers in the first factor of a plain product: beyond, the result is walked through too often
DEEPEST = 4096  # of a product with a transposed weight: what is copied stays in the cache
_FLOAT32 = np.dtype(np.float32)
_NUMBERS = ffi.typeof("float[]")
_pointer = ffi.from_buffer


def possible() -> bool:
    """Say whether this processor can do it."""
    return bool(lib.npdp_products() != lib.NPDP_NO_PRODUCTS)


def quick() -> bool:
    """Say whether this processor is known to be quicker this way than with OpenBLAS."""
    return bool(lib.npdp_products() == lib.NPDP_QUICK_PRODUCTS)


def dot(a: Array, b: Array, out: Array | None = None, least_work: int = LEAST_WORK) -> Array | None:
    """Return the product of two matrices as `np.dot` does; None, having done nothing, where it is not for this kernel.

    That is a small product, and one of other dtypes or of arrays that are neither rows nor columns side by side.

    Args:
        a: (m, k); b: (k, n).
        out: (m, n), C-contiguous, apart from a and b; the result, made anew where None.
        least_work: m n k from which on it is for this kernel.
    """
    m, depth = a.shape
    n = b.shape[1]
    if m * n * depth < max(1, least_work) or a.dtype != _FLOAT32 or b.dtype != _FLOAT32 or len(b) != depth:
        return None
    a_flags, b_flags = a.flags, b.flags
    if a_flags.c_contiguous and b_flags.c_contiguous and _fits(m, n) and a.size <= LARGEST:
        function, first, second, sizes = lib.npdp_times_f32, a, b, (m, depth, n)
    elif a_flags.c_contiguous and b_flags.f_contiguous and _fits(n, m) and depth <= DEEPEST:
        function, first, second, sizes = lib.npdp_times_transposed_f32, a, b.T, (m, n, depth)
    elif a_flags.f_contiguous and b_flags.c_contiguous and _fits(m, n):
        function, first, second, sizes = lib.npdp_transposed_times_f32, a.T, b, (depth, m, n)
    else:
        return None
    if out is None:
        out = np.empty((m, n), np.float32)
    elif out.shape != (m, n) or out.dtype != _FLOAT32 or not out.flags.carray:
        return None
    pointers = _pointer(_NUMBERS, first), _pointer(_NUMBERS, second), _pointer(_NUMBERS, out)
    return None if function(*pointers, *sizes) else out


def _fits(rows: int, columns: int) -> bool:
    """Say whether a result is made of whole tiles for the most part; what these have twice is computed for nothing."""
    tiles = -(-rows // ROWS) * -(-columns // COLUMNS)
    return rows >= ROWS and columns >= COLUMNS and tiles * ROWS * COLUMNS <= MOST_WORK * rows * columns
