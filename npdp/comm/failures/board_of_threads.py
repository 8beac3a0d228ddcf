"""The board of a rank of a world of threads: all see each other, and each other's stacks, in one process."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Container

from npdp.base.place import Place
from npdp.comm.failures.board import ENDED, FRESH_S, RUNNING, Seen, Wait


class ThreadBoard:
    """Board of one rank of a world of threads; for the thread that makes it.

    Args:
        boards: those of all ranks that have begun, by rank.
        rank: this one's number.
        left: the ranks that have ended.
    """

    def __init__(self, boards: dict[int, ThreadBoard], rank: int, left: Container[int]) -> None:
        self._boards, self._left = boards, left
        self._thread = threading.get_ident()
        self._waits: list[tuple[Wait | None, float]] = [(None, 0.0), (None, 0.0)]  # and when this was told last
        self.place = Place()
        boards[rank] = self

    def tell(self, wait: Wait, as_server: bool) -> None:
        self._waits[as_server] = wait, time.perf_counter()

    def look(self, rank: int) -> Seen:
        theirs = self._boards.get(rank)
        if theirs is None:  # its thread has still to begin
            return Seen(RUNNING)
        now = time.perf_counter()
        program, server = (wait if now - told < FRESH_S else None for wait, told in theirs._waits)
        state = ENDED if rank in self._left else RUNNING
        return Seen(state, "", theirs.place.part, theirs.place.iteration, (program, server))

    def stack(self, rank: int) -> list[str]:
        theirs = self._boards.get(rank)
        frame = sys._current_frames().get(theirs._thread) if theirs else None
        calls = traceback.extract_stack(frame) if frame else []
        return [f'File "{call.filename}", line {call.lineno} in {call.name}' for call in reversed(calls)]
