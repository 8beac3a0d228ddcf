"""What servers know of an optimiser from the beginning, and what of it the user may change meanwhile: its lr."""

from __future__ import annotations

from typing import Any

from npdp.optim.optimizer import Optimizer

PLAIN = (bool, int, float, str, tuple, type(None))


class Settings:
    """What an optimiser had when the model was wrapped."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self._lr = optimizer, optimizer.lr
        self._known = self._plain()

    def _plain(self) -> dict[str, Any]:
        known = {name: value for name, value in vars(self._optimizer).items() if isinstance(value, PLAIN)}
        return {name: value for name, value in known.items() if name not in ("iteration", "lr")}

    @property
    def changed_lr(self) -> float | None:
        """The learning rate that the user has set since; None: the servers have it, or its schedule."""
        optimizer = self._optimizer
        return None if optimizer.lr is self._lr and callable(self._lr) else float(optimizer.current_lr)

    def require_unchanged(self) -> None:
        """Raise RuntimeError where anything else has changed: servers would go on with the old value."""
        for name, value in self._plain().items():
            if value != self._known[name]:
                raise RuntimeError(
                    f"parameter server: {name} of the optimiser was {self._known[name]} when the model was wrapped and "
                    f"is {value} now; servers have the old one. Only lr may change"
                )
