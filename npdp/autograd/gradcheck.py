"""Compares gradient rules with central finite differences, in float64.

    d (cotangent . f(x)) / d x_i   is about   cotangent . (f(x + h e_i) - f(x - h e_i)) / 2h

A result of any shape is contracted with one random cotangent: one backward checks the whole Jacobian, up to an
accident. Cost: two evaluations of the function for each element of each input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from npdp.autograd.recording import no_grad
from npdp.autograd.tensor import Array, Tensor

STEP = 1e-5  # truncation grows as h^2, rounding as 1e-16 / h: they meet near here


class GradientError(AssertionError):
    """Error: a gradient rule and finite differences disagree."""


def gradcheck(function: Callable[..., Tensor], *tensors: Tensor, tolerance: float = 1e-6) -> None:
    """Compare the gradients of `function` at `tensors` with finite differences.

    The tensors keep their values and their `.grad`.

    Args:
        function: takes the tensors, returns one of any shape; smooth within 1e-5 of them.
        tensors: float64; those with requires_grad are checked.
        tolerance: largest difference allowed, relative where the gradient is above 1.

    Raises:
        GradientError: naming the operation, input, element, the gradient wanted and the one got.
        TypeError: a tensor to check is not float64.
    """
    for number, tensor in enumerate(tensors):
        if tensor.requires_grad and tensor.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64, input {number} is {tensor.dtype}")
    inputs = [Tensor(tensor.data.copy(), requires_grad=tensor.requires_grad) for tensor in tensors]
    output = function(*inputs)
    if output.node is None:
        raise GradientError("the result depends on no input with requires_grad")
    name = output.node.name
    cotangent = np.random.default_rng(0).uniform(0.5, 1.5, output.shape)
    output.backward(cotangent)
    for number, tensor in enumerate(inputs):
        if tensor.requires_grad:
            _compare(f"{name}: input {number}", tensor, _slope(function, inputs, tensor, cotangent), tolerance)


def _slope(function: Callable[..., Tensor], inputs: list[Tensor], moved: Tensor, cotangent: Array) -> Array:
    """Return d (cotangent . function) / d moved, by finite differences; puts the values of `moved` back."""
    slope = np.empty(moved.shape)
    for at in np.ndindex(moved.shape):
        value = float(moved.data[at])
        ends = []
        for shifted in (value + STEP, value - STEP):
            moved.data[at] = shifted
            with no_grad():
                ends.append(function(*inputs).data.copy())
        moved.data[at] = value
        slope[at] = np.vdot(cotangent, ends[0] - ends[1]) / (2 * STEP)
    return slope


def _compare(where: str, tensor: Tensor, wanted: Array, tolerance: float) -> None:
    got = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad
    if got.shape != wanted.shape:
        raise GradientError(f"{where}: wanted a gradient of shape {wanted.shape}, got {got.shape}")
    wrong = ~(np.abs(got - wanted) <= tolerance * np.maximum(1, np.abs(wanted)))  # NaN is wrong too
    if wrong.any():
        at = tuple(int(axis[0]) for axis in np.nonzero(wrong)) if wanted.ndim else ()
        raise GradientError(f"{where}, element {at}: wanted {wanted[at]:.9g}, got {got[at]:.9g}")
