"""Losses of outputs and targets of one shape: a mean over this rank's samples, as functions and as modules.

`reduction="sum"` works on one rank, and says so (`Node.counted`), since under DataParallel the weight of a rank's part
would be wrong: backward refuses it there with the reason. `reduction="none"` leaves the mean to the user: `.mean()`, or
a sum divided by the number of this rank's samples, weighs as it should. A sum that is not divided cannot be told from
one that is: on P ranks its gradient is about 1 / P of one rank's. A loss over 0 samples is 0.0, its gradient empty: an
empty part of a batch takes part like any other. That of labels is in cross_entropy.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.autograd import Tensor, operators
from npdp.autograd.engine import SUMMED
from npdp.autograd.operation import FIRST, operation
from npdp.autograd.tensor import Array, TensorLike, Vjp
from npdp.nn.module import Module, as_tensor
from npdp.nn.rules import bce_with_logits, mean_square, require_same_shape


def require_reduction(name: str, reduction: Any) -> None:
    """Raise ValueError where this is no reduction."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction must be mean, sum or none, got {reduction!r}")


def reduced(each: Tensor, reduction: str) -> Tensor:
    """Return per-sample losses' mean, or sum, marked as one, which DataParallel refuses; or them as they are."""
    require_reduction("loss", reduction)
    if reduction == "none":
        return each
    return each.mean() if reduction == "mean" else counting(each.sum(), SUMMED)


def counting(loss: Tensor, counted: float) -> Tensor:
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


@operation(keeps=FIRST)
def _huber(difference: Array, *, delta: float) -> tuple[Array, tuple[Vjp, ...]]:
    """Half the square of each element, and beyond delta a line with the slope that it has there."""
    size = np.abs(difference)
    each = np.where(size < delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))
    return each, (lambda g: g * np.clip(difference, -delta, delta),)


def mse_loss(outputs: TensorLike, targets: Any, *, reduction: str = "mean") -> Tensor:
    """Mean of (outputs - targets) squared; both of one shape."""
    if reduction == "mean":
        return mean_square(outputs, targets)
    outputs, targets = _of_one_shape("MSELoss", outputs, targets)
    difference = outputs - targets
    return reduced(difference * difference, reduction)


def l1_loss(outputs: TensorLike, targets: Any, *, reduction: str = "mean") -> Tensor:
    """Mean of the absolute values of outputs - targets; both of one shape."""
    outputs, targets = _of_one_shape("L1Loss", outputs, targets)
    return reduced(abs(outputs - targets), reduction)


def huber_loss(outputs: TensorLike, targets: Any, *, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Mean of half the squares of outputs - targets, beyond delta of delta (|outputs - targets| - delta / 2)."""
    if not delta > 0:
        raise ValueError(f"HuberLoss: delta must be above 0, got {delta}")
    outputs, targets = _of_one_shape("HuberLoss", outputs, targets)
    return reduced(_huber(outputs - targets, delta=delta), reduction)


def smooth_l1_loss(outputs: TensorLike, targets: Any, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """The Huber loss with delta = beta, divided by beta; with 0, the absolute values."""
    if not beta >= 0:
        raise ValueError(f"SmoothL1Loss: beta must be at least 0, got {beta}")
    outputs, targets = _of_one_shape("SmoothL1Loss", outputs, targets)
    if beta == 0:
        return l1_loss(outputs, targets, reduction=reduction)
    return reduced(_huber(outputs - targets, delta=beta) / beta, reduction)


def binary_cross_entropy_with_logits(logits: TensorLike, targets: Any, *, reduction: str = "mean") -> Tensor:
    """Mean of the binary cross entropy of sigmoid(logits); targets in [0, 1], of the same shape."""
    if reduction == "mean":
        return bce_with_logits(logits, targets)
    logits, targets = _of_one_shape("BCEWithLogitsLoss", logits, targets)
    zeros = np.zeros_like(logits.data)  # log(exp(0) + exp(z)): smooth at z = 0, where many models begin
    soft_plus = operators.logsumexp(operators.stack(zeros, logits), axis=0)
    return reduced(soft_plus - logits * targets, reduction)


class Loss(Module):
    """Base class of losses: `reduction` is mean, sum or none."""

    def __init__(self, reduction: str = "mean") -> None:
        require_reduction(type(self).__name__, reduction)
        self.reduction = reduction

    def describe(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSELoss(Loss):
    """Mean of (outputs - targets) squared; both of one shape."""

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        return mse_loss(outputs, targets, reduction=self.reduction)


class L1Loss(Loss):
    """Mean of the absolute values of outputs - targets; both of one shape."""

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        return l1_loss(outputs, targets, reduction=self.reduction)


class HuberLoss(Loss):
    """Mean of half the squares of outputs - targets, beyond delta of delta (|outputs - targets| - delta / 2)."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        return huber_loss(outputs, targets, reduction=self.reduction, delta=self.delta)


class SmoothL1Loss(Loss):
    """The Huber loss with delta = beta, divided by beta; with 0, the absolute values."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, outputs: Tensor, targets: Any) -> Tensor:
        return smooth_l1_loss(outputs, targets, reduction=self.reduction, beta=self.beta)


class BCEWithLogitsLoss(Loss):
    """Mean of the binary cross entropy of sigmoid(logits); targets in [0, 1], of the same shape."""

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        return binary_cross_entropy_with_logits(logits, targets, reduction=self.reduction)
