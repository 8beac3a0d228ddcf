"""Checks of arrays of collectives and messages: contiguous, of four dtypes, in place; an error says wanted and got."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from npdp.base.arguments import whole
from npdp.comm.call import FORTRAN

Array = npt.NDArray[Any]

DTYPES = tuple(np.dtype(name) for name in ("float32", "float64", "int32", "int64"))
OPS = ("sum", "mean", "min", "max", "prod")
_NATIVE, _FOR_ALL = frozenset(DTYPES), ("sum", "min", "max", "prod")
_NUMBERS = {dtype.num for dtype in DTYPES} | {np.dtype(np.longlong).num, np.dtype(np.intc).num}


def checked(given: Any, op: str, writeable: bool = True) -> Array:
    """Return the array as a plain 1-D view, or say what is wrong with it."""
    array: Array = given if type(given) is np.ndarray else _plain(given)
    dtype, flags = array.dtype, array.flags
    if dtype in _NATIVE and op in _FOR_ALL and flags.carray and array.ndim == 1:
        return array  # most calls, in few words: a small collective takes a microsecond
    if dtype.num not in _NUMBERS or not dtype.isnative:
        raise TypeError(f"npdp takes float32, float64, int32 or int64, got {dtype}")
    if op not in OPS:
        hint = "; the average is 'mean'" if op in ("average", "avg") else ""
        raise ValueError(f"no op {op!r}; there are {', '.join(OPS)}{hint}")
    if op == "mean" and dtype.kind == "i":
        raise TypeError(f"the mean of {dtype} is no {dtype}: convert to float first, or take the sum")
    if not flags.forc:
        raise ValueError(f"npdp takes a contiguous array, got strides {array.strides} for shape {array.shape}")
    if not flags.aligned:
        raise ValueError("npdp takes an array that is aligned to its elements, got one that is not")
    if writeable and not flags.writeable:
        raise ValueError("npdp works in place, but this array is read-only")
    if array.ndim == 1:
        return array
    return array.reshape(-1) if flags.c_contiguous else array.T.reshape(-1)


def _plain(array: Any) -> Array:
    """Return what NumPy derives from its array as that, for parts and quotients of one may be something else."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"npdp takes a NumPy array, got {type(array).__name__}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("npdp takes a NumPy array, got a masked one, whose mask would stay behind: pass .data")
    return array.view(np.ndarray)


def order_of(array: Array, buffer: Array) -> str:
    """Return the order in which an array lies, as ranks compare it; `buffer` is its 1-D view, or itself."""
    return "C" if buffer is array or array.flags.c_contiguous else FORTRAN


def same_order(a: Array, b: Array) -> bool:
    """Return whether there is an order in memory, C's or Fortran's, in which both arrays lie."""
    return (a.flags.c_contiguous and b.flags.c_contiguous) or (a.flags.f_contiguous and b.flags.f_contiguous)


def extents_of(shape: int | Sequence[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the extents of an array that there can be, or say what is wrong with them."""
    wanted = "shared_empty: wanted a shape of whole numbers"
    extents = tuple(whole(extent, wanted) for extent in (shape if isinstance(shape, (tuple, list)) else [shape]))
    if any(extent < 0 for extent in extents):
        raise ValueError(f"shared_empty: wanted a shape without negative extents, got {extents}")
    nbytes = prod(extent or 1 for extent in extents) * dtype.itemsize
    if nbytes > sys.maxsize:
        raise ValueError(f"shared_empty: wanted at most {sys.maxsize} bytes, got shape {extents} of {dtype}: {nbytes}")
    return extents
