"""Kernels of layers, one pass over memory each: exp, GELU, layer norm, softmax, cross entropy, sums of rows.

    exp, tanh, erf                       element by element, at most 2 units in the last place off
    gelu, gelu_gradient                  PyTorch's two forms
    layer_norm, layer_norm_gradient      along the last axis; the gradients of weight and bias in the same pass
    softmax_rows, softmax_rows_gradient  along the last axis, in place where that is wanted
    cross_entropy_rows, ..._gradient     of many classes; the logits are read, and never copied
    add_rows                             rows added to those of a table: an embedding's gradient

All are for float32 and float64. C (`csrc/npdp_layers.h`, where the formulas are) and NumPy (`layers_reference`) give
the same bits; `npdp.kernels` says which is used. Arrays that are not C-contiguous are copied first, but those that are
written must be. Infinities and NaN pass without a warning. Measured: docs/measurements.md.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp import kernels
from npdp.kernels import layers_reference
from npdp.kernels.checks import FLOATS
from npdp.kernels.implementation import LayerKernels

Array = NDArray[Any]

GELU_FORMS = {"none": "gelu", "tanh": "gelu_tanh"}


def exp(x: Array, out: Array | None = None) -> Array:
    """Return exp(x).

    Args:
        x: of any shape, float32 or float64; so for all functions here.
        out: of x's shape and dtype, C-contiguous, for the result; x itself will do; made anew where None.

    Raises:
        TypeError: x is of another dtype.
        ValueError: `out` does not fit.
    """
    return _of_one("exp", x, out)


def tanh(x: Array, out: Array | None = None) -> Array:
    """Return tanh(x); arguments as `exp`."""
    return _of_one("tanh", x, out)


def erf(x: Array, out: Array | None = None) -> Array:
    """Return the error function of x, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x; arguments as `exp`."""
    return _of_one("erf", x, out)


def gelu(x: Array, approximate: str = "none", out: Array | None = None) -> Array:
    """Return x P(X <= x) of a standard normal X; arguments as `exp`.

    Args:
        approximate: "none", by erf; or "tanh", 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    """
    return _of_one(_gelu_form(approximate), x, out)


def gelu_gradient(g: Array, x: Array, approximate: str = "none", out: Array | None = None) -> Array:
    """Return g times GELU's slope at x; g of x's shape and dtype, and `out` may be either."""
    g, x = _floats("gelu_gradient", g, x)
    _require_shapes("gelu_gradient", (g, x.shape))
    gradient = _result("gelu_gradient", out, x)
    _selected().of_two(f"{_gelu_form(approximate)}_gradient", g, x, gradient)
    return gradient


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """Return layer norm along the last axis, and what its gradient takes again.

    Args:
        x: (..., width).
        weight, bias: (width,), of x's dtype.
        eps: added to the variance.

    Returns:
        (x - mean) rstd weight + bias, (..., width); mean and rstd = 1 / sqrt(variance + eps), (rows,).

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016.
    """
    x, weight, bias = _floats("layer_norm", x, weight, bias)
    _require_shapes("layer_norm", (weight, x.shape[-1:]), (bias, x.shape[-1:]))
    y, rows = np.empty_like(x), _rows(x)
    mean, rstd = np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    _selected().layer_norm(rows, weight, bias, _rows(y), mean, rstd, eps)
    return y, mean, rstd


def layer_norm_gradient(g: Array, x: Array, weight: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of layer norm's x, (..., width), weight and bias, (width,), from g of y's shape."""
    g, x, weight, mean, rstd = _floats("layer_norm_gradient", g, x, weight, mean, rstd)
    rows = (prod(x.shape[:-1]),)
    _require_shapes("layer_norm_gradient", (g, x.shape), (weight, x.shape[-1:]), (mean, rows), (rstd, rows))
    gx, gweight, gbias = np.empty_like(x), np.empty_like(weight), np.empty_like(weight)
    _selected().layer_norm_gradient(_rows(g), _rows(x), weight, mean, rstd, _rows(gx), gweight, gbias)
    return gx, gweight, gbias


def softmax_rows(x: Array, out: Array | None = None) -> tuple[Array, Array]:
    """Return softmax along the last axis, and the logarithm of each row's sum of exp(x), (rows,).

    Args:
        x: (..., width); -inf gives 0, a row of nothing else NaN.
        out: as in `exp`.
    """
    (x,) = _floats("softmax_rows", x)
    y, rows = _result("softmax_rows", out, x), _rows(x)
    largest, totals = np.full(len(rows), -np.inf, x.dtype), np.zeros(len(rows), x.dtype)  # of rows of no width
    if x.size:
        _selected().softmax(rows, _rows(y), largest, totals)
    return y, _log_sum_exp(largest, totals)


def softmax_rows_gradient(g: Array, y: Array, out: Array | None = None) -> Array:
    """Return the gradient of what softmax made y of, y (g - sum(y g)); `out` may be g."""
    g, y = _floats("softmax_rows_gradient", g, y)
    _require_shapes("softmax_rows_gradient", (g, y.shape))
    gradient = _result("softmax_rows_gradient", out, y)
    _selected().softmax_gradient(_rows(g), _rows(y), _rows(gradient))
    return gradient


