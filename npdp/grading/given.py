"""What an exercise may use of npdp: messages, answered by the grader, and the moves of schedules.

In a student's process `import npdp` finds this in npdp's place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from npdp.collectives.schedule import Move, add, put

MAY = "add, put, rank, world_size, send, receive and allreduce"
Ask = Callable[..., Any]


class Place:
    """Where a call runs: this rank, and of how many."""

    rank, world_size = 0, 1


def install(ask: Ask, place: Place) -> None:
    """Put `npdp` and `npdp.collectives` as exercises know them in the place of the real ones."""
    for name in [name for name in sys.modules if name.split(".")[0] == "npdp"]:
        del sys.modules[name]
    collectives = _Given("npdp.collectives", Move=Move, add=add, put=put)

    def send(array: Any, to: int) -> None:
        ask("send", _array(array), int(to))

    def receive(array: Any, source: int) -> None:
        _array(array)[...] = ask("receive", array, int(source))

    def allreduce(array: Any) -> None:
        _array(array)[...] = ask("allreduce", array)

    whole = _Given(
        "npdp", collectives=collectives, send=send, receive=receive, allreduce=allreduce,
        rank=lambda: place.rank, world_size=lambda: place.world_size,
    )  # fmt: skip
    sys.modules["npdp"], sys.modules["npdp.collectives"] = whole, collectives


class _Given(ModuleType):
    """A module with these names and no others."""

    def __init__(self, name: str, **names: object) -> None:
        super().__init__(name)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"{self.__name__}.{name}: an exercise may use {MAY}; what tries it out goes below "
            '`if __name__ == "__main__":`'
        )


def _array(array: Any) -> Any:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"wanted an array, got {array!r}")
    return array
