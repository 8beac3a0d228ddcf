"""Rules of cross entropy: the losses of rows of logits, and their gradient.

    a row's loss = (1 - e) w[label] (L - x[label]) + e / classes sum_c w[c] (L - x[c]),    L = log sum_c exp x[c]
    its gradient = s exp(x - L) - (1 - e) w[label] at the label - e / classes w,           s: the sum of all that

w are the weights of classes, 1 each as a rule, and e the label smoothing. Of few classes the mean is one operation,
on (classes, rows), by kernels. Of many, a vocabulary, or by rows, kernels go along the rows; with weights, NumPy does,
in blocks that a cache holds. Only L is kept, the logits are not copied, and backward works out the probabilities again,
in the place of their gradient.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd.operation import INPUTS, SECOND, operation
from npdp.autograd.tensor import Array, Vjp
from npdp.kernels import layers

BLOCK = 2**16  # elements of the logits that are worked on at once: 256 KB of float32, an eighth of an L2 cache


@operation(keeps=SECOND)
def cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: float = 0.0
) -> tuple[Any, tuple[Vjp | None, ...]]:
    """Mean over rows of -log softmax(logits)[label]; logits (rows, classes), labels (rows,) -> a number."""
    require_labels(logits, labels)
    rows, classes = logits.shape
    count = logits.dtype.type(rows or 1)
    where = np.ascontiguousarray(labels, np.int64)
    found = kernels.shifted_logits(np.ascontiguousarray(logits), where)
    if found is None:
        raise ValueError(wrong_label(labels, classes))
    z, chosen = found
    if label_smoothing:
        chosen = (1 - label_smoothing) * chosen + label_smoothing / classes * z.sum(axis=0)
    np.exp(z, out=z)
    total = np.add.reduce(z, axis=0)
    loss = (np.log(total) - chosen).sum() / count

    def to_logits(g: Array) -> Array:
        share = g / count
        everywhere = share * count.dtype.type(label_smoothing / classes)
        at_label = share * count.dtype.type(1 - label_smoothing)
        return kernels.cross_entropy_gradient(z, total, where, float(share), float(everywhere), float(at_label)).T

    return loss, (to_logits, None)


@operation(keeps=INPUTS)
def row_losses(
    logits: Array, labels: Array, *, kept: Array, label_smoothing: float = 0.0
) -> tuple[Array, tuple[Vjp | None, ...]]:
    """The loss of each row, all classes alike; logits (rows, classes), labels (rows,), kept (rows,) -> (rows,)."""
    found = layers.cross_entropy_rows(logits, labels, label_smoothing)
    assert found is not None  # labels are known to be right
    each, largest, totals = found
    each[~kept] = 0

    def to_logits(g: Array) -> Array:
        gradient = layers.cross_entropy_rows_gradient(logits, labels, largest, totals, g * kept, label_smoothing)
        gradient[~kept] = 0  # whatever its logits are
        return gradient

    return each, (to_logits, None)


@operation(keeps=INPUTS)
def cross_entropies(
    logits: Array, labels: Array, *, weights: Array, smooth: Array | None = None, kept: Array
) -> tuple[Array, tuple[Vjp | None, ...]]:
    """The loss of each row; logits (rows, classes), labels (rows,), weights (rows,) of the labels -> (rows,).

    `smooth` (classes,) are the weights of all classes in each row besides, e / classes w; `kept` says of each row
    whether it counts.
    """
    log_sums, each = np.empty((2, len(logits)), logits.dtype)
    for rows, at_label in _blocks(logits, labels):
        x = logits[rows]
        largest = np.maximum.reduce(x, axis=1, keepdims=True)
        largest[~np.isfinite(largest)] = 0
        x = x - largest
        chosen, others = x[at_label], None if smooth is None else x @ smooth
        np.exp(x, out=x)
        logs = np.log(np.add.reduce(x, axis=1))
        log_sums[rows] = logs + largest[:, 0]
        each[rows] = np.where(weights[rows] > 0, logs - chosen, 0) * weights[rows]
        if smooth is not None:
            each[rows] += smooth.sum() * logs - others
    each[~kept] = 0

    def to_logits(g: Array) -> Array:
        gradient = np.empty(logits.shape, logits.dtype)
        g = g * kept
        for rows, at_label in _blocks(logits, labels):
            p, at = gradient[rows], g[rows] * weights[rows]
            np.subtract(logits[rows], log_sums[rows, None], out=p)
            np.exp(p, out=p)
            p *= (at if smooth is None else at + g[rows] * smooth.sum())[:, None]
            if smooth is not None:
                p -= g[rows, None] * smooth
            p[at_label] -= at
        gradient[~kept] = 0  # whatever its logits are
        return gradient

    return each, (to_logits, None)


def _blocks(logits: Array, labels: Array) -> Iterator[tuple[slice, tuple[Array, Array]]]:
    """Yield blocks of rows, each with the index in it of the elements at the labels."""
    length = max(1, BLOCK // logits.shape[1])
    for start in range(0, len(logits), length):
        rows = slice(start, min(start + length, len(logits)))
        yield rows, (np.arange(rows.stop - start), labels[rows])


def require_labels(logits: Array, labels: Array, name: str = "CrossEntropyLoss") -> None:
    """Raise ValueError or TypeError where these are not logits (rows, classes) and integer labels (rows,)."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] == 0:
        raise ValueError(
            f"{name}: wanted logits (rows, classes), of at least one class, and labels (rows,), "
            f"got shapes {logits.shape} and {labels.shape}"
        )
    if logits.dtype.kind != "f":
        raise TypeError(f"{name}: logits must be floats, got {logits.dtype}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name}: labels must be integers, got {labels.dtype}")


def wrong_label(labels: Array, classes: int, name: str = "CrossEntropyLoss") -> str:
    """Return what is wrong with the first label that is not in [0, classes); empty where all are."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    return f"{name}: labels must be in [0, {classes}), got {wrong[0]}" if wrong.size else ""
