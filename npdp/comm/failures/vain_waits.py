"""Detection of vain waits: a rank that has waited for long asks whether its message can still come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import LoggedCall

if TYPE_CHECKING:
    from npdp.comm.transport import Transport

FindElsewhere = Callable[[list[int], "LoggedCall | None"], "int | None"]


def nobody(peers: list[int], call: LoggedCall | None) -> None:
    """Find no rank elsewhere: for worlds in which all collectives go by messages."""


def why_in_vain(
    transport: Transport, peers: list[int], since: float, call: LoggedCall | None = None
) -> BaseException | None:
    """Return the error to raise where a rank waits in vain, or for too long, for messages of a call from these.

    Args:
        since: when it began to, by time.perf_counter().
    """
    found = transport.ended(peers) or transport.compare_calls() or _elsewhere(transport, peers, call)
    return found or transport.stalls.too_long(since, lambda: (peers, str(call.call) if call else ""))


def _elsewhere(transport: Transport, peers: list[int], call: LoggedCall | None) -> CommunicationError | None:
    other = transport.find_elsewhere(peers, call)
    if other is None:
        return None
    which = f"{other}, which" if other in peers else f"{peers[0]}, while rank {other}"
    return CommunicationError(
        f"rank {transport.rank} waits for a message from rank {which} is in a collective through shared memory: "
        "the ranks do not call the same collectives"
    )
