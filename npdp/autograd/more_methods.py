"""More tensor methods of PyTorch's: those that move elements, masks, moments, and names of operators.

Most are put together from operations that there are; an operation of its own has what would cost more so.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# As in operators.py, whose rules these are.

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from npdp.autograd import operators
from npdp.autograd.given import axes_of
from npdp.autograd.operation import FIRST, INPUTS, NOTHING, operation, unbroadcast
from npdp.autograd.operators import Axis
from npdp.autograd.tensor import Array, Tensor


@operation(keeps=FIRST)
def sin(x: Array):
    return np.sin(x), (lambda g: g * np.cos(x),)


@operation(keeps=FIRST)
def cos(x: Array):
    return np.cos(x), (lambda g: -g * np.sin(x),)


@operation(keeps=INPUTS, promotes=True)
def maximum(a: Array, b: Array):
    """The larger of two; equal ones share the gradient."""
    return np.maximum(a, b), _of_the_chosen(a, b, np.greater)


@operation(keeps=INPUTS, promotes=True)
def minimum(a: Array, b: Array):
    """The smaller of two; equal ones share the gradient."""
    return np.minimum(a, b), _of_the_chosen(a, b, np.less)


def _of_the_chosen(a: Array, b: Array, beats: np.ufunc):
    def share(mine: Array, other: Array):
        return lambda g: unbroadcast((g * (beats(mine, other) + 0.5 * (mine == other))).astype(g.dtype), mine.shape)

    return share(a, b), share(b, a)


@operation(keeps=NOTHING, view=True)
def expand(x: Array, *, shape: tuple[int, ...]):
    return np.broadcast_to(x, shape), (lambda g: unbroadcast(g, x.shape),)


@operation(keeps=NOTHING, view=True)
def contiguous(x: Array):
    return np.ascontiguousarray(x).reshape(x.shape), (lambda g: g,)


@operation(keeps=NOTHING)
def cumsum(x: Array, *, axis: int):
    return np.cumsum(x, axis), (lambda g: np.flip(np.cumsum(np.flip(g, axis), axis), axis),)


def _expand(self: Tensor, *sizes: Any) -> Tensor:
    """An extent of -1 stays as it is."""
    shape = operators._shape_of(sizes)
    before = (1,) * (len(shape) - self.ndim) + self.shape
    return expand(self, shape=tuple(old if new == -1 else new for old, new in zip(before, shape, strict=True)))


def _repeat(self: Tensor, *sizes: Any) -> Tensor:
    times = operators._shape_of(sizes)
    shape = (1,) * (len(times) - self.ndim) + self.shape
    apart = self.reshape(*(part for extent in shape for part in (1, extent)))
    stretched = expand(apart, shape=tuple(part for pair in zip(times, shape, strict=True) for part in pair))
    return stretched.reshape(*(n * extent for n, extent in zip(times, shape)))


def _unflatten(self: Tensor, dim: int, sizes: Any) -> Tensor:
    axis, sizes = range(self.ndim)[dim], tuple(sizes)
    known = -prod(sizes) if -1 in sizes else 1
    filled = tuple(self.shape[axis] // max(1, known) if size == -1 else size for size in sizes)
    return operators.reshape(self, shape=(*self.shape[:axis], *filled, *self.shape[axis + 1 :]))


def _at(self: Tensor, dim: int, part: Any) -> Tensor:
    return self[(slice(None),) * range(self.ndim)[dim] + (part,)]


def _flip(self: Tensor, *dims: Any) -> Tensor:
    flipped = {range(self.ndim)[dim] for dim in operators._shape_of(dims)}
    return self[tuple(slice(None, None, -1 if axis in flipped else None) for axis in range(self.ndim))]


def _gather(self: Tensor, dim: int, index: Any) -> Tensor:
    """self[..., index[i, j, ...], ...], in the shape of the index."""
    numbers = np.asarray(index)
    places: list[Any] = list(np.indices(numbers.shape, sparse=True))
    places[dim] = numbers
    return self[tuple(places)]


def _triangle(keep):
    return lambda self, diagonal=0: operators.where(keep(np.ones(self.shape[-2:], bool), diagonal), self, 0)


def _var(
    self: Tensor, dim: Axis = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Variance along axes: the squares' sum over n - 1, or n where not unbiased, or n - correction."""
    off = self - self.mean(axes_of(dim), keepdims=True)
    total = (off * off).sum(axes_of(dim), keepdims=keepdim)
    count = self.data.size // max(1, total.data.size)
    return total / (count - (float(unbiased) if correction is None else correction))


for _name, _method in {
    "sin": sin, "cos": cos, "maximum": maximum, "minimum": minimum, "contiguous": contiguous, "expand": _expand,
    "square": lambda self: self * self, "rsqrt": lambda self: 1 / self.sqrt(), "reciprocal": lambda self: 1 / self,
    "neg": operators.neg, "mul": operators.mul, "div": operators.div, "mm": operators.matmul, "bmm": operators.matmul,
    "add": lambda self, other, *, alpha=1: self + (other if alpha == 1 else other * alpha),
    "sub": lambda self, other, *, alpha=1: self - (other if alpha == 1 else other * alpha),
    "dot": operators.matmul, "var": _var, "std": lambda self, *args, **along: _var(self, *args, **along).sqrt(),
    "amax": operators._reduction(operators.max), "amin": operators._reduction(operators.min),
    "cumsum": lambda self, dim: cumsum(self, axis=dim),
    "expand_as": lambda self, other: _expand(self, *other.shape), "repeat": _repeat, "unflatten": _unflatten,
    "reshape_as": lambda self, other: operators.reshape(self, shape=other.shape), "flip": _flip, "gather": _gather,
    "narrow": lambda self, dim, start, length: _at(self, dim, slice(start, start + length)),
    "select": _at, "index_select": lambda self, dim, index: _at(self, dim, np.asarray(index)),
    "swapaxes": lambda self, first, second: self.transpose(first, second),
    "where": lambda self, condition, other: operators.where(condition, self, other),
    "masked_fill": lambda self, mask, value: operators.where(mask, value, self),
    "tril": _triangle(np.tril), "triu": _triangle(np.triu),
}.items():  # fmt: skip
    setattr(Tensor, _name, _method)
