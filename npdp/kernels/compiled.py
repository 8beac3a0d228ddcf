"""The functions of `csrc/`, called through cffi: pointers are made here and nowhere else.

Arguments have been checked by `npdp.kernels`, and an int that is returned is C's status: see implementation.py. The GIL
is released inside, so other threads go on meanwhile. Where the C code was not compiled, importing this raises
ImportError.

Cost of a call, apart from the arithmetic: cffi's 0.13 microseconds and 0.15 for each array.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]
from npdp.kernels.reference import adam_scalars

Array = NDArray[Any]

_FLOATS = {"f32": ("float32", "float[]"), "f64": ("float64", "double[]")}
_INTEGERS = {"i32": ("int32", "int32_t[]"), "i64": ("int64", "int64_t[]")}


def _bind(name: str, types: dict[str, tuple[str, str]]) -> dict[np.dtype[Any], tuple[Any, Any]]:
    """Map each dtype to its C function and the C type of its arrays."""
    return {
        np.dtype(dtype): (getattr(lib, f"npdp_{name}_{suffix}"), ffi.typeof(c_type))
        for suffix, (dtype, c_type) in types.items()
    }


_ACCUMULATE = {op: _bind(op, _FLOATS | _INTEGERS) for op in ("sum", "prod", "min", "max")}
_SGD = _bind("sgd", _FLOATS)
_ADAM = _bind("adam", _FLOATS)
_FIRST_NOT_FINITE = _bind("first_not_finite", _FLOATS)
_RELU_GRADIENT = _bind("relu_gradient", _FLOATS)
_SHIFTED_LOGITS = _bind("shifted_logits", _FLOATS)
_CROSS_ENTROPY_GRADIENT = _bind("cross_entropy_gradient", _FLOATS)
_COMBINE_SGD = _bind("combine_sgd", _FLOATS)
_COMBINE_ADAM = _bind("combine_adam", _FLOATS)
OPS = {"sum": lib.NPDP_SUM, "prod": lib.NPDP_PROD, "min": lib.NPDP_MIN, "max": lib.NPDP_MAX}
DTYPES = {name: getattr(lib, f"NPDP_{suffix.upper()}") for suffix, (name, _) in (_FLOATS | _INTEGERS).items()}
_INT64 = ffi.typeof("int64_t[]")
_KEPT: WeakKeyDictionary[Any, list[Array]] = WeakKeyDictionary()  # the arrays behind C arrays of pointers
_pointer = ffi.from_buffer


def accumulate(dst: Array, src: Array, op: str) -> int:
    function, c_type = _ACCUMULATE[op][dst.dtype]
    status: int = function(_pointer(c_type, dst), _pointer(c_type, src), dst.size)
    return status


def combine(targets: list[Array], sources: list[Array], op: str) -> None:
    lib.npdp_combine(
        OPS[op],
        DTYPES[targets[0].dtype.name],
        _pointers(targets),
        len(targets),
        _pointers(sources),
        len(sources),
        targets[0].size,
    )


def _pointers(arrays: list[Array]) -> Any:
    return ffi.new("void *[]", [_pointer(array) for array in arrays])


def _kept(arrays: list[Array]) -> tuple[Any, int]:
    """Return a C array of pointers that keeps the arrays alive, and how many they are."""
    pointers = _pointers(arrays)
    _KEPT[pointers] = arrays
    return pointers, len(arrays)


def finder_of_not_finite(array: Array) -> Callable[[], int]:
    function, c_type = _FIRST_NOT_FINITE[array.dtype]
    return partial(function, _pointer(c_type, array), array.size)


def relu_gradient(g: Array, y: Array) -> Array:
    function, c_type = _RELU_GRADIENT[g.dtype]
    gradient = np.empty(g.shape, g.dtype)
    function(_pointer(c_type, gradient), _pointer(c_type, g), _pointer(c_type, y), g.size)
    return gradient


def shifted_logits(logits: Array, labels: Array, shifted: Array, chosen: Array) -> int:
    function, c_type = _SHIFTED_LOGITS[logits.dtype]
    written = _pointer(c_type, shifted), _pointer(c_type, chosen)
    status: int = function(_pointer(c_type, logits), _pointer(_INT64, labels), *written, *logits.shape)
    return status


def cross_entropy_gradient(
    powers: Array, totals: Array, labels: Array, gradient: Array, share: float, everywhere: float, at_label: float
) -> None:
    function, c_type = _CROSS_ENTROPY_GRADIENT[powers.dtype]
    classes, rows = powers.shape
    read = _pointer(c_type, powers), _pointer(c_type, totals), _pointer(_INT64, labels)
    function(*read, _pointer(c_type, gradient), rows, classes, share, everywhere, at_label)


def sgd_updater(param: Array, grad: Any, velocity: Array | None) -> Callable[..., int]:
    """Return C's update of these arrays: they are turned to pointers once."""
    function, c_type = _SGD[param.dtype]
    arguments: tuple[Any, ...]
    if isinstance(grad, np.ndarray):
        arguments = (_pointer(c_type, param), _pointer(c_type, grad))
    else:
        function, _ = _COMBINE_SGD[param.dtype]
        arguments = (*_kept(grad.arrays), _pointer(c_type, param))
    arguments += (ffi.NULL if velocity is None else _pointer(c_type, velocity), param.size)
    return partial(function, *arguments)


def adam_updater(param: Array, grad: Any, m: Array, v: Array) -> Callable[..., int]:
    """Return C's update of these arrays: they are turned to pointers once."""
    function, c_type = _ADAM[param.dtype]
    written = [_pointer(c_type, array) for array in (param, m, v)]
    arguments: tuple[Any, ...]
    if isinstance(grad, np.ndarray):
        arguments = (written[0], _pointer(c_type, grad), *written[1:], param.size)
    else:
        function, _ = _COMBINE_ADAM[param.dtype]
        arguments = (*_kept(grad.arrays), *written, param.size)
    return partial(_adam, partial(function, *arguments))


def _adam(update: Callable[..., int], *scalars: Any) -> int:
    return update(*adam_scalars(*scalars))
