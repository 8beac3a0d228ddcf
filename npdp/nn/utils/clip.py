"""Clipping gradients, by their norm or each element."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.rows import RowGradient
from npdp.autograd.tensor import Array

BLOCK = 2**13  # elements that are squared at once: they fit a cache, and OpenBLAS adds up to 10,000 on one thread


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients, in place, so that their common 2-norm is at most `max_norm`; return the norm before,
    a NumPy number, which has PyTorch's `item()`.

    After `backward` under DataParallel the gradients are the global ones on every rank, so every rank finds
    the same norm and nothing is communicated. Parameters without a gradient do not count; of a sparse one, its rows do.

    Raises:
        ValueError: `max_norm` is negative or NaN.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be at least 0, got {max_norm}")
    gradients = _gradients(parameters)
    norm = math.sqrt(sum(_sum_of_squares(gradient.ravel(order="K")) for gradient in gradients))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for gradient in gradients:
            gradient *= gradient.dtype.type(factor)
    return np.float64(norm)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring each element of all gradients into [-clip_value, clip_value], in place; under DataParallel the global ones.

    Raises:
        ValueError: `clip_value` is negative or NaN.
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value must be at least 0, got {clip_value}")
    for gradient in _gradients(parameters):
        np.clip(gradient, -clip_value, clip_value, out=gradient)


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Array]:
    """Return the gradients that there are."""
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters  # its rows have no gradients
    return [_array(parameter) for parameter in parameters if parameter.grad is not None]


def _array(parameter: Tensor) -> Array:
    """Return the gradient as an array that can be changed in place; of a sparse parameter, the values of its rows."""
    gradient: Any = parameter.grad
    if isinstance(gradient, np.generic):  # a number, as NumPy makes of `p.grad * 0.5` where there are no axes
        gradient = parameter.grad = np.asarray(gradient)
    return gradient.values if isinstance(gradient, RowGradient) else gradient


def _sum_of_squares(flat: Array) -> float:
    """Return the sum of squares, added up in float64: there a float32's square neither overflows nor gets lost."""
    if flat.size > BLOCK:
        return sum(_sum_of_squares(flat[start : start + BLOCK]) for start in range(0, flat.size, BLOCK))
    numbers = flat.astype(np.float64, copy=False)
    return float(np.dot(numbers, numbers))
