"""Losses: a mean over this rank's samples, one fused rule each (functional.py).

`reduction="sum"` works on one rank, and says so (`Node.counted`), since under DataParallel the weight of a rank's part
would be wrong: backward refuses it there with the reason. `reduction="none"` leaves the mean to the user: `.mean()`, or
a sum divided by the number of this rank's samples, weighs as it should. A sum that is not divided cannot be told from
one that is: on P ranks its gradient is about 1 / P of one rank's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor, operators
from npdp.autograd.engine import SUMMED
from npdp.autograd.tensor import Array
from npdp.base.arguments import whole
from npdp.nn.functional import (
    bce_with_logits,
    cross_entropy,
    mse_loss,
    require_labels,
    require_same_shape,
    wrong_label,
)
from npdp.nn.module import Module, as_tensor


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{type(self).__name__}: reduction must be mean, sum or none, got {reduction!r}")
        self.reduction = reduction

    def describe(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"

    def _reduced(self, each: Tensor) -> Tensor:
        """Return per-sample losses' mean, or sum, marked as one, which DataParallel refuses; or them as they are."""
        if self.reduction == "none":
            return each
        if self.reduction == "mean":
            return each.mean()
        return _counting(each.sum(), SUMMED)


def _counting(loss: Tensor, counted: float) -> Tensor:
    """Return a loss that says what it is the mean over, for backward."""
    if loss.node is not None:
        loss.node.counted = counted
    return loss


def _of_one_shape(name: str, outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return both as tensors; ValueError says whose they are where their shapes differ."""
    outputs = as_tensor(outputs)
    targets = as_tensor(targets, outputs)
    require_same_shape(name, outputs.data, targets.data)
    return outputs, targets


class MSELoss(_Loss):
    """Mean of (outputs - targets) squared; both of one shape."""

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        if self.reduction == "mean":
            return mse_loss(outputs, targets)
        outputs, targets = _of_one_shape("MSELoss", outputs, targets)
        difference = outputs - targets
        return self._reduced(difference * difference)


class CrossEntropyLoss(_Loss):
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
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"CrossEntropyLoss: label_smoothing must be in [0, 1], got {label_smoothing}")
        if ignore_index is not None:
            ignore_index = whole(ignore_index, "CrossEntropyLoss: ignore_index must be a whole number, or None")
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index
        self._class_weights = None if weight is None else _class_weights(weight)
        if label_smoothing and self._class_weights is not None and not self._class_weights.all():
            raise ValueError(
                f"CrossEntropyLoss: with label_smoothing wanted weights above 0, got {weight!r}; a label of weight 0 "
                "would still count by the other classes: leave its rows out by ignore_index"
            )

    def forward(self, logits: Tensor, labels: Any) -> Tensor:
        """Return the loss; logits (rows, classes), labels (rows,) of integers in [0, classes), or `ignore_index`."""
        all_alike = self._class_weights is None and self.ignore_index is None
        if all_alike and self.reduction == "mean":
            return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        logits, labels = as_tensor(logits), as_tensor(labels)
        require_labels(logits.data, labels.data)
        kept = np.ones(len(labels), bool) if self.ignore_index is None else labels.data != self.ignore_index
        rows = np.where(kept, labels.data, 0)
        if wrong := wrong_label(rows, logits.shape[1]):
            raise ValueError(wrong)
        log_p = operators.log_softmax(logits, axis=1)
        if all_alike:
            return self._reduced(self._smoothed(-log_p[np.arange(len(rows)), rows], log_p))
        classes = self._weights(logits.shape[1]).astype(logits.dtype)
        weights = kept * classes[rows]
        each = operators.where(weights > 0, -log_p[np.arange(len(rows)), rows], 0) * weights
        each = operators.where(kept, self._smoothed(each, log_p * classes), 0)
        if self.reduction != "mean":
            return self._reduced(each)
        total = weights.sum(dtype=np.float64)
        return _counting(each.sum() / logits.dtype.type(total or 1), float(total))

    def _smoothed(self, each: Tensor, log_p: Tensor) -> Tensor:
        """Return the losses of rows, to a part that of all classes alike."""
        smooth = self.label_smoothing  # 0 times the mean is NaN where a class is ruled out: its logit is -inf
        return (1 - smooth) * each - smooth * log_p.mean(axis=1) if smooth else each

    def _weights(self, classes: int) -> Array:
        """Return the weights of so many classes."""
        weights = np.ones(classes) if self._class_weights is None else self._class_weights
        if len(weights) != classes:
            raise ValueError(f"CrossEntropyLoss: wanted as many weights as classes, {classes}, got {len(weights)}")
        return weights


def _class_weights(weight: Any) -> Array:
    """Return the weights of classes as an array; raise where they are none."""
    weights = np.asarray(weight)
    if weights.ndim != 1 or weights.dtype.kind not in "fiu" or not (weights >= 0).all() or np.isinf(weights).any():
        hint = f"; reduction is a keyword: CrossEntropyLoss(reduction={weight!r})" if isinstance(weight, str) else ""
        raise ValueError(f"CrossEntropyLoss: weight must be numbers of at least 0, one a class, got {weight!r}{hint}")
    return weights


class NLLLoss(_Loss):
    """Mean of -log_p[label]: `LogSoftmax` and this equal `CrossEntropyLoss` of the logits, which is quicker."""

    def forward(self, log_p: Tensor, labels: Any) -> Tensor:
        """Return the loss; log_p (rows, classes), labels (rows,) of integers in [0, classes)."""
        log_p, labels = as_tensor(log_p), as_tensor(labels)
        require_labels(log_p.data, labels.data, "NLLLoss")
        if wrong := wrong_label(labels.data, log_p.shape[1], "NLLLoss"):
            raise ValueError(wrong)
        return self._reduced(-log_p[np.arange(len(log_p)), labels.data])


class L1Loss(_Loss):
    """Mean of the absolute values of outputs - targets; both of one shape."""

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        outputs, targets = _of_one_shape("L1Loss", outputs, targets)
        return self._reduced(abs(outputs - targets))


class BCEWithLogitsLoss(_Loss):
    """Mean of the binary cross entropy of sigmoid(logits); targets in [0, 1], of the same shape."""

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        if self.reduction == "mean":
            return bce_with_logits(logits, targets)
        logits, targets = _of_one_shape("BCEWithLogitsLoss", logits, targets)
        zeros = np.zeros_like(logits.data)  # log(exp(0) + exp(z)): smooth at z = 0, where many models begin
        soft_plus = operators.logsumexp(operators.stack(zeros, logits), axis=0)
        return self._reduced(soft_plus - logits * targets)
