"""Cross entropy of logits and labels, and the loss of log probabilities.

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
from npdp.autograd import Tensor, operators
from npdp.autograd.operation import INPUTS, SECOND, operation
from npdp.autograd.tensor import Array, TensorLike, Vjp
from npdp.base.arguments import whole
from npdp.kernels import layers
from npdp.nn.losses import Loss, counting, reduced
from npdp.nn.module import as_tensor

BLOCK = 2**16  # elements of the logits that are worked on at once: 256 KB of float32, an eighth of an L2 cache


@operation(keeps=SECOND)
def _cross_entropy(
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
def _row_losses(
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
def _cross_entropies(
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


class _Rows:
    """Logits and labels of any of PyTorch's layouts as rows, and how much each row counts.

    Attributes:
        logits, labels: (rows, classes) and (rows,), 0 where a row is ignored.
        kept: (rows,), whether a row counts.
        classes: (classes,) the weights.
        weights: (rows,) those of the labels, 0 where a row is ignored.
    """

    def __init__(self, name: str, logits: Any, labels: Any, weight: Any, ignore_index: int | None) -> None:
        logits, labels = as_tensor(logits), as_tensor(labels)
        self.shape = labels.shape
        if logits.ndim != 2 and labels.shape == logits.shape[:1] * (logits.ndim > 1) + logits.shape[2:]:
            logits, labels = _last(logits), labels.reshape(labels.data.size)
        require_labels(logits.data, labels.data, name)
        self.kept = np.ones(len(labels), bool) if ignore_index is None else labels.data != ignore_index
        self.logits, self.labels = logits, np.where(self.kept, labels.data, 0)
        if wrong := wrong_label(self.labels, logits.shape[1], name):
            raise ValueError(wrong)
        self.classes = _class_weights(name, weight, logits.shape[1]).astype(logits.dtype)
        self.weights = self.kept * self.classes[self.labels]
        self.all_alike = weight is None and ignore_index is None

    def reduced(self, each: Tensor, reduction: str) -> Tensor:
        """Return the rows' losses as a mean, over what they weigh, a sum, or themselves in the labels' shape."""
        if reduction != "mean" or self.all_alike:
            return reduced(each.reshape(self.shape) if reduction == "none" else each, reduction)
        total = self.weights.sum(dtype=np.float64)
        return counting(each.sum() / each.dtype.type(total or 1), float(total))


def _last(logits: Tensor) -> Tensor:
    """Return (classes,) or (N, classes, d1, ...) as (rows, classes)."""
    axis = min(1, logits.ndim - 1)
    order = (*(number for number in range(logits.ndim) if number != axis), axis)
    classes = logits.shape[axis]
    return operators.transpose(logits, axes=order).reshape(logits.data.size // max(1, classes), classes)


def _class_weights(name: str, weight: Any, classes: int | None = None) -> Array:
    """Return the weights of so many classes as an array; raise where they are none."""
    weights = np.ones(classes or 0) if weight is None else np.asarray(weight)
    if weights.ndim != 1 or weights.dtype.kind not in "fiu" or not (weights >= 0).all() or np.isinf(weights).any():
        hint = f"; reduction is a keyword: {name}(reduction={weight!r})" if isinstance(weight, str) else ""
        raise ValueError(f"{name}: weight must be numbers of at least 0, one a class, got {weight!r}{hint}")
    if classes is not None and len(weights) != classes:
        raise ValueError(f"{name}: wanted as many weights as classes, {classes}, got {len(weights)}")
    return weights


def _checked_smoothing(weight: Any, label_smoothing: float) -> None:
    """Raise ValueError where labels cannot be smoothed so."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"CrossEntropyLoss: label_smoothing must be in [0, 1], got {label_smoothing}")
    if label_smoothing and weight is not None and not np.all(weight):
        raise ValueError(
            f"CrossEntropyLoss: with label_smoothing wanted weights above 0, got {weight!r}; a label of weight 0 "
            "would still count by the other classes: leave its rows out by ignore_index"
        )


def cross_entropy(
    logits: TensorLike,
    labels: Any,
    weight: Any = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean of -log softmax(logits)[label]; see `CrossEntropyLoss`."""
    logits = as_tensor(logits)
    shape = logits.array.shape
    if label_smoothing:
        _checked_smoothing(weight, label_smoothing)
    few = len(shape) == 2 and shape[1] <= kernels.FEW_CLASSES
    if few and weight is None and ignore_index is None and reduction == "mean":
        return _cross_entropy(logits, labels, label_smoothing=label_smoothing)
    rows = _Rows("CrossEntropyLoss", logits, labels, weight, ignore_index)
    if weight is None:
        each = _row_losses(rows.logits, rows.labels, kept=rows.kept, label_smoothing=label_smoothing)
        return rows.reduced(each, reduction)
    smoothed = (label_smoothing / rows.logits.shape[1] * rows.classes).astype(logits.dtype) if label_smoothing else None
    weights = rows.weights * logits.dtype.type(1 - label_smoothing)
    each = _cross_entropies(rows.logits, rows.labels, weights=weights, smooth=smoothed, kept=rows.kept)
    return rows.reduced(each, reduction)


def nll_loss(
    log_p: TensorLike, labels: Any, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Tensor:
    """Mean of -log_p[label]; see `NLLLoss`."""
    rows = _Rows("NLLLoss", log_p, labels, weight, ignore_index)
    chosen = -rows.logits[np.arange(len(rows.labels)), rows.labels]
    return rows.reduced(operators.where(rows.weights > 0, chosen, 0) * rows.weights, reduction)


class NLLLoss(Loss):
    """Mean of -log_p[label]: `LogSoftmax` and this equal `CrossEntropyLoss` of the logits, which is quicker.

    Args:
        weight, ignore_index, reduction: as of `CrossEntropyLoss`.
    """

    def __init__(self, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        name = type(self).__name__
        _class_weights(name, weight)
        if ignore_index is not None:
            ignore_index = whole(ignore_index, f"{name}: ignore_index must be a whole number, or None")
        self.ignore_index, self._class_weights = ignore_index, weight

    def forward(self, log_p: Tensor, labels: Any) -> Tensor:
        """Return the loss; log_p and labels as the logits and labels of `CrossEntropyLoss`."""
        options: dict[str, Any] = dict(ignore_index=self.ignore_index, reduction=self.reduction)
        return nll_loss(log_p, labels, self._class_weights, **options)


class CrossEntropyLoss(NLLLoss):
    """Mean of -log softmax(logits)[label].

    With weights it is the sum of w[label] times that over the sum of w[label], of all ranks' rows: the loss itself says
    what it counted, so `backward` is to be called on it, and not on what is computed from it. Where no row counts it is
    0, as over no samples (PyTorch: NaN).

    Args:
        weight: (classes,) w; 1 each where None; 0 leaves a class out, which cannot be smoothed.
        ignore_index: a label whose rows do not count; there is none where None (PyTorch: -100).
        reduction: mean, sum or none.
        label_smoothing: e in [0, 1]: the target is (1 - e) one-hot + e / classes, each class by its weight.
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction)
        _checked_smoothing(weight, label_smoothing)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Any) -> Tensor:
        """Return the loss.

        Args:
            logits: (N, classes), (N, classes, d1, ...) or (classes,).
            labels: (N,), (N, d1, ...) or (), integers in [0, classes), or `ignore_index`.
        """
        return cross_entropy(
            logits, labels, self._class_weights, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
