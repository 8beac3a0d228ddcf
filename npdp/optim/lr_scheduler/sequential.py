"""Chain of schedulers, one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from npdp.optim.lr_scheduler.base import LRScheduler, require_numbers
from npdp.optim.lr_scheduler.plateau import ReduceLROnPlateau
from npdp.optim.optimizer import Optimizer


class SequentialLR(LRScheduler):
    """Each scheduler until its milestone, and then the next one, from the initial learning rates on.

    Args:
        schedulers: of this optimiser; what they set when they were made is undone.
        milestones: rising, one fewer than there are schedulers.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        self.optimizer = require_numbers(optimizer, "SequentialLR")
        for scheduler in schedulers:
            if isinstance(scheduler, (SequentialLR, ReduceLROnPlateau)) or scheduler.optimizer is not optimizer:
                raise ValueError(
                    "SequentialLR: wanted schedulers by formula, of this optimiser, got "
                    f"{type(scheduler).__name__}" + " of another" * (scheduler.optimizer is not optimizer)
                )
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted(milestones):
            raise ValueError(
                f"SequentialLR: wanted rising milestones, one fewer than the {len(schedulers)} schedulers, got "
                f"{list(milestones)}"
            )
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.last_epoch = 0
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        for scheduler in schedulers:
            scheduler.last_epoch -= 1
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first.begin()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:
        self.last_epoch += 1
        number = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[number]
        if number and self._milestones[number - 1] == self.last_epoch:
            scheduler.restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return the state with those of the schedulers."""
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state over, and those of the schedulers."""
        schedulers = self._schedulers
        states = state.get("_schedulers", ()) if isinstance(state, Mapping) else ()
        if len(states) != len(schedulers):
            raise ValueError(f"SequentialLR.load_state_dict: wanted {len(schedulers)} schedulers, got {len(states)}")
        super().load_state_dict({name: value for name, value in state.items() if name != "_schedulers"})
        for scheduler, its_state in zip(schedulers, states):
            scheduler.load_state_dict(its_state)
