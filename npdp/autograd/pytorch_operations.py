"""Operations that programs written for PyTorch use, and NumPy has in another form; rules as in operators.py.

In each rule: a, b, x are the input arrays, y the output, g the gradient of the output.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd.operation import FIRST, INPUTS, OUTPUT, operation
from npdp.autograd.operators import _spread
from npdp.autograd.tensor import Array


# Element by element
@operation(keeps=FIRST)
def log1p(x: Array):
    return np.log1p(x), (lambda g: g / (1 + x),)


@operation(keeps=OUTPUT)
def expm1(x: Array):
    y = np.expm1(x)
    return y, (lambda g: g * (y + 1),)


# Along axes
@operation(keeps=FIRST + OUTPUT)
def norm(x: Array, *, axis: Any = None, keepdims: bool = False):
    """The 2-norm; its gradient at 0 is 0."""
    y = np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))

    def vjp(g: Array) -> Array:
        along = _spread(np.asarray(y), x.shape, axis, keepdims)
        return _spread(g, x.shape, axis, keepdims) * np.where(along == 0, 0, x / np.where(along == 0, 1, along))

    return y, (vjp,)


@operation(keeps=INPUTS)
def einsum(a: Array, b: Array, *, of_a: str, of_b: str, of_y: str):
    """Einstein's sum of two: the indices of a, of b and of the result; each comes once in an input."""
    extents = {**dict(zip(of_a, a.shape)), **dict(zip(of_b, b.shape))}

    def to(mine: str, other: str, beside: Array, g: Array) -> Array:
        found = "".join(i for i in mine if i in of_y + other)
        part = np.einsum(f"{of_y},{other}->{found}", g, beside, optimize=True)
        lost = tuple(axis for axis, i in enumerate(mine) if i not in found)  # summed over in this input alone
        return np.array(np.broadcast_to(np.expand_dims(part, lost), [extents[i] for i in mine]))

    y = np.einsum(f"{of_a},{of_b}->{of_y}", a, b, optimize=True)
    return y, (lambda g: to(of_a, of_b, b, g), lambda g: to(of_b, of_a, a, g))
