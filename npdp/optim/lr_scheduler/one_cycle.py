"""The one-cycle scheduler: the learning rate up and far down again, momentum the other way round.

    lr         initial ╱ max ╲ min            initial = max / div_factor, min = initial / final_div_factor
    momentum   max ╲ base ╱ max

Source: Smith and Topin, Super-convergence: very fast training of neural networks using large learning rates, 2018.
"""

from __future__ import annotations

import math
from typing import Any

from npdp.base.arguments import at_least_one
from npdp.optim.lr_scheduler.base import LRScheduler, one_each, require_numbers
from npdp.optim.optimizer import Optimizer


class OneCycleLR(LRScheduler):
    """lr from `max_lr` / `div_factor` up to `max_lr`, and down to far less, in `total_steps` steps, one an iteration.

    Args:
        max_lr: a number, or a list of one a parameter group.
        total_steps: or `epochs` times `steps_per_epoch`.
        pct_start: which part of them goes upwards.
        anneal_strategy: "cos", half cosines, or "linear".
        cycle_momentum: whether momentum, or the first of Adam's betas, goes from `max_momentum` down to
            `base_momentum` and back; not under a parameter server.
        three_phase: down to the initial lr in as many steps as upwards, and then to the least.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        require_numbers(optimizer, "OneCycleLR")
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy is {anneal_strategy!r}, wanted cos or linear")
        self.pct_start, self._anneal_func_type, self.three_phase = pct_start, anneal_strategy, three_phase
        self.cycle_momentum = cycle_momentum
        own: dict[str, list[float]] = {"max_lr": one_each(optimizer, max_lr, "OneCycleLR: max_lr")}
        own["initial_lr"] = [lr / div_factor for lr in own["max_lr"]]
        own["min_lr"] = [lr / final_div_factor for lr in own["initial_lr"]]
        if cycle_momentum:
            own["max_momentum"] = one_each(optimizer, max_momentum, "OneCycleLR: max_momentum")
            own["base_momentum"] = one_each(optimizer, base_momentum, "OneCycleLR: base_momentum")
            _require_momentum(optimizer)
        if last_epoch == -1:
            for number, group in enumerate(optimizer.param_groups):
                group.update({name: values[number] for name, values in own.items()})
        super().__init__(optimizer, last_epoch)

    def closed_form(self) -> list[float]:
        if self.last_epoch > self.total_steps:
            raise ValueError(f"OneCycleLR: wanted at most {self.total_steps} steps, got {self.last_epoch}")
        groups = self.optimizer.param_groups
        for group in groups if self.cycle_momentum else ():
            momentum = self._at(group, "max_momentum", "base_momentum", "max_momentum", "max_momentum")
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return [self._at(group, "initial_lr", "max_lr", "initial_lr", "min_lr") for group in groups]

    def _at(self, group: dict[str, Any], start: str, peak: str, between: str, end: str) -> float:
        """Return a setting now: from `start` to `peak` to `end`, in three phases with `between` in between."""
        up, last = self.pct_start * self.total_steps, self.total_steps - 1
        stops = [(0.0, start), (up - 1, peak), *[(2 * up - 2, between)] * self.three_phase, (last, end)]
        phase = next((i for i, (stop, _) in enumerate(stops[1:-1]) if self.last_epoch <= stop), len(stops) - 2)
        (first, a), (stop, b) = stops[phase], stops[phase + 1]
        done = (self.last_epoch - first) / (stop - first) if stop != first else 1.0
        if self._anneal_func_type == "cos":
            return float(group[b] + (group[a] - group[b]) / 2 * (1 + math.cos(math.pi * done)))
        return float(group[a] + (group[b] - group[a]) * done)


def _total(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return at_least_one(total_steps, "OneCycleLR: total_steps")
    if epochs is None or steps_per_epoch is None:
        raise ValueError("OneCycleLR: wanted total_steps, or epochs and steps_per_epoch")
    steps = at_least_one(steps_per_epoch, "OneCycleLR: steps_per_epoch")
    return at_least_one(epochs, "OneCycleLR: epochs") * steps


def _require_momentum(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        if "betas" not in group and not group.get("momentum"):
            raise ValueError(
                "OneCycleLR: wanted an optimiser that was made with momentum, for cycle_momentum, got one without: "
                "give it momentum, or cycle_momentum=False"
            )
