"""Gathering and scaling of rows of bytes, by `csrc/bytes.c` through cffi.

Where the C code was not compiled, importing this raises ImportError. Cost: the bytes of the rows read, four times as
many written; 128 rows of 784 bytes take half of the time that NumPy's three passes do (docs/measurements.md).
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]

_pointer, _scaled_rows_f32 = ffi.from_buffer, lib.npdp_scaled_rows_f32
_BYTES, _ROWS, _FLOATS = ffi.typeof("uint8_t[]"), ffi.typeof("int64_t[]"), ffi.typeof("float[]")


def scaled_rows(raw: NDArray[np.uint8], rows: NDArray[np.int64], unit: float) -> NDArray[np.float32]:
    """Return raw[rows] / unit, each row flat, in float32; the same bits as NumPy's.

    Args:
        raw: (N, ...) C-contiguous bytes.
        rows: (n,) contiguous, in 0 .. N - 1: they are not looked at again.
        unit: not 0; rounded to float32.

    Returns:
        A fresh (n, D) array.
    """
    width = prod(raw.shape[1:])
    scaled: NDArray[np.float32] = np.empty((len(rows), width), np.float32)
    pointers = _pointer(_FLOATS, scaled), _pointer(_BYTES, raw), _pointer(_ROWS, rows)
    _scaled_rows_f32(*pointers, len(rows), width, unit)
    return scaled
