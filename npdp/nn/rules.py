"""Fused rules: a layer or a loss as one operation, where that saves walks through memory.

`linear` is matmul, add and transpose in one. A loss over 0 samples is 0.0, its gradient empty: an empty part of a batch
takes part like any other. Families of layers with a file of their own have their rules there.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd.operation import FIRST, INPUTS, NOTHING, SECOND, logistic, operation
from npdp.autograd.tensor import Array, Tensor, TensorLike, Vjp


@operation(keeps=INPUTS, writes=True)
def linear(x: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """x @ weight.T + bias; x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    if x.ndim == 2:
        return _linear_of_rows(x, weight, bias)
    y, (to_x, to_weight, to_bias) = _linear_of_rows(x.reshape(-1, x.shape[-1]), weight, bias)

    def rows(g: Array) -> Array:
        return g.reshape(-1, g.shape[-1])

    return y.reshape(*x.shape[:-1], len(weight)), (
        lambda g, out=None: to_x(rows(g)).reshape(x.shape),
        lambda g, out=None: to_weight(rows(g), out),
        lambda g, out=None: to_bias(rows(g), out),
    )


def _linear_of_rows(x: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Vjp, Vjp, Vjp]]:
    """x (rows, in) -> (rows, out)."""
    y = kernels.matmul(x, weight, trans_b=True)
    y += bias

    def to_x(g: Array, out: Array | None = None) -> Array:
        return kernels.matmul(g, weight)

    def to_weight(g: Array, out: Array | None = None) -> Array:
        if weight.flags.c_contiguous:
            return kernels.matmul(g.T, x, out)
        gradient = kernels.matmul(x.T, g, None if out is None else out.T).T  # stored (in, out)
        return gradient if out is None else out  # itself: who owns it knows it by identity

    def to_bias(g: Array, out: Array | None = None) -> Array:
        return np.add.reduce(g, axis=0, out=out)

    return y, (to_x, to_weight, to_bias)


def require_same_shape(name: str, outputs: Array, targets: Array) -> None:
    """Raise ValueError where outputs and targets of a loss are not of one shape."""
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{name}: outputs have shape {outputs.shape}, targets {targets.shape}; they must be the same"
        )


@operation(keeps=NOTHING)
def mean_square(outputs: Array, targets: Array) -> tuple[Any, tuple[Vjp, ...]]:
    """Mean of (outputs - targets) squared; both of one shape -> a number."""
    require_same_shape("MSELoss", outputs, targets)
    difference = outputs - targets
    flat = difference.reshape(-1)
    count = flat.size or 1

    def to_outputs(g: Array) -> Array:
        return difference * (g * (2 / count))

    return np.dot(flat, flat) / count, (to_outputs, lambda g: -to_outputs(g))


@operation(keeps=INPUTS)
def bce_with_logits(logits: Array, targets: Array) -> tuple[Any, tuple[Vjp, ...]]:
    """Mean of -t log s(z) - (1 - t) log(1 - s(z)), s the sigmoid; both of one shape -> a number."""
    require_same_shape("BCEWithLogitsLoss", logits, targets)
    count = logits.dtype.type(logits.size or 1)
    # max(z, 0) - z t + log(1 + exp(-|z|)): no overflow at either end
    loss = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))

    def to_logits(g: Array) -> Array:
        return (logistic(logits) - targets) * (g / count)

    return loss.sum() / count, (to_logits, lambda g: -logits * (g / count))


@operation(keeps=FIRST)
def _leaky_relu(x: Array, *, slope: float) -> tuple[Array, tuple[Vjp, ...]]:
    """x where it is above 0, else slope * x: the rule of `leaky_relu`."""
    return np.where(x > 0, x, x * slope), (lambda g: np.where(x > 0, g, g * slope),)


def leaky_relu(x: TensorLike, negative_slope: float = 0.01) -> Tensor:
    """x where it is above 0, else negative_slope * x."""
    return _leaky_relu(x, slope=negative_slope)


@operation(keeps=SECOND)
def scale_by(x: Array, mask: Array) -> tuple[Array, tuple[Vjp | None, ...]]:
    """x * mask, the mask a constant: dropout's rule."""
    return x * mask, (lambda g: g * mask, None)
