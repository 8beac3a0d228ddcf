"""The functions of `csrc/npdp_layers.h`, called through cffi; with the names and arguments of `layers_reference`.

Where the C code was not compiled, importing this raises ImportError.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.kernels._compiled import ffi, lib  # type: ignore[import-not-found,import-untyped,unused-ignore]

Array = NDArray[Any]

_SUFFIXES = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
_C_TYPES = {np.dtype(np.float32): "float[]", np.dtype(np.float64): "double[]", np.dtype(np.int64): "int64_t[]"}
_TYPES = {dtype: ffi.typeof(name) for dtype, name in _C_TYPES.items()}
_pointer = ffi.from_buffer


def _call(name: str, arrays: tuple[Array, ...], *sizes_and_scalars: float) -> Any:
    """Call the function for the first array's dtype."""
    function = getattr(lib, f"npdp_{name}_{_SUFFIXES[arrays[0].dtype]}")
    return function(*(_pointer(_TYPES[array.dtype], array) for array in arrays), *sizes_and_scalars)


def of_one(name: str, x: Array, y: Array) -> None:
    _call(name, (x, y), x.size)


def of_two(name: str, g: Array, x: Array, gradient: Array) -> None:
    _call(name, (g, x, gradient), x.size)


def layer_norm(x: Array, weight: Array, bias: Array, y: Array, mean: Array, rstd: Array, eps: float) -> None:
    _call("layer_norm", (x, weight, bias, y, mean, rstd), *x.shape, eps)


def layer_norm_gradient(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, gx: Array, gweight: Array, gbias: Array
) -> None:
    _call("layer_norm_gradient", (g, x, weight, mean, rstd, gx, gweight, gbias), *x.shape)


def softmax(x: Array, y: Array, largest: Array, totals: Array) -> None:
    _call("softmax", (x, y, largest, totals), *x.shape)


def softmax_gradient(g: Array, y: Array, gradient: Array) -> None:
    _call("softmax_gradient", (g, y, gradient), *y.shape)


def cross_entropy_rows(
    logits: Array, labels: Array, largest: Array, totals: Array, spread: Array, chosen: Array
) -> int:
    status: int = _call("cross_entropy_rows", (logits, labels, largest, totals, spread, chosen), *logits.shape)
    return status


def cross_entropy_rows_gradient(
    logits: Array,
    labels: Array,
    largest: Array,
    totals: Array,
    shares: Array,
    gradient: Array,
    everywhere: float,
    at_label: float,
) -> None:
    arrays = (logits, labels, largest, totals, shares, gradient)
    _call("cross_entropy_rows_gradient", arrays, *logits.shape, everywhere, at_label)


def add_rows(table: Array, numbers: Array, g: Array) -> None:
    _call("add_rows", (table, numbers, g), *g.shape)
