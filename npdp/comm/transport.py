"""Transports, which move messages between ranks, as all above `comm/` sees them.

Messages between two ranks arrive in the order in which they were sent. A send need not be buffered: it may
end only when its receive is there, so a schedule that needs buffering to get along is wrong (`verify` says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from npdp.comm.errors import CommunicationError
from npdp.comm.failures.board import Board
from npdp.comm.failures.call_log import CallLog, LoggedCall
from npdp.comm.failures.stalls import Stalls
from npdp.comm.failures.vain_waits import FindElsewhere, nobody

Buffer = npt.NDArray[Any]
Handle = Any  # a send or receive that is under way


class Transport(Protocol):
    """Base class of transports: a world as one of its ranks sees it.

    Attributes:
        name: what it is, for people.
        rank, world_size: this rank's number; how many there are.
        wait_s: seconds spent in `wait` and `wait_any` for something that was not there yet.
        host_number: the same on ranks of one host, another on another; at least 0.
        find_elsewhere: given the ranks from which this one waits for messages, and of which call, returns a rank that
            is in a collective through shared memory instead, so that it waits in vain; set by what carries those out.
        calls: the collectives that this rank has called by messages.
        stalls: watches over this rank's waits.
    """

    name: str
    rank: int
    world_size: int
    wait_s: float
    host_number: int
    find_elsewhere: FindElsewhere
    calls: CallLog
    stalls: Stalls

    def send(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Handle:
        """Begin to send; the buffer must not change before `wait`. What a call sends only that call receives."""

    def receive(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Handle:
        """Begin to receive into `buffer`, in place."""

    def wait(self, handle: Handle) -> None:
        """Return when it is done.

        Raises:
            CommunicationError: the message has another size than wanted, or the peer has left or calls something else.
        """

    def wait_any(self, handles: Sequence[Handle]) -> int:
        """Wait until one of several receives is done; return which. It uses no core where nothing comes for long.

        Raises:
            CommunicationError: as `wait`.
        """

    def subworld(self, ranks: Sequence[int]) -> Transport:
        """Return a world of these ranks, in this order; collective over them.

        Its messages never meet those of this one, so another thread may use it, or another part of the program.
        """

    def fail(self, error: BaseException) -> None:
        """End all ranks of the world because of this error: for a thread whose error nobody else would see."""

    def ended(self, peers: list[int]) -> BaseException | None:
        """Return the error to raise where a rank has failed, or one of these has left."""

    def compare_calls(self) -> CommunicationError | None:
        """Return the error to raise where another rank has called something else; for a rank that waits.

        Where ranks are processes it tells the others what this one waits in, once, and hears the same of them.
        """

    def native_allreduce(self, buffer: Buffer, op: str, call: LoggedCall) -> None:
        """The library's own all-reduce, in place, for comparison; whether NaN passes min and max is up to the library.

        Raises:
            NotImplementedError: this transport has none.
        """


class NoTransport:
    """Transport of a world of one rank, which has no peers."""

    name = "one process"
    rank = 0
    world_size = 1
    wait_s = 0.0
    host_number = 0
    find_elsewhere: FindElsewhere = staticmethod(nobody)
    calls = CallLog(0)

    def __init__(self) -> None:
        self.stalls = Stalls(Board(), [0], 0, self.calls)

    def send(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Handle:
        raise ValueError(f"rank 0 is alone; it cannot send to rank {peer}")

    receive = send

    def wait(self, handle: Handle) -> None:
        raise ValueError("rank 0 is alone; it waits for nobody")

    def wait_any(self, handles: Sequence[Handle]) -> int:
        raise ValueError("rank 0 is alone; it waits for nobody")

    def subworld(self, ranks: Sequence[int]) -> Transport:
        return NoTransport()

    def fail(self, error: BaseException) -> None:
        raise error

    def ended(self, peers: list[int]) -> BaseException | None:
        return None

    def compare_calls(self) -> CommunicationError | None:
        return None

    def native_allreduce(self, buffer: Buffer, op: str, call: LoggedCall) -> None:
        pass


def wrong_message(wanted: Buffer, got_bytes: int | None, same_dtype: bool, rank: int, peer: int) -> str:
    """Return what to say of a message of so many bytes (None: too many) that does not fit the buffer `wanted`."""
    got = "more" if got_bytes is None else str(got_bytes)
    return (
        f"rank {rank}: wanted {wanted.nbytes} bytes{'' if same_dtype else f' of {wanted.dtype}'} from rank {peer}, "
        f"got {got}{'' if same_dtype else ' of another dtype'}: "
        "the two ranks do not call the same collective with the same count and dtype"
    )
