"""The board of a rank of a world of threads: all see each other, and each other's stacks, in one process."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from npdp.comm.failures.board import ELSEWHERE, ENDED, FRESH_S, RUNNING, Board, Seen, Wait
from npdp.comm.failures.call_log import CallLog
from npdp.comm.failures.stalls import Stalls

if TYPE_CHECKING:
    from npdp.comm.threads import ThreadWorld


class ThreadBoard(Board):
    """Board of one rank of a world of threads; for the thread that makes it."""

    def __init__(self, world: ThreadWorld, rank: int) -> None:
        super().__init__()
        self._world, self._rank = world, rank
        self._thread = threading.get_ident()
        self._waits: list[tuple[Wait | None, float]] = [(None, 0.0), (None, 0.0)]  # and when this was told last

    def tell(self, wait: Wait, as_server: bool) -> None:
        self._waits[as_server] = wait, time.perf_counter()

    def look(self, rank: int) -> Seen:
        hosts, theirs = self._world.hosts, self._of(rank)
        if hosts[rank] != hosts[self._rank]:
            return Seen(ELSEWHERE, f"host {hosts[rank]}")
        if theirs is None:  # its thread has still to begin
            return Seen(RUNNING)
        now = time.perf_counter()
        program, server = (wait if now - told < FRESH_S else None for wait, told in theirs._waits)
        state = ENDED if rank in self._world.left else RUNNING
        return Seen(state, "", str(theirs.place), (program, server))

    def stack(self, rank: int) -> list[str]:
        theirs = self._of(rank)
        frame = sys._current_frames().get(theirs._thread) if theirs else None
        calls = traceback.extract_stack(frame) if frame else []
        return [f'File "{call.filename}", line {call.lineno} in {call.name}' for call in reversed(calls)]

    def _of(self, rank: int) -> ThreadBoard | None:
        stalls = self._world.stalls.get(rank)
        return stalls.board if stalls is not None else None  # type: ignore[return-value]


def watched(world: ThreadWorld, rank: int) -> Stalls:
    """Return the watchdog of a rank, made the first time; for that rank's thread."""
    if rank not in world.stalls:
        world.stalls[rank] = Stalls(ThreadBoard(world, rank), range(world.world_size), rank, CallLog(rank))
    return world.stalls[rank]
