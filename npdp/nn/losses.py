"""Losses: a mean over this rank's samples, one fused rule each (functional.py).

`reduction="sum"` works on one rank, and is marked, since under DataParallel the weight of a rank's part would be wrong:
the exchange refuses it with the reason. `reduction="none"` leaves the mean to the user: `.mean()`, or a sum divided by
the number of this rank's samples, weighs as it should. A sum that is not divided cannot be told from one that is: on P
ranks its gradient is about 1 / P of one rank's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor, operators
from npdp.autograd.batch import SUMMED
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
        loss = each.sum()
        loss.batch = SUMMED
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

    Args:
        reduction: mean, sum or none.
        label_smoothing: e in [0, 1]: the target is (1 - e) one-hot + e / classes.
    """

    def __init__(self, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"CrossEntropyLoss: label_smoothing must be in [0, 1], got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Any) -> Tensor:
        """Return the loss; logits (rows, classes), labels (rows,) of integers in [0, classes)."""
        if self.reduction == "mean":
            return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        logits, labels = as_tensor(logits), as_tensor(labels)
        require_labels(logits.data, labels.data)
        if wrong := wrong_label(labels.data, logits.shape[1]):
            raise ValueError(wrong)
        log_p = operators.log_softmax(logits, axis=1)
        each = -log_p[np.arange(len(logits)), labels.data]
        if smooth := self.label_smoothing:  # 0 times the mean is NaN where a class is ruled out: its logit is -inf
            each = (1 - smooth) * each - smooth * log_p.mean(axis=1)
        return self._reduced(each)


class NLLLoss(_Loss):
    """Mean of -log_p[label]: behind `LogSoftmax` it is what `CrossEntropyLoss`, which is quicker, is of the logits."""

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
