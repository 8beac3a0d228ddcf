"""Detection of forks: a process that a rank forks is no rank, though it has the rank's memory and its transport.

A message that it sent would take the place of one of the rank's: a parameter server would take it for the worker's
step. One that it received would be missing at the rank. So in such a process all transports refuse.
"""

from __future__ import annotations

import os
from typing import NoReturn, TypeVar
from weakref import WeakSet

from npdp.comm.errors import CommunicationError
from npdp.comm.transport import Transport

T = TypeVar("T", bound=Transport)
FORKED = "this process was forked from a rank: it is none itself, and calls no collectives"
REFUSED = ("send", "receive", "wait", "wait_any", "subworld", "ended", "compare_calls", "native_allreduce")

_in_use: WeakSet[Transport] = WeakSet()


def refused_after_fork(transport: T) -> T:
    """Have this transport refuse all in what this process forks, and return it; for each that is made, or copied."""
    _in_use.add(transport)
    return transport


def refuse(*_: object) -> NoReturn:
    """Raise the CommunicationError that a forked process gets."""
    raise CommunicationError(FORKED)


def _refuse_all() -> None:
    for transport in _in_use:
        transport.calls.fail(CommunicationError(FORKED))  # `begin` would read notes, which are the rank's
        for name in REFUSED:
            setattr(transport, name, refuse)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refuse_all)
