"""Reference of the layers' kernels in NumPy: the definition that `csrc/` is tested against, to the last bit.

Arguments have been checked by `npdp.kernels.layers`; the formulas are in `csrc/npdp_layers.h`. Everything goes in
blocks that stay in a cache.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdp.kernels import functions
from npdp.kernels.reference import BLOCK

Array = NDArray[Any]

LANES_BYTES = 64
BOUND = 40.0
A, B, THREE_B = 1.5957691216057308, 0.07135481627260025, 0.21406444881780073
SQRT_HALF, NORMAL_AT_0 = 0.70710678118654752, 0.3989422804014327


def of_one(name: str, x: Array, y: Array) -> None:
    """y = exp, tanh, erf, gelu or gelu_tanh of x."""
    _in_blocks(OF_ONE[name], y, x)


def of_two(name: str, g: Array, x: Array, gradient: Array) -> None:
    """gradient = g times the slope at x: gelu_gradient or gelu_tanh_gradient."""
    _in_blocks(OF_TWO[name], gradient, g, x)


@np.errstate(all="ignore")
def _in_blocks(function: Callable[..., Array], out: Array, *arrays: Array) -> None:
    flat, *read = (array.reshape(-1) for array in (out, *arrays))
    for start in range(0, out.size, BLOCK):
        block = slice(start, start + BLOCK)
        flat[block] = function(*(array[block] for array in read))


def _within(x: Array) -> Array:
    return np.clip(x, x.dtype.type(-BOUND), x.dtype.type(BOUND))


def _below(x: Array) -> Array:
    return 1 + functions.erf(x * x.dtype.type(SQRT_HALF))


def _logistic(x: Array) -> Array:
    real = x.dtype.type
    return 1 / (1 + functions.exp(-(x * (real(A) + real(B) * (x * x)))))


def _gelu(x: Array) -> Array:
    return x.dtype.type(0.5) * x * _below(x)


def _gelu_tanh(x: Array) -> Array:
    return x * _logistic(x)


def _gelu_gradient(g: Array, x: Array) -> Array:
    real = x.dtype.type
    density = functions.exp(real(-0.5) * (x * x)) * real(NORMAL_AT_0)
    return g * (real(0.5) * _below(x) + _within(x) * density)


def _gelu_tanh_gradient(g: Array, x: Array) -> Array:
    real, w = x.dtype.type, _within(x)
    s = _logistic(x)
    return g * (s + w * (s * (1 - s)) * (real(A) + real(THREE_B) * (w * w)))


OF_ONE: dict[str, Callable[..., Array]] = {
    "exp": functions.exp, "tanh": functions.tanh, "erf": functions.erf, "gelu": _gelu, "gelu_tanh": _gelu_tanh,
}  # fmt: skip
OF_TWO: dict[str, Callable[..., Array]] = {"gelu_gradient": _gelu_gradient, "gelu_tanh_gradient": _gelu_tanh_gradient}


@np.errstate(all="ignore")
def layer_norm(x: Array, weight: Array, bias: Array, y: Array, mean: Array, rstd: Array, eps: float) -> None:
    real = x.dtype.type
    width = real(x.shape[1])
    for rows in _blocks_of_rows(x):
        mean[rows] = _row_sums(x[rows]) / width
        centred = x[rows] - mean[rows, None]
        rstd[rows] = 1 / np.sqrt(_row_sums(centred * centred) / width + real(eps))
        y[rows] = centred * rstd[rows, None] * weight + bias


@np.errstate(all="ignore")
def layer_norm_gradient(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, gx: Array, gweight: Array, gbias: Array
) -> None:
    width = x.dtype.type(x.shape[1])
    gweight[:], gbias[:] = 0, 0
    for rows in _blocks_of_rows(x):
        n = (x[rows] - mean[rows, None]) * rstd[rows, None]
        h = g[rows] * weight
        mean_h, mean_hn = (_row_sums(each)[:, None] / width for each in (h, h * n))
        gx[rows] = rstd[rows, None] * (h - mean_h - n * mean_hn)
        _add_in_order(gweight, g[rows] * n)
        _add_in_order(gbias, g[rows])


@np.errstate(all="ignore")
def softmax(x: Array, y: Array, largest: Array, totals: Array) -> None:
    for rows in _blocks_of_rows(x):
        largest[rows] = np.maximum.reduce(x[rows], axis=1) + 0  # +0 for zeros of both signs
        y[rows] = _exp(x[rows] - largest[rows, None])
        totals[rows] = _row_sums(y[rows])
        y[rows] *= 1 / totals[rows, None]
        _mark_nan(largest[rows], totals[rows])


@np.errstate(all="ignore")
def softmax_gradient(g: Array, y: Array, gradient: Array) -> None:
    for rows in _blocks_of_rows(y):
        gradient[rows] = y[rows] * (g[rows] - _row_sums(y[rows] * g[rows])[:, None])


@np.errstate(all="ignore")
def cross_entropy_rows(
    logits: Array, labels: Array, largest: Array, totals: Array, spread: Array, chosen: Array
) -> int:
    if ((labels < 0) | (labels >= logits.shape[1])).any():
        return 1
    for rows in _blocks_of_rows(logits):
        largest[rows] = np.maximum.reduce(logits[rows], axis=1) + 0
        z = logits[rows] - largest[rows, None]
        spread[rows] = _row_sums(z)
        totals[rows] = _row_sums(_exp(z))
        _mark_nan(largest[rows], totals[rows])
        chosen[rows] = logits[rows][np.arange(len(z)), labels[rows]] - largest[rows]
    return 0


@np.errstate(all="ignore")
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
    everywhere, at_label = map(logits.dtype.type, (everywhere, at_label))
    for rows in _blocks_of_rows(logits):
        powers = _exp(logits[rows] - largest[rows, None])
        share = shares[rows]
        gradient[rows] = powers * (share / totals[rows])[:, None] - (share * everywhere)[:, None]
        gradient[np.arange(len(logits))[rows], labels[rows]] -= share * at_label


@np.errstate(all="ignore")
def add_rows(table: Array, numbers: Array, g: Array) -> None:
    np.add.at(table, numbers, g)


def _mark_nan(largest: Array, totals: Array) -> None:
    """A row whose total is NaN has NaN as its largest too, in C as in NumPy."""
    np.copyto(largest, totals, where=totals != totals)


def _blocks_of_rows(x: Array) -> Iterator[slice]:
    """Yield slices of rows with about BLOCK elements, one row at least."""
    rows = max(1, BLOCK // x.shape[1]) if x.size else max(1, len(x))
    return (slice(start, start + rows) for start in range(0, len(x), rows))


def _exp(x: Array) -> Array:
    return functions.exp(x.reshape(-1)).reshape(x.shape)


def _row_sums(x: Array) -> Array:
    """Return the sum of each row in lanes, as C adds it: element i in lane i % LANES, folded in halves."""
    lanes = LANES_BYTES // x.itemsize
    rows, width = x.shape
    padded = np.zeros((rows, -(-width // lanes), lanes), x.dtype)
    padded.reshape(rows, -1)[:, :width] = x
    total = np.add.reduce(padded, axis=1, initial=0, dtype=x.dtype)  # along another axis than the last: one by one
    while lanes > 1:
        lanes //= 2
        total = total[:, :lanes] + total[:, lanes:]
    return total[:, 0]


def _add_in_order(total: Array, rows: Array) -> None:
    """total += rows, one after the other; a single column `np.add.reduce` would add in pairs."""
    all_rows = np.concatenate([total[None], rows])
    total[:] = np.add.reduce(all_rows, axis=0) if len(total) > 1 else np.add.accumulate(all_rows, axis=0)[-1]
