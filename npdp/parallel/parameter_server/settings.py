"""What servers know of an optimiser from the beginning, and what of it the user may change meanwhile: its lr."""

from __future__ import annotations

from typing import Any

from npdp.nn.parameter import Parameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.agreement import settings_of


def group_of(optimizer: Optimizer, key: ParameterGroup | Parameter) -> dict[str, Any]:
    """Return the user's parameter group by which some flat parameters, or a sparse one, are updated."""
    return key.settings if isinstance(key, ParameterGroup) else optimizer.sparse_parameters[key]


class Settings:
    """What an optimiser had for a parameter group when the model was wrapped."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        self._optimizer, self._group, self._lr = optimizer, group, group["lr"]
        self._known = settings_of(optimizer, group)

    @property
    def changed_lr(self) -> float | None:
        """The learning rate that the user has set since; None: the servers have it, or its schedule."""
        lr = self._group["lr"]
        return None if lr is self._lr and callable(lr) else float(self._optimizer.lr_of(self._group))

    def require_unchanged(self) -> None:
        """Raise RuntimeError where anything else has changed: servers would go on with the old value."""
        for name, value in settings_of(self._optimizer, self._group).items():
            if value != self._known[name]:
                raise RuntimeError(
                    f"parameter server: {name} of the optimiser was {self._known[name]} when the model was wrapped and "
                    f"is {value} now; servers have the old one. Only lr may change"
                )
