"""Log of the collectives that a rank has called by messages: ranks that call different ones get an error, not a hang.

    rank 0   1: allreduce of 10 float32 (sum) by ring   2: broadcast of 8 int64 from rank 0 by tree
    rank 1   1: allreduce of 10 float32 (sum) by ring   2: broadcast of 8 int64 from rank 1 by tree     they differ

Messages of different calls never meet: a receive takes those of its own call alone, so nothing is written where it was
not wanted. A rank that waits for more than a second tells the others what it is in (`note`), and they compare. One that
only sends may never wait: so ranks compare all their calls, by a hash, when they leave (`last_note`).

Cost: about a microsecond a collective.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from npdp.comm.call import SEND_OR_RECEIVE, Call
from npdp.comm.errors import CommunicationError

KEPT = 4096  # calls that a rank remembers, for ranks that are behind: a root may send all parameters of a model at once
HEARS_EVERY = 64  # calls after which it reads notes though it does not wait, lest they pile up among its messages
KEPT_AT_END = 64  # of its latest calls, a rank tells what they were when it leaves: some kilobytes
HASHED_BELOW = 2**61 - 1  # a prime, so that a hash depends on every call and their order
NOTE_AFTER_S = 1.0  # of waiting in one call; a note that nobody reads for long would be in the way of messages

Heard = Callable[[], "CommunicationError | None"]


class LoggedCall(NamedTuple):
    """A logged collective: its number among this rank's, its call, and the mark of its messages."""

    number: int
    call: Call
    tag: int  # the same on all ranks, and, as good as surely, on no other call


# What stands for a program's own messages, which are in no log; its tag is above the numbers of dtypes, and below those
# of all logged calls. MPI has tags up to 2^15 - 1 at least.
MESSAGE = LoggedCall(0, Call(SEND_OR_RECEIVE, 0, "", algorithm="message"), 2**14)


class CallLog:
    """Log of one rank's collectives by messages among some ranks.

    Args:
        rank: this one's number.
        tags: what messages may be marked with.
        heard: reads notes that have come, and returns the error to raise. Called now and then, as a rank for which
            others wait may never wait itself.

    Attributes:
        begun: how many this rank has begun.
        history: a hash of all of them, in their order.
    """

    def __init__(self, rank: int, tags: range = range(2**31), heard: Heard = lambda: None) -> None:
        self._rank, self._tags, self._heard = rank, tags, heard
        self.begun = self.history = 0
        self._latest: deque[LoggedCall] = deque(maxlen=KEPT)
        self._failure = ""
        self._kept_arrays: list[Any] = []
        self._noted_in = self._waiting_in = 0  # numbers of calls
        self._waits_since = 0.0
        self._noted_by: dict[int, int] = {}  # of other ranks, the numbers of the calls that they have noted last

    def begin(self, what: Call) -> LoggedCall:
        """Count a collective, alike on all ranks, and return it.

        Raises:
            CommunicationError: an earlier one failed: its messages may still be under way, into its buffers.
        """
        if self._failure:
            raise CommunicationError(f"rank {self._rank} calls {what} after a collective that failed: {self._failure}")
        number = self.begun = self.begun + 1
        code = _code(what)
        self.history = (self.history * 1_000_003 + code) % HASHED_BELOW
        call = LoggedCall(number, what, self._tags.start + (code + number) % len(self._tags))
        self._latest.append(call)
        if number % HEARS_EVERY == 0 and (error := self._heard()) is not None:
            self.fail(error)
            raise error
        return call

    def __enter__(self) -> None:
        """Carry out collectives within: what is raised there fails them, even by a signal's handler."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if error is not None and not isinstance(error, NotImplementedError):  # all ranks raise it: nothing was sent
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Note that one of these collectives has failed: `begin` refuses all that follow."""
        self._failure = self._failure or str(error) or type(error).__name__

    def keep(self, *written: Any) -> None:
        """Keep what messages of a failed collective may still be written into: they cannot be called back."""
        self._kept_arrays += written

    def note(self) -> str:
        """Return what tells other ranks where this one is; empty before its first call."""
        try:
            latest = self._latest[-1]  # at once, for another thread may begin one
        except IndexError:
            return ""
        return f"{latest.number} {latest.call}"

    def note_is_due(self) -> bool:
        """Return whether this rank, which waits, has waited in its call long enough to note it; True once a call."""
        if self._noted_in == self.begun:
            return False
        now = time.monotonic()
        if self._waiting_in != self.begun:  # the first time that it waits in this call
            self._waiting_in, self._waits_since = self.begun, now
        if now - self._waits_since < NOTE_AFTER_S:
            return False
        self._noted_in = self.begun
        return True

    def compare(self, rank: int, note: str) -> CommunicationError | None:
        """Return the error to raise where this rank's call of the number in another's note is not the call noted."""
        number, what = note.split(" ", 1)
        self._noted_by[rank] = int(number)
        mine = self._kept(int(number))
        return None if mine is None or str(mine.call) == what else different(self._rank, str(mine.call), rank, what)

    def with_this_rank(self) -> list[int]:
        """Return the ranks that have noted a call of this one's number, or a later one: they are there, too."""
        return [rank for rank, number in self._noted_by.items() if number >= self.begun]

    def last_note(self) -> str:
        """Return what tells other ranks, when this one leaves, all that it has called; empty where one has failed."""
        notes = [f"{call.number} {call.call}" for call in list(self._latest)[-KEPT_AT_END:]]
        return "" if self._failure else "\n".join([f"{self.begun} {self.history}", *notes])

    def compare_all(self, rank: int, last_note: str) -> CommunicationError | None:
        """Return the error to raise where a rank that leaves, as this one does, has not called all that it has."""
        if self._failure or not last_note:
            return None
        first, *notes = last_note.split("\n")
        number, history = map(int, first.split())
        if (number, history) == (self.begun, self.history):
            return None
        error = next(filter(None, (self.compare(rank, note) for note in notes)), None)
        return error or CommunicationError(
            f"rank {self._rank} leaves after {self.begun} collectives by messages, rank {rank} after {number}; "
            f"{self._first_more(number, notes)}: the ranks have not called the same collectives"
        )

    def _first_more(self, number: int, notes: list[str]) -> str:
        """Return in words where one that leaves after so many differs, of whose latest calls none is another here."""
        if number == self.begun:
            return f"they differ before the last {len(notes)}"
        more = self._kept(number + 1)
        known = [f"{more.number} {more.call}"] if more else notes
        what = dict(note.split(" ", 1) for note in known).get(str(min(number, self.begun) + 1))
        return f"number {min(number, self.begun) + 1} is {what or 'forgotten'}"

    def _kept(self, number: int) -> LoggedCall | None:
        latest = self._latest.copy()  # at once, for another thread may begin one
        index = number - latest[0].number if latest else -1
        return latest[index] if 0 <= index < len(latest) else None


def different(rank: int, mine: str, other: int, theirs: str) -> CommunicationError:
    """Return the error to raise where two ranks do not call the same."""
    return CommunicationError(
        f"rank {rank} calls {mine}, rank {other} {theirs}: "
        "the ranks do not call the same collective with the same count and dtype"
    )


@lru_cache(maxsize=1024)
def _code(call: Call) -> int:
    return crc32(str(call).encode())
