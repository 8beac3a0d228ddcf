"""Faults on purpose: what each of them does, and when (inject.py has what they are called).

    place.part = "backward"      the program says where it is, as always (base/place.py)
            └─ FaultyPlace       stands in for the place of a rank that something is to befall: it looks whether that
                                 is due in this part of this iteration

The ordinary path knows nothing of it: where nothing is to go wrong the place is a plain one.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from npdp.base.place import Place
from npdp.collectives.communicator import Communicator
from npdp.data.sampler import shard
from npdp.elastic.inject import Fault


class InjectedError(RuntimeError):
    """Exception that `--inject raise@...` asked for."""


class FaultyPlace(Place):
    """Place at which faults come: as its program enters a part, those that are due there.

    Args:
        faults: of this rank.
        befall: called with each as it comes.
    """

    __slots__ = ("_befall", "_due", "_part")

    def __init__(self, faults: Sequence[Fault], befall: Callable[[Fault], None]) -> None:
        self._due, self._befall = list(faults), befall
        super().__init__()

    @property
    def part(self) -> str:
        return self._part

    @part.setter
    def part(self, part: str) -> None:
        self._part = part
        self.enter(part)

    def enter(self, part: str) -> None:
        """Let come what is due in this part, which may be that of a thread beside the program."""
        for fault in [fault for fault in self._due if fault.part == part and fault.iteration <= self.iteration + 1]:
            self._due.remove(fault)
            self._befall(fault)


class Faults:
    """Faults of this rank, by its number in this world; without any it does nothing.

    Args:
        faults: of all ranks.
    """

    def __init__(self, faults: Sequence[Fault], world: Communicator) -> None:
        mine = [fault for fault in faults if fault.rank in (None, world.rank) and fault.kind in DOES]
        if mine:
            world.place = shard().place = FaultyPlace(mine, lambda fault: DOES[fault.kind](fault))


def _kill(fault: Fault) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(fault: Fault) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _segv(fault: Fault) -> None:
    ctypes.string_at(0)


def _exit(fault: Fault) -> None:
    os._exit(fault.code)


def _raise(fault: Fault) -> None:
    raise InjectedError(f"--inject {fault}")


DOES: Mapping[str, Callable[[Fault], None]] = MappingProxyType(
    {"kill": _kill, "stop": _stop, "segv": _segv, "exit": _exit, "raise": _raise}
)


class Pace:
    """Slowdown of this rank's iterations."""

    def __init__(self, faults: Sequence[Fault], rank: int) -> None:
        mine = [fault for fault in faults if fault.rank in (None, rank)]
        self._delay_s = sum(fault.ms for fault in mine if fault.kind == "delay") / 1e3
        self._factor = math.prod(fault.factor for fault in mine if fault.kind == "slow")

    def hold(self, began_s: float) -> None:
        """Sleep for what an iteration that began at `time.perf_counter()` = `began_s` lacks."""
        if self._delay_s or self._factor != 1:
            took_s = time.perf_counter() - began_s
            time.sleep(self._delay_s * self._factor + took_s * (self._factor - 1))
