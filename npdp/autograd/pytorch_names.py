"""Tensor methods under PyTorch's names, where NumPy has others, and operations on boolean tensors."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# As in operators.py, whose rules these are.

from __future__ import annotations

from math import prod
from operator import index
from typing import Any, NamedTuple

import numpy as np

from npdp.autograd import operators
from npdp.autograd.operation import NOTHING, astype, operation
from npdp.autograd.operators import Axis
from npdp.autograd.tensor import Array, Tensor, result


@operation(keeps=NOTHING)
def clone(x: Array):
    return x.copy(order="K"), (lambda g: g,)


def _as_float(dtype: Any):
    """Return a conversion to floats, which a gradient passes; a tensor of that dtype stays as it is."""
    return lambda self: self if self.dtype == dtype else astype(self, dtype=dtype)


def _as_integer(dtype: Any):
    """Return a conversion to integers: a step function, through which no gradient passes."""
    return lambda self: result(self.data.astype(dtype))


# The numbers of axes: range(n)[axis] is that of an axis counted from either end, and IndexError where there is none;
# a number, which has no axis, is taken for one with axis 0, as in PyTorch
def _flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    axes = range(max(1, self.ndim))
    start, end = axes[start_dim], axes[end_dim]
    if start > end:
        raise ValueError(f"flatten: start_dim must not come after end_dim, got {start_dim} and {end_dim}")
    joined = prod(self.shape[start : end + 1])
    return operators.reshape(self, shape=(*self.shape[:start], joined, *self.shape[end + 1 :]))


def _squeeze(self: Tensor, dim: int | None = None) -> Tensor:
    axes = range(max(1, self.ndim))
    dropped = axes if dim is None else (axes[dim],)
    shape = tuple(extent for axis, extent in enumerate(self.shape) if extent != 1 or axis not in dropped)
    return operators.reshape(self, shape=shape)


def _unsqueeze(self: Tensor, dim: int) -> Tensor:
    axis = range(self.ndim + 1)[dim]
    return operators.reshape(self, shape=(*self.shape[:axis], 1, *self.shape[axis:]))


def _transpose(self: Tensor, *axes: Any) -> Tensor:
    """Two axes change places, as in PyTorch; none, three and more, or a tuple of all are an order, as in NumPy."""
    if len(axes) != 2:
        return operators.transpose(self, axes=operators._shape_of(axes) if axes else None)
    numbers = range(max(1, self.ndim))
    first, second = numbers[axes[0]], numbers[axes[1]]
    order = [{first: second, second: first}.get(axis, axis) for axis in range(self.ndim)]
    return operators.transpose(self, axes=tuple(order))


def _t(self: Tensor) -> Tensor:
    if self.ndim > 2:
        raise ValueError(f"t: wanted at most two axes, got shape {self.shape}; permute(...) takes any")
    return operators.transpose(self)


class Extreme(NamedTuple):
    """Largest or smallest elements along an axis, and their indices."""

    values: Tensor
    indices: Tensor


@operation(keeps=NOTHING)
def pick(x: Array, *, indices: Array, axis: int):
    """One element along an axis at each of the indices, which have extent 1 there."""

    def vjp(g: Array) -> Array:
        gradient = np.zeros_like(x)
        np.put_along_axis(gradient, indices, g, axis)
        return gradient

    return np.take_along_axis(x, indices, axis), (vjp,)


def _extreme(op, first):
    """Return `max` or `min` as a method: values by `axis`, as NumPy's; values and indices by `dim`, as PyTorch's.

    By `dim` the gradient goes to the element at the index, by `axis` equal ones share it.
    """

    def method(self, dim=None, keepdim=False, *, axis: Axis = None, keepdims=False) -> Tensor | Extreme:
        if dim is None or isinstance(dim, tuple):
            return op(self, axis=axis if dim is None else dim, keepdims=keepdims or keepdim)
        if isinstance(dim, Tensor):
            raise TypeError(f"{op.__name__}: wanted a number for dim, got a Tensor; of two it is where(a > b, a, b)")
        indices = result(np.asarray(first(self.data, axis=dim, keepdims=True)))
        values = pick(self, indices=indices.data, axis=dim) if self.ndim else clone(self)
        return Extreme(values, indices) if keepdim else Extreme(_squeeze(values, dim), _squeeze(indices, dim))

    return method


def _of_booleans(ufunc):
    """Return a reduction such as `any`, through which no gradient passes."""
    return operators._reduction(
        lambda x, axis, keepdims: result(np.asarray(ufunc.reduce(x.data, axis=axis, keepdims=keepdims)))
    )


for _name, _method in {
    "max": _extreme(operators.max, np.argmax), "min": _extreme(operators.min, np.argmin),
    "clone": clone, "pow": operators.pow,
    "clamp": lambda self, min=None, max=None: operators.clip(self, low=min, high=max),
    "view": lambda self, *shape: self.reshape(*shape),
    "view_as": lambda self, other: operators.reshape(self, shape=other.shape),
    "flatten": _flatten, "squeeze": _squeeze, "unsqueeze": _unsqueeze, "t": _t, "transpose": _transpose,
    "permute": lambda self, *axes: operators.transpose(self, axes=operators._shape_of(axes)),
    "float": _as_float(np.float32), "double": _as_float(np.float64),
    "int": _as_integer(np.int32), "long": _as_integer(np.int64),
    "any": _of_booleans(np.logical_or), "all": _of_booleans(np.logical_and),
    **{f"__{side}{name}__": operators._comparison(getattr(np, f"bitwise_{name}"))
       for name in ("and", "or", "xor") for side in ("", "r")},
    "__invert__": lambda self: result(np.invert(self.data)),
    "__index__": lambda self: index(self.data),  # of a whole number alone: NumPy asks a mask of one element too
    **{name: getattr(Tensor, f"__{name}__") for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}.items():  # fmt: skip
    setattr(Tensor, _name, _method)
