"""Fused rules: a layer or a loss as one operation, where that saves walks through memory.

`linear` is matmul, add and transpose in one; `cross_entropy` is log_softmax, picking and mean in one, its
gradient softmax minus one-hot. A loss over 0 samples is 0.0, its gradient empty: an empty part of a batch
takes part like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd.operation import INPUTS, NOTHING, SECOND, operation
from npdp.autograd.tensor import Array, Vjp


@operation(keeps=INPUTS, writes=True)
def linear(x: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Vjp, ...]]:
    """x @ weight.T + bias; x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    y = np.dot(rows, weight.T)
    y += bias

    def flat(g: Array) -> Array:
        return g if g.ndim == 2 else g.reshape(-1, g.shape[-1])

    def to_x(g: Array, out: Array | None = None) -> Array:
        return np.dot(flat(g), weight).reshape(x.shape)

    def to_weight(g: Array, out: Array | None = None) -> Array:
        if weight.flags.c_contiguous:
            return np.dot(flat(g).T, rows, out=out)
        gradient = np.dot(rows.T, flat(g), out=None if out is None else out.T).T  # stored (in, out)
        return gradient if out is None else out

    def to_bias(g: Array, out: Array | None = None) -> Array:
        return np.add.reduce(flat(g), axis=0, out=out)

    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], -1), (to_x, to_weight, to_bias)


@operation(keeps=NOTHING)
def mse_loss(outputs: Array, targets: Array) -> tuple[Any, tuple[Vjp, ...]]:
    """Mean of (outputs - targets) squared; both of one shape -> a number."""
    difference = outputs - targets
    flat = difference.reshape(-1)
    count = flat.dtype.type(flat.size or 1)

    def to_outputs(g: Array) -> Array:
        return difference * (g * 2 / count)

    return np.dot(flat, flat) / count, (to_outputs, lambda g: -to_outputs(g))


@operation(keeps=SECOND)
def cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: float = 0.0, divide: bool = True
) -> tuple[Any, tuple[Vjp | None, ...]]:
    """Mean over rows of -log softmax(logits)[label]; logits (rows, classes), labels (rows,) -> a number."""
    count = logits.dtype.type((len(logits) or 1) if divide else 1)
    classes = logits.shape[1]
    rows = np.arange(len(logits))
    probabilities = logits - logits.max(axis=1, keepdims=True)
    chosen = probabilities[rows, labels]
    total_shifted = probabilities.sum(dtype=np.float64) if label_smoothing else 0.0
    np.exp(probabilities, out=probabilities)
    total = np.add.reduce(probabilities, axis=1, keepdims=True)
    log_total = np.log(total).sum()
    loss = log_total - (1 - label_smoothing) * chosen.sum() - label_smoothing / classes * total_shifted
    probabilities /= total

    def to_logits(g: Array) -> Array:
        gradient = probabilities * (g / count)
        if label_smoothing:
            gradient -= g / count * logits.dtype.type(label_smoothing / classes)
        gradient[rows, labels] -= g / count * logits.dtype.type(1 - label_smoothing)
        return gradient

    return logits.dtype.type(loss) / count, (to_logits, None)


@operation(keeps=INPUTS)
def bce_with_logits(logits: Array, targets: Array, *, divide: bool = True) -> tuple[Any, tuple[Vjp, ...]]:
    """Mean of -t log s(z) - (1 - t) log(1 - s(z)), s the sigmoid; both of one shape -> a number."""
    count = logits.dtype.type((logits.size or 1) if divide else 1)
    # max(z, 0) - z t + log(1 + exp(-|z|)): no overflow at either end
    loss = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))

    def to_logits(g: Array) -> Array:
        return (0.5 * (1 + np.tanh(0.5 * logits)) - targets) * (g / count)

    return loss.sum() / count, (to_logits, lambda g: -logits * (g / count))


@operation(keeps=SECOND)
def scale_by(x: Array, mask: Array) -> tuple[Array, tuple[Vjp | None, ...]]:
    """x * mask, the mask a constant: dropout's rule."""
    return x * mask, (lambda g: g * mask, None)
