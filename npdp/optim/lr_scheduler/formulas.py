"""Learning-rate schedulers given by a formula of the number of steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from npdp.base.arguments import at_least_one, require_number
from npdp.optim.lr_scheduler.base import LRScheduler, one_each
from npdp.optim.optimizer import Optimizer


class LambdaLR(LRScheduler):
    """lr = initial lr * f(k), f a function or a list of one a group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas: list[Callable[[int], float]] = one_each(optimizer, lr_lambda, "LambdaLR: lr_lambda")
        super().__init__(optimizer, last_epoch)

    def closed_form(self) -> list[float]:
        return [lr * f(self.last_epoch) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the functions."""
        return {name: value for name, value in super().state_dict().items() if name != "lr_lambdas"}


class _Multiplying(LRScheduler):
    """lr *= f(k) / f(k - 1), with f(k) as `multiple` gives it."""

    def multiple(self, epoch: int) -> float:
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        return [lr * self.multiple(self.last_epoch) for lr in self.base_lrs]

    def get_lr(self) -> list[float]:
        now = self.multiple(self.last_epoch)
        before = self.multiple(self.last_epoch - 1) if self.last_epoch else 1.0
        if not before:
            return self.closed_form()
        ratio = 1.0 if before == now else now / before
        return [group["lr"] * ratio for group in self.optimizer.param_groups]


class StepLR(_Multiplying):
    """lr *= gamma every `step_size` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = at_least_one(step_size, "StepLR: step_size"), gamma
        super().__init__(optimizer, last_epoch)

    def multiple(self, epoch: int) -> float:
        return float(self.gamma ** (epoch // self.step_size))


class MultiStepLR(_Multiplying):
    """lr *= gamma at each milestone."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def multiple(self, epoch: int) -> float:
        return float(self.gamma ** sum(count for milestone, count in self.milestones.items() if milestone <= epoch))


class ExponentialLR(_Multiplying):
    """lr *= gamma in every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def multiple(self, epoch: int) -> float:
        return float(self.gamma**epoch)


class ConstantLR(_Multiplying):
    """lr = initial lr * factor for `total_iters` steps, and the initial lr ever after."""

    def __init__(
        self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        self.factor, self.total_iters = _in_0_to_1(factor, "ConstantLR: factor"), total_iters
        super().__init__(optimizer, last_epoch)

    def multiple(self, epoch: int) -> float:
        return self.factor if epoch < self.total_iters else 1.0


class LinearLR(_Multiplying):
    """lr = initial lr * a number that goes from `start_factor` to `end_factor` along a line, in `total_iters` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = _in_0_to_1(start_factor, "LinearLR: start_factor", above=True)
        self.end_factor = _in_0_to_1(end_factor, "LinearLR: end_factor")
        self.total_iters = at_least_one(total_iters, "LinearLR: total_iters")
        super().__init__(optimizer, last_epoch)

    def multiple(self, epoch: int) -> float:
        done = min(self.total_iters, epoch) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * done


def _in_0_to_1(value: float, name: str, above: bool = False) -> float:
    wanted = f"{name} must be a number in {'(' if above else '['}0, 1]"
    require_number(value, wanted)
    if not 0 <= value <= 1 or (above and value == 0):
        raise ValueError(f"{wanted}, got {value}")
    return value


class CosineAnnealingLR(LRScheduler):
    """lr goes from the initial one to `eta_min` along half a cosine in `T_max` steps, and back in as many."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:  # noqa: N803
        self.T_max, self.eta_min = at_least_one(T_max, "CosineAnnealingLR: T_max"), eta_min
        super().__init__(optimizer, last_epoch)

    def closed_form(self) -> list[float]:
        return [self.eta_min + (lr - self.eta_min) * self._part(self.last_epoch) for lr in self.base_lrs]

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [group["lr"] for group in self.optimizer.param_groups]
        before, now = self._part(self.last_epoch - 1), self._part(self.last_epoch)
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # it was `eta_min`
            return [group["lr"] + (lr - self.eta_min) * now
                    for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True)]  # fmt: skip
        return [self.eta_min + (group["lr"] - self.eta_min) * (now / before) for group in self.optimizer.param_groups]

    def _part(self, epoch: int) -> float:
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2
