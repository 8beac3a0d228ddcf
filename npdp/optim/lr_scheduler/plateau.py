"""Scheduler by a metric: reduces the learning rate when the metric gets no better."""

from __future__ import annotations

import math
from typing import SupportsFloat

from npdp.optim.lr_scheduler.base import LRScheduler, one_each, require_numbers
from npdp.optim.optimizer import Optimizer


class ReduceLROnPlateau(LRScheduler):
    """lr *= factor where a metric has not become better for more than `patience` steps.

    `step(metrics)` needs the same number on all ranks: `npdp.global_mean(loss, count)`, not this rank's loss.

    Args:
        mode: "min" where less is better, or "max".
        threshold, threshold_mode: by how much it must be better: of the best ("rel"), or as it is ("abs").
        cooldown: so many steps after a reduction are not counted.
        min_lr: below it none goes; a number, or a list of one a parameter group.
        eps: a smaller reduction is left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.optimizer = require_numbers(optimizer, "ReduceLROnPlateau")
        for name, value, known in (("mode", mode, ("min", "max")), ("threshold_mode", threshold_mode, ("rel", "abs"))):
            if value not in known:
                raise ValueError(f"ReduceLROnPlateau: {name} is {value!r}, wanted {' or '.join(known)}")
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be in [0, 1), got {factor}")
        self.mode, self.factor, self.patience, self.cooldown, self.eps = mode, factor, patience, cooldown, eps
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.min_lrs = one_each(optimizer, min_lr, "ReduceLROnPlateau: min_lr")
        self.best = math.inf if mode == "min" else -math.inf
        self.last_epoch = self.cooldown_counter = self.num_bad_epochs = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics: SupportsFloat) -> None:  # type: ignore[override]
        """Look at the metric, and reduce the learning rates where it has got no better for too long."""
        metric = float(metrics)
        self.last_epoch += 1
        self.num_bad_epochs += 1
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        if self.num_bad_epochs > self.patience:
            reduced = [max(lr * self.factor, least) for lr, least in zip(lrs, self.min_lrs, strict=True)]
            lrs = [new if lr - new > self.eps else lr for lr, new in zip(lrs, reduced)]
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._set(lrs)

    def _is_better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * metric > sign * self.best * (1 + sign * self.threshold)
        return sign * metric > sign * self.best + self.threshold
