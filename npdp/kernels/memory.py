"""Memory of arrays: on a cache line where it lasts, and used again where it comes and goes.

A step of training makes the same activations and gradients as the step before. glibc's malloc maps an array of more
than 128 KiB anew each time and gives it back when it is freed, so that every page of it (4 KiB) is fetched, and filled
with zeros, in every step:

                              glibc's default        told to keep memory
    freed array               back to the system     in malloc's lists, for the next of its size
    page faults, warm step    one every 4 KiB        none

It stays NumPy's memory in all else: an array that something refers to keeps its values. NumPy asks for huge pages for
arrays of 4 MiB and more (`madvise`), in these places too. What a process has fetched it then keeps to its end; so it is
told at the first backward, when data have been loaded and what that took has been given back. Measured:
docs/measurements.md.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 64

LARGEST_KEPT_BYTES = 2**28  # larger arrays are mapped and given back: a free place of this size is rarely used again
HEAP_BYTES = 2**26  # what a thread's malloc maps at a time; with as much of `TOP_PAD` it gives none back
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
NEVER = -1


@cache
def keep_freed() -> bool:
    """Tell malloc, once, to keep freed memory for the arrays to come; return whether it was told.

    It is for the whole process. It is not told where the user has told it something himself (`MALLOC_TRIM_THRESHOLD_`
    and the like, `GLIBC_TUNABLES`), nor where the C library is another than glibc. A thread's arrays of more than
    64 MiB are mapped all the same: glibc has no larger room for threads.

    Source: mallopt(3); glibc's malloc/arena.c, `heap_trim`.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(
        mallopt(setting, value) == 1
        for setting, value in (
            (M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES),
            (M_TRIM_THRESHOLD, NEVER),
            (M_TOP_PAD, HEAP_BYTES),
        )
    )


def allocate(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `count` zeros that start on a cache line."""
    memory = np.zeros(count * dtype.itemsize + LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + count * dtype.itemsize].view(dtype)