def cross_entropy_rows(logits: Array, labels: Array, label_smoothing: float = 0.0) -> tuple[Array, Array, Array] | None:
    """Return -log softmax(logits)[label] of each row, and what the gradient takes again; None for a wrong label.

    Args:
        logits: (rows, classes), at least one class; they are read, and no array of their size is made.
        labels: (rows,) integers; a wrong one is not in [0, classes).
        label_smoothing: e in [0, 1]: the target is (1 - e) one-hot + e / classes.

    Returns:
        The losses, the largest logits, and the sums of exp(logits - largest): (rows,) each.
    """
    (logits,) = _floats("cross_entropy_rows", logits)
    rows, classes = logits.shape
    _require_shapes("cross_entropy_rows", (labels, (rows,)))
    largest, totals, spread, chosen = (np.empty(rows, logits.dtype) for _ in range(4))
    if _selected().cross_entropy_rows(logits, _numbers(labels), largest, totals, spread, chosen):
        return None
    if label_smoothing:
        chosen = (1 - label_smoothing) * chosen + label_smoothing / classes * spread
    return _log_sum_exp(0, totals) - chosen, largest, totals


def cross_entropy_rows_gradient(
    logits: Array,
    labels: Array,
    largest: Array,
    totals: Array,
    shares: Array,
    label_smoothing: float = 0.0,
    out: Array | None = None,
) -> Array:
    """Return the gradient of sum(shares * losses) of `cross_entropy_rows`: shares (softmax(logits) - targets).

    Args:
        shares: (rows,), d loss / d (each row's loss); 0 where a row does not count.
        out: as in `exp`; it may be the logits.
    """
    logits, largest, totals, shares = _floats("cross_entropy_rows_gradient", logits, largest, totals, shares)
    _require_shapes("cross_entropy_rows_gradient", *((each, logits.shape[:1]) for each in (labels, totals, shares)))
    gradient = _result("cross_entropy_rows_gradient", out, logits)
    arrays = (logits, _numbers(labels), largest, totals, shares, gradient)
    _selected().cross_entropy_rows_gradient(*arrays, label_smoothing / logits.shape[1], 1 - label_smoothing)
    return gradient


def add_rows(table: Array, numbers: Array, rows: Array) -> None:
    """Add each row to the table's row of its number, in place, from the first row to the last.

    Args:
        table: (any, width), C-contiguous.
        numbers: (n,) integers in [0, len(table)); one may come often.
        rows: (n, width), of table's dtype.

    Raises:
        ValueError: A number that is no row of the table; or a table that cannot be written in place.
    """
    _, rows = _floats("add_rows", table, rows)
    _require_shapes("add_rows", (rows, (len(numbers), *table.shape[1:])))
    table, numbers = _result("add_rows", table, table), _numbers(numbers)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(table):
        wrong = numbers[(numbers < 0) | (numbers >= len(table))][0]
        raise ValueError(f"add_rows: wanted numbers in [0, {len(table)}), got {wrong}")
    _selected().add_rows(table, numbers, rows)


@cache
def _selected() -> LayerKernels:
    if kernels.backend() == "numpy":
        return layers_reference
    from npdp.kernels import layers_compiled  # there is one where there is a compiler

    return layers_compiled


def _of_one(name: str, x: Array, out: Array | None) -> Array:
    (x,) = _floats(name, x)
    y = _result(name, out, x)
    _selected().of_one(name, x, y)
    return y


def _gelu_form(approximate: str) -> str:
    if approximate not in GELU_FORMS:
        raise ValueError(f"gelu: approximate is {approximate!r}, wanted none or tanh")
    return GELU_FORMS[approximate]


def _floats(function: str, *arrays: Array) -> list[Array]:
    """Return the arrays C-contiguous and aligned; TypeError where they are not of one dtype of those there are."""
    dtype = arrays[0].dtype
    for array in arrays:
        if array.dtype != dtype or dtype not in FLOATS:
            raise TypeError(f"{function}: got {dtype} and {array.dtype}, wanted float32 or float64, the same in all")
    return [_plain(array) for array in arrays]


def _plain(array: Array) -> Array:
    """Return the array, or a copy where it is not C-contiguous and aligned."""
    return array if array.flags.c_contiguous and array.flags.aligned else np.array(array, order="C")


def _require_shapes(function: str, *arrays_and_shapes: tuple[Array, tuple[int, ...]]) -> None:
    for array, shape in arrays_and_shapes:
        if array.shape != shape:
            raise ValueError(f"{function}: got an array of shape {array.shape}, wanted {shape}")


def _result(function: str, out: Array | None, like: Array) -> Array:
    """Return `out`, or a new array like `like`; ValueError where it does not fit."""
    if out is None:
        return np.empty_like(like)
    if out.shape != like.shape or out.dtype != like.dtype or not out.flags.carray:
        raise ValueError(
            f"{function}: wanted a C-contiguous, writeable {like.dtype} of shape {like.shape} to write to, "
            f"got {out.dtype} of shape {out.shape}"
        )
    return out


def _numbers(numbers: Array) -> Array:
    return _plain(np.asarray(numbers, np.int64))


def _rows(x: Array) -> Array:
    """Return a view of x, (..., width), as (rows, width)."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


@np.errstate(all="ignore")
def _log_sum_exp(largest: Any, totals: Array) -> Array:
    result: Array = largest + np.log(totals)
    return result
