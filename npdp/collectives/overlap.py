"""All-reduces that go on beside the program: while a bucket is on the wire, backward computes the next.

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
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

Work = Iterator[Any]  # yields each message that is to be waited for; None before it waits for something else itself
Wait = Callable[[Any], None]


class Overlap:
    """Carries out pieces of work in order, on a thread of its own.

    Args:
        failed: called at once with what a piece of work raised there; `finish` raises it.

    Attributes:
        busy: whether something has been begun since the last `finish`.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self.busy = False
        self._work: queue.SimpleQueue[tuple[Work, Wait, Any]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._begun = 0  # and not yet taken from `_done`
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self, work: Work, wait: Wait) -> None:
        """Do `work` after what was begun before, beside the program; where nothing is, now, up to what it waits for.

        Args:
            wait: waits for a message.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="npdp overlap", daemon=True)
            self._thread.start()
        self.busy = True
        message = next(work, None) if self._done.qsize() == self._begun else None
        self._begun += 1
        self._work.put((work, wait, message))

    def finish(self) -> float:
        """Wait until all that was begun is done; return for how many seconds that took.

        Raises:
            BaseException: what a piece of work raised; those behind it were left undone.
        """
        before = time.perf_counter()
        while self._begun:
            self._done.get()
            self._begun -= 1
        self.busy = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return time.perf_counter() - before

    def _run(self) -> None:
        while True:
            work, wait, first = self._work.get()
            try:
                if self._failure is None:  # else others are still in the one that failed, and would be told otherwise
                    for message in chain((first,), work):
                        if message is not None:
                            wait(message)
            except BaseException as failure:  # it is the program's, in whose name this is done
                self._failed(failure)
                self._failure = failure
            self._done.put(None)
