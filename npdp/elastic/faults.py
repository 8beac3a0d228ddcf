"""Faults on purpose: what each of them does, and when (inject.py has what they are called).

    place.part = "backward"      the program says where it is, as always (base/place.py)
            └─ FaultyPlace       stands in for the place of a rank that something is to befall: it looks whether that
                                 is due in this part of this iteration

The ordinary path knows nothing of it: where nothing is to go wrong the place is a plain one.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.base.place import Place
from npdp.collectives.communicator import Communicator
from npdp.data.sampler import shard
from npdp.elastic.inject import CAME, Fault
from npdp.nn.module import Module
from npdp.nn.parameter import Parameter
from npdp.nn.sparse_parameter import SparseParameter
from npdp.parallel.world import init


class InjectedError(RuntimeError):
    """Exception that `--inject raise@...` asked for."""


class FaultyPlace(Place):
    """Place at which faults come: as its program enters a part, those that are due there.

    Args:
        place: that it stands in for, which goes on saying where the program is.
        faults: of this rank.
        befall: called with each as it comes.

    Attributes:
        due: the faults that have not come yet.
    """

    def __init__(self, place: Place, faults: Sequence[Fault], befall: Callable[[Fault], None]) -> None:
        self._place, self.due, self._befall = place, list(faults), befall

    @property
    def iteration(self) -> int:
        return self._place.iteration

    @iteration.setter
    def iteration(self, iteration: int) -> None:
        self._place.iteration = iteration

    @property
    def part(self) -> str:
        return self._place.part

    @part.setter
    def part(self, part: str) -> None:
        self._place.part = part
        self.enter(part, self.iteration + 1)

    def enter(self, part: str, iteration: int) -> None:
        """Let come what is due in this part of this iteration, from 1, or was before."""
        for fault in [fault for fault in self.due if fault.part == part and fault.iteration <= iteration]:
            self.due.remove(fault)
            self._befall(fault)


class Faults:
    """Faults of this rank, by its number at the start; without any it does nothing.

    Args:
        faults: of all ranks.
        world: this rank's communicator, whose place they come at.

    Attributes:
        model: whose gradients may be spoilt.
    """

    model: Module

    def __init__(self, faults: Sequence[Fault], world: Communicator) -> None:
        self._rank = shard().begun[0]
        mine = [fault for fault in faults if fault.rank in (None, self._rank)]
        self._disks = [fault for fault in mine if fault.kind == "diskfull"]
        self._place = FaultyPlace(world.place, [fault for fault in mine if fault.kind in DOES], self._befall)
        if mine:
            world.place = shard().place = self._place

    def _befall(self, fault: Fault) -> None:
        if not fault.ms:
            self._come(fault)
            return
        timer = threading.Timer(fault.ms / 1e3, self._come, [fault])
        timer.daemon = True
        timer.start()

    def _come(self, fault: Fault) -> None:
        if CAME in os.environ:
            with open(os.environ[CAME], "a") as file:
                file.write(f"{time.monotonic()} {self._rank} {fault}\n")
        DOES[fault.kind](fault, self)

    def may_befall(self, model: Module) -> None:
        """Take the model on; InputError where it has no parameter of the name that a fault says."""
        self.model = model
        for fault in self._place.due:
            if fault.kind == "nan":
                parameter_of(fault, model)

    def while_writing(self, iteration: int) -> None:
        """Let come what is due while the checkpoint of an iteration is written; OSError where the disk is full then."""
        self._place.enter("checkpoint", iteration)
        self.need_room(iteration)

    def need_room(self, iteration: int) -> None:
        """Raise OSError where the disk is full by then."""
        if any(fault.iteration <= iteration for fault in self._disks):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def left(self) -> str:
        """Return the faults that have not come; empty where all have. Rank 0 says those of all ranks."""
        return ", ".join(str(fault) for fault in self._place.due if fault.rank is not None or self._rank == 0)


def parameter_of(fault: Fault, model: Module) -> Parameter:
    """Return the parameter that a fault names, or the first, of those whose gradients are arrays."""
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not isinstance(parameter, SparseParameter)
    }
    name = fault.parameter or next(iter(found), "")
    if name not in found:
        raise InputError(f"--inject nan: wanted a parameter of {', '.join(found) or 'dense gradients'}, got {name!r}")
    return found[name]


# What they do
def _kill(fault: Fault, rank: Faults) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(fault: Fault, rank: Faults) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _segv(fault: Fault, rank: Faults) -> None:
    ctypes.string_at(0)


def _exit(fault: Fault, rank: Faults) -> None:
    os._exit(fault.code)


def _raise(fault: Fault, rank: Faults) -> None:
    raise InjectedError(f"--inject {fault}")


def _nan(fault: Fault, rank: Faults) -> None:
    """Have this rank's own gradient of the backward that begins come with a NaN."""

    def spoil(gradient: Array) -> Array:
        remove()
        spoilt = np.array(gradient)
        spoilt.flat[0] = np.nan
        return spoilt

    remove = parameter_of(fault, rank.model).register_hook(spoil)


def _mismatch(fault: Fault, rank: Faults) -> None:
    init().allreduce(np.zeros(3))


DOES: Mapping[str, Callable[[Fault, Faults], None]] = MappingProxyType({
    "kill": _kill, "stop": _stop, "segv": _segv, "exit": _exit, "raise": _raise, "nan": _nan, "mismatch": _mismatch,
})  # fmt: skip


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
