"""The operations of a tensor, each with its gradient rule, and the methods and operators made of them.

In each rule: a, b, x are the input arrays, y the output, g the gradient of the output.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return, call-overload"
# The rules are one-line functions on arrays; the types of what users call are in tensor.py.

from __future__ import annotations

from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd.given import axes_of
from npdp.autograd.operation import FIRST, INPUTS, NOTHING, OUTPUT, logistic, operation, unbroadcast, without_rows
from npdp.autograd.tensor import Array, Tensor, result

Axis = Any  # None, an int, or a tuple of ints


# Arithmetic, with NumPy's broadcasting
@operation(keeps=NOTHING, promotes=True)
def add(a: Array, b: Array):
    return a + b, (lambda g: unbroadcast(g, a.shape), lambda g: unbroadcast(g, b.shape))


@operation(keeps=NOTHING, promotes=True)
def sub(a: Array, b: Array):
    return a - b, (lambda g: unbroadcast(g, a.shape), lambda g: unbroadcast(-g, b.shape))


@operation(keeps=INPUTS, promotes=True)
def mul(a: Array, b: Array):
    return a * b, (lambda g: unbroadcast(g * b, a.shape), lambda g: unbroadcast(g * a, b.shape))


@operation(keeps=INPUTS, promotes=True)
def div(a: Array, b: Array):
    return a / b, (lambda g: unbroadcast(g / b, a.shape), lambda g: unbroadcast(-g * a / (b * b), b.shape))


@operation(keeps=INPUTS + OUTPUT, promotes=True)
def pow(a: Array, b: Array):
    y = a**b
    return y, (
        lambda g: unbroadcast(g * _times_power(b, a, b - 1), a.shape),
        lambda g: unbroadcast(g * y * np.log(np.where((a != 0) | (b < 0), a, 1)), b.shape),  # 0 ** b stays 0
    )


def _times_power(factor: Array, base: Array, exponent: Array) -> Array:
    """Return factor * base ** exponent, 0 where the factor is 0 (x ** 0 has slope 0 also at x = 0)."""
    return np.where(factor == 0, 0, factor * np.power(np.where(factor == 0, 1, base), exponent)).astype(base.dtype)


@operation(keeps=NOTHING)
def neg(x: Array):
    return -x, (lambda g: -g,)


@operation(keeps=INPUTS)
def matmul(a: Array, b: Array):
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul needs at least one axis on each side, got shapes {a.shape} and {b.shape}")
    wide_a = a if a.ndim > 1 else a[None, :]
    wide_b = b if b.ndim > 1 else b[:, None]

    def widen(g: Array) -> Array:
        g = g if a.ndim > 1 else np.expand_dims(g, -1 if b.ndim == 1 else -2)
        return g if b.ndim > 1 else np.expand_dims(g, -1)

    return a @ b, (
        lambda g: unbroadcast(widen(g) @ wide_b.swapaxes(-1, -2), wide_a.shape).reshape(a.shape),
        lambda g: unbroadcast(wide_a.swapaxes(-1, -2) @ widen(g), wide_b.shape).reshape(b.shape),
    )


# Element by element
@operation(keeps=OUTPUT)
def exp(x: Array):
    y = np.exp(x)
    return y, (lambda g: g * y,)


@operation(keeps=FIRST)
def log(x: Array):
    return np.log(x), (lambda g: g / x,)


@operation(keeps=OUTPUT)
def sqrt(x: Array):
    y = np.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@operation(keeps=FIRST)
def abs(x: Array):
    return np.abs(x), (lambda g: g * np.sign(x),)


@operation(keeps=OUTPUT)
def tanh(x: Array):
    y = np.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@operation(keeps=OUTPUT)
def sigmoid(x: Array):
    y = logistic(x)
    return y, (lambda g: g * y * (1 - y),)


@operation(keeps=OUTPUT)
def relu(x: Array):
    y = np.maximum(x, 0)
    return y, (lambda g: kernels.relu_gradient(g, y),)


@operation(keeps=FIRST + OUTPUT)
def clip(x: Array, *, low: float | None = None, high: float | None = None):
    y = np.clip(x, low, high, dtype=x.dtype if x.dtype.kind == "f" else None)  # not that of a NumPy number
    return y, (lambda g: g * (x == y),)


@operation(keeps=FIRST, promotes=True)
def where(condition: Array, a: Array, b: Array):
    return np.where(condition, a, b), (
        None,
        lambda g: unbroadcast(np.where(condition, g, 0), a.shape),
        lambda g: unbroadcast(np.where(condition, 0, g), b.shape),
    )


# Along axes
def _spread(g: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Array:
    """Return a reduced gradient stretched back over the axes that were summed away."""
    if axis is not None and not keepdims and shape:  # of a number NumPy takes axis 0 and -1, which it has not
        g = np.expand_dims(g, axis)
    return np.broadcast_to(g, shape)


@operation(keeps=NOTHING)
def sum(x: Array, *, axis: Axis = None, keepdims: bool = False):
    return x.sum(axis=axis, keepdims=keepdims), (lambda g: _spread(g, x.shape, axis, keepdims),)


@operation(keeps=NOTHING)
def mean(x: Array, *, axis: Axis = None, keepdims: bool = False):
    """The mean; 0 of an empty array: a rank whose part of a batch is empty takes part like any other."""
    y = x.sum(axis=axis, keepdims=keepdims)
    count = x.size // y.size if x.size else 1
    return y / count, (lambda g: _spread(g / count, x.shape, axis, keepdims),)


def _extreme(x: Array, y: Array, axis: Axis, keepdims: bool):
    def vjp(g: Array) -> Array:
        chosen = x == _spread(y, x.shape, axis, keepdims)
        return _spread(g, x.shape, axis, keepdims) * chosen / chosen.sum(axis=axis, keepdims=True, dtype=x.dtype)

    return y, (vjp,)


@operation(keeps=FIRST + OUTPUT)
def max(x: Array, *, axis: Axis = None, keepdims: bool = False):
    """The largest; equal ones share the gradient."""
    return _extreme(x, np.asarray(x.max(axis=axis, keepdims=keepdims)), axis, keepdims)


@operation(keeps=FIRST + OUTPUT)
def min(x: Array, *, axis: Axis = None, keepdims: bool = False):
    """The smallest; equal ones share the gradient."""
    return _extreme(x, np.asarray(x.min(axis=axis, keepdims=keepdims)), axis, keepdims)


def _shifted(x: Array, axis: Axis) -> tuple[Array, Array]:
    """Return x minus its largest along axis, and that largest: exp of the first cannot overflow."""
    x = x.astype(np.float64) if x.dtype.kind in "biu" else x
    largest = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    largest = np.where(np.isfinite(largest), largest, x.dtype.type(0))
    return x - largest, largest


@operation(keeps=NOTHING)
def logsumexp(x: Array, *, axis: Axis = -1, keepdims: bool = False):
    shifted, largest = _shifted(x, axis)
    powers = np.exp(shifted)
    total = powers.sum(axis=axis, keepdims=True)
    y = np.log(total) + largest
    return y if keepdims else y.squeeze(axis), (lambda g: _spread(g, x.shape, axis, keepdims) * (powers / total),)


@operation(keeps=OUTPUT)
def softmax(x: Array, *, axis: int = -1):
    y = np.exp(_shifted(x, axis)[0])
    y /= y.sum(axis=axis, keepdims=True)
    return y, (lambda g: y * (g - (g * y).sum(axis=axis, keepdims=True)),)


@operation(keeps=OUTPUT)
def log_softmax(x: Array, *, axis: int = -1):
    shifted = _shifted(x, axis)[0]
    y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return y, (lambda g: g - np.exp(y) * g.sum(axis=axis, keepdims=True),)


# Shape
@operation(keeps=NOTHING, view=True)
def reshape(x: Array, *, shape: tuple[int, ...]):
    return x.reshape(shape if x.size else without_rows(x.shape, shape)), (lambda g: g.reshape(x.shape),)


@operation(keeps=NOTHING, view=True)
def transpose(x: Array, *, axes: tuple[int, ...] | None = None):
    back = None if axes is None else tuple(np.argsort([axis % x.ndim for axis in axes]))
    return x.transpose(axes), (lambda g: g.transpose(back),)


@operation(keeps=NOTHING, view=True)
def index(x: Array, *, at: Any):
    def vjp(g: Array) -> Array:
        gradient = np.zeros_like(x)
        if taken_once:
            gradient[at] += g
        else:
            np.add.at(gradient, at, g)  # an element that was taken twice gets both
        return gradient

    y = x[at]
    if type(y) is not np.ndarray:  # an element, of which NumPy makes a number: a view, as a row is
        y = x[(*at, ...) if isinstance(at, tuple) else (at, ...)]
    taken_once = np.may_share_memory(x, y)  # a view, as numbers, slices, ... and None make; index arrays copy
    return y, (vjp,)


@operation(keeps=NOTHING)
def concatenate(*arrays: Array, axis: int = 0):
    ends = np.cumsum([a.shape[axis] for a in arrays])

    def part(end: int, extent: int):
        return lambda g: np.take(g, range(end - extent, end), axis=axis)

    return np.concatenate(arrays, axis), tuple(part(end, a.shape[axis]) for end, a in zip(ends, arrays))


@operation(keeps=NOTHING)
def stack(*arrays: Array, axis: int = 0):
    return np.stack(arrays, axis), tuple((lambda g, i=i: np.take(g, i, axis=axis)) for i in range(len(arrays)))


# What a tensor offers of these
def _swapped(op):
    return lambda self, other: op(other, self)


def _comparison(ufunc):
    """Return a comparison: a tensor of booleans, through which no gradient passes."""
    return lambda self, other: result(
        np.asarray(ufunc(self.data, other.data if isinstance(other, Tensor) else other))
    )


def _reduction(op, default: Axis = None):
    """Return a reduction as a method, under NumPy's names of its arguments or PyTorch's."""
    return lambda self, axis=default, keepdims=False, *, dim=None, keepdim=False: op(
        self, axis=axes_of(axis if dim is None else dim), keepdims=keepdims or keepdim
    )


def _shape_of(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape


def _index(self: Tensor, at: Any) -> Tensor:
    parts = at if isinstance(at, tuple) else (at,)
    arrays = (Tensor, np.ndarray)  # what may change is kept as it is now
    plain = tuple(np.array(p) if isinstance(p, arrays) else p.copy() if type(p) is list else p for p in parts)
    return index(self, at=plain if isinstance(at, tuple) else plain[0])


for _name, _method in {
    "__add__": add, "__radd__": add, "__sub__": sub, "__rsub__": _swapped(sub),
    "__mul__": mul, "__rmul__": mul, "__truediv__": div, "__rtruediv__": _swapped(div),
    "__pow__": pow, "__rpow__": _swapped(pow), "__neg__": neg,
    "__matmul__": matmul, "__rmatmul__": _swapped(matmul), "__abs__": abs, "__getitem__": _index,
    "__lt__": _comparison(np.less), "__le__": _comparison(np.less_equal), "__gt__": _comparison(np.greater),
    "__ge__": _comparison(np.greater_equal), "__eq__": _comparison(np.equal), "__ne__": _comparison(np.not_equal),
    "matmul": matmul, "exp": exp, "log": log, "sqrt": sqrt, "abs": abs, "tanh": tanh, "sigmoid": sigmoid, "relu": relu,
    "sum": _reduction(sum), "mean": _reduction(mean),
    "clip": lambda self, min=None, max=None: clip(self, low=min, high=max),
    "softmax": lambda self, axis=-1, *, dim=None: softmax(self, axis=axis if dim is None else dim),
    "log_softmax": lambda self, axis=-1, *, dim=None: log_softmax(self, axis=axis if dim is None else dim),
    "logsumexp": _reduction(logsumexp, -1),
    "argmax": _reduction(lambda x, **along: result(np.asarray(x.data.argmax(**along)))),
    "reshape": lambda self, *shape: reshape(self, shape=_shape_of(shape)),
    "T": property(lambda self: transpose(self)),
}.items():  # fmt: skip
    setattr(Tensor, _name, _method)
