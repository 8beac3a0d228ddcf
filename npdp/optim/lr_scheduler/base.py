"""The base of learning-rate schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npdp.optim.optimizer import Optimizer


class LRScheduler:
    """Base class of the schedulers: they write `closed_form`, and `get_lr` where a step goes on from the last one.

    Args:
        optimizer: whose learning rates are set, at once and in each step; a function of the iteration is refused.
        last_epoch: how many steps were done before, less one; above -1 the groups have an "initial_lr" already.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer, self.last_epoch = require_numbers(optimizer, type(self).__name__), last_epoch
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ValueError(
                    f'{type(self).__name__}: parameter group {number} has no "initial_lr": load the optimiser\'s '
                    "state first, or leave last_epoch out"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.begin()

    def begin(self) -> None:
        """Do the step with which a schedule begins; where it is taken up again, learning rates stay as they are."""
        self.last_epoch += 1
        self._set(self.get_lr() if self.last_epoch == 0 else [group["lr"] for group in self.optimizer.param_groups])

    def closed_form(self) -> list[float]:
        """Return each group's learning rate at `last_epoch`, from its "initial_lr" alone."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """Return each group's learning rate at `last_epoch`, from the one before."""
        return self.closed_form()

    def step(self) -> None:
        """Set the next learning rates."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def restart(self) -> None:
        """Begin anew, from each group's "initial_lr"."""
        self.last_epoch = 0
        self._set(self.closed_form())

    def _set(self, lrs: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr
        self._last_lr = list(lrs)

    def get_last_lr(self) -> list[float]:
        """Return the learning rates that were set last, a group each."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Return all attributes but the optimiser, which has a state of its own."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take attributes over that this scheduler has, PyTorch's too; the optimiser's learning rates are its own."""
        if not (isinstance(state, Mapping) and "last_epoch" in state):
            raise TypeError(f"{type(self).__name__}.load_state_dict: wanted what state_dict() gives, got {state!r:.60}")
        vars(self).update({name: value for name, value in state.items() if name in self.state_dict()})


def require_numbers(optimizer: Optimizer, who: str) -> Optimizer:
    """Return the optimiser; raise TypeError or ValueError where its learning rates cannot be set by a scheduler."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{who}: wanted an optimiser of npdp.optim, got {type(optimizer).__name__}")
    if any(callable(group["lr"]) for group in optimizer.param_groups):
        raise ValueError(f"{who}: lr is a function of the iteration already; give the optimiser a number")
    return optimizer


def one_each(optimizer: Optimizer, values: Any, name: str) -> list[Any]:
    """Return a value for each parameter group: those of a list, or always the same."""
    if not isinstance(values, (list, tuple)):
        return [values] * len(optimizer.param_groups)
    if len(values) != len(optimizer.param_groups):
        raise ValueError(f"{name}: wanted {len(optimizer.param_groups)}, one a parameter group, got {len(values)}")
    return list(values)
