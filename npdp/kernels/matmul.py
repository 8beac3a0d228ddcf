"""Products of float32 matrices by `csrc/matmul.c`, through cffi.

Where the C code was not compiled, importing this raises ImportError. On one thread, and on Intel's processors with
AVX-512, a product takes 0.7 to 0.95 of OpenBLAS's time. Sums are made in another order than BLAS makes them in: results
agree up to rounding, and a row's does not depend on the rows beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]

Array = NDArray[Any]

ROWS, COLUMNS = 8, 32  # of a tile: what is smaller is not made of tiles
LEAST_WORK = 1 << 22  # multiply-adds: from there on it is quicker
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
        out: (m, n), C-contiguous; the result, made anew where None.
        least_work: m n k from which on it is for this kernel.
    """
    m, depth = a.shape
    n = b.shape[1]
    if m * n * depth < least_work or a.dtype != _FLOAT32 or b.dtype != _FLOAT32 or len(b) != depth:
        return None
    a_flags, b_flags = a.flags, b.flags
    if a_flags.c_contiguous and b_flags.c_contiguous and m >= ROWS and n >= COLUMNS:
        function, first, second, sizes = lib.npdp_times_f32, a, b, (m, depth, n)
    elif a_flags.c_contiguous and b_flags.f_contiguous and m >= COLUMNS and n >= ROWS:
        function, first, second, sizes = lib.npdp_times_transposed_f32, a, b.T, (m, n, depth)
    elif a_flags.f_contiguous and b_flags.c_contiguous and m >= ROWS and n >= COLUMNS:
        function, first, second, sizes = lib.npdp_transposed_times_f32, a.T, b, (depth, m, n)
    else:
        return None
    if out is None:
        out = np.empty((m, n), np.float32)
    elif out.shape != (m, n) or out.dtype != _FLOAT32 or not out.flags.carray:
        return None
    pointers = _pointer(_NUMBERS, first), _pointer(_NUMBERS, second), _pointer(_NUMBERS, out)
    return None if function(*pointers, *sizes) else out
