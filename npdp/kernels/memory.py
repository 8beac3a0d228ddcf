"""Allocation of arrays that start on a cache line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 64


def allocate(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `count` zeros that start on a cache line."""
    memory = np.zeros(count * dtype.itemsize + LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + count * dtype.itemsize].view(dtype)
