"""Checks of the kernels' arrays: they fit each other, or an error says wanted and got.

Every call passes here, so `check` is short: three tests per array (0.3 microseconds for two). What does not pass them
at once is looked at again, slowly, by `_refuse`, which finds the fault and its words, or that there is none.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = {np.dtype(name): name for name in ("float32", "float64")}
NUMBERS = FLOATS | {np.dtype(name): name for name in ("int32", "int64")}


class Arguments(NamedTuple):
    """The array arguments of a function, by name; the last `only_read` of them are not written."""

    function: str
    dtypes: dict[np.dtype[Any], str]
    names: tuple[str, ...]
    only_read: int = 1


def check(arguments: Arguments, *arrays: Array) -> None:
    """Refuse arrays that are not 1-D, contiguous, aligned and alike in dtype and count, the written ones writeable.

    Raises:
        TypeError: An argument is no array, or its dtype is not one of the function's.
        ValueError: Anything else that does not fit.
    """
    try:
        dtype, shape = arrays[0].dtype, arrays[0].shape
        fits = dtype in arguments.dtypes and len(shape) == 1
        for array in arrays:
            if array.dtype is not dtype or array.shape != shape or not array.flags.carray:
                fits = False
    except AttributeError:
        fits = False
    if not fits:
        _refuse(arguments, arrays)


def _refuse(arguments: Arguments, arrays: tuple[Array, ...]) -> None:
    """Raise for the first fault; there is none if `check` only stumbled over a read-only array that is only read."""
    function, dtypes, names, only_read = arguments
    like, written = arrays[0], len(arrays) - only_read
    for index, (name, array) in enumerate(zip(names, arrays, strict=True)):
        at = f"{function}: {name} is"
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{at} {type(array).__name__}, wanted a NumPy array")
        if array.dtype not in dtypes:
            raise TypeError(f"{at} {array.dtype}, wanted one of {', '.join(dtypes.values())}")
        if array.ndim != 1:
            raise ValueError(f"{at} of shape {array.shape}, wanted 1-D: pass array.reshape(-1)")
        if array.dtype != like.dtype or array.size != like.size:
            wanted = f"{like.dtype}[{like.size}] like {names[0]}"
            raise ValueError(f"{at} {array.dtype}[{array.size}], wanted {wanted}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{at} strided ({array.strides[0]} bytes from element to element), wanted contiguous")
        if not array.flags.aligned:
            raise ValueError(f"{at} not aligned to its {array.itemsize}-byte elements, wanted aligned")
        if index < written and not array.flags.writeable:
            raise ValueError(f"{at} read-only, wanted writeable: it is changed in place")
