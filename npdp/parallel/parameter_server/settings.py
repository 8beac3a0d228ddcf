"""What servers know of an optimiser from the beginning, and what of it the user may change meanwhile: its lr."""

from __future__ import annotations

from npdp.optim.optimizer import Optimizer
from npdp.parallel.agreement import settings_of


class Settings:
    """What an optimiser had when the model was wrapped."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self._lr = optimizer, optimizer.lr
        self._known = settings_of(optimizer)

    @property
    def changed_lr(self) -> float | None:
        """The learning rate that the user has set since; None: the servers have it, or its schedule."""
        optimizer = self._optimizer
        return None if optimizer.lr is self._lr and callable(self._lr) else float(optimizer.current_lr)

    def require_unchanged(self) -> None:
        """Raise RuntimeError where anything else has changed: servers would go on with the old value."""
        for name, value in settings_of(self._optimizer).items():
            if value != self._known[name]:
                raise RuntimeError(
                    f"parameter server: {name} of the optimiser was {self._known[name]} when the model was wrapped and "
                    f"is {value} now; servers have the old one. Only lr may change"
                )
