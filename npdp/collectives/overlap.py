"""Overlap of all-reduces with backward: while a bucket is on the wire, backward computes the next.

    program     | layer 3 |send| layer 2 | layer 1 | finish: wait for the rest |
    thread                     | bucket 0    | bucket 1           | bucket 2 |

What a bucket sends first goes out at once, if nothing is before it and its ranks are alone on their hosts: the wire
works before the thread comes to run. The thread carries out the rest, one bucket after the other in the order in which
they were begun, which is the same on every rank. It pays across hosts, where the wire works and the core waits; NumPy's
products and the waiting both let other threads run. Inside a host a sum is work for the very cores that compute, and is
done at once.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

Work = Iterator[Any]  # yields each message that is to be waited for; None before it waits for something else itself
Wait = Callable[[Any], None]


class Overlap:
    """Executor that carries out tasks in order, on a thread of its own.

    Args:
        failed: called at once with what a task raised there; `finish` raises it.

    Attributes:
        busy: whether something has been begun since the last `finish`.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self.busy = False
        self._pieces: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done = _Done()
        self._begun = 0
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self, work: Work, wait: Wait) -> None:
        """Do `work` after what was begun before, beside the program; where nothing is, now, up to what it waits for.

        Args:
            wait: waits for a message.
        """
        if self._thread is None:
            pieces_and_done = self._pieces, self._done  # and not this object, with which the thread ends
            self._thread = threading.Thread(target=_run, args=pieces_and_done, name="npdp overlap", daemon=True)
            self._thread.start()
            weakref.finalize(self, self._pieces.put, None).atexit = False
        self.busy = True
        message = next(work, None) if self._done.count == self._begun else None
        self._begun += 1
        self._pieces.put(partial(self._carry_out, work, wait, message))

    def finish(self) -> float:
        """Wait until all that was begun is done; return for how many seconds that took.

        Raises:
            BaseException: what a task raised; those behind it were left undone.
        """
        before = time.perf_counter()
        self._done.wait_for(self._begun)
        self.busy = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return time.perf_counter() - before

    def _carry_out(self, work: Work, wait: Wait, first: Any) -> None:
        if self._failure is not None:  # other ranks are in the one that failed, and would take this for a wrong call
            return
        try:
            for message in chain((first,), work):
                if message is not None:
                    wait(message)
        except BaseException as failure:  # the program, for which this is done, gets it
            self._failed(failure)
            self._failure = failure


class _Done:
    """Counter of tasks done: one thread counts, another waits; an interrupted wait loses nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def count_one(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify()

    def wait_for(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.count >= count)


def _run(pieces: queue.SimpleQueue[Callable[[], None] | None], done: _Done) -> None:
    while (piece := pieces.get()) is not None:
        piece()
        del piece  # else its buffers live until the next one
        done.count_one()


def later(collective: Callable[[], None]) -> Iterator[None]:
    """Carry out a collective that cannot be begun before it is waited for."""
    yield None
    collective()
