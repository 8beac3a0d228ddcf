"""Cross entropy of logits and labels, and the loss of log probabilities, in any of PyTorch's layouts.

Rules and formulas: cross_entropy_rules.py.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd import Tensor, operators
from npdp.autograd.tensor import Array, TensorLike
from npdp.base.arguments import whole
from npdp.nn import cross_entropy_rules as rules
from npdp.nn.losses import Loss, counting, reduced
from npdp.nn.module import as_tensor


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
        rules.require_labels(logits.data, labels.data, name)
        self.kept = np.ones(len(labels), bool) if ignore_index is None else labels.data != ignore_index
        self.logits, self.labels = logits, np.where(self.kept, labels.data, 0)
        if wrong := rules.wrong_label(self.labels, logits.shape[1], name):
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
        return rules.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    rows = _Rows("CrossEntropyLoss", logits, labels, weight, ignore_index)
    if weight is None:
        each = rules.row_losses(rows.logits, rows.labels, kept=rows.kept, label_smoothing=label_smoothing)
        return rows.reduced(each, reduction)
    smoothed = (label_smoothing / rows.logits.shape[1] * rows.classes).astype(logits.dtype) if label_smoothing else None
    weights = rows.weights * logits.dtype.type(1 - label_smoothing)
    each = rules.cross_entropies(rows.logits, rows.labels, weights=weights, smooth=smoothed, kept=rows.kept)
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
