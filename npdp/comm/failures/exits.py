"""Detection of processes of this host that have ended, for ranks that no launcher ends together.

The system gives a descriptor for a process (pidfd), which can be read once that process has ended, even before its
parent has been told, and never stands for a later process of the same number.
"""

from __future__ import annotations

import os
import select
import threading
import weakref


class Exits:
    """Watcher of processes, whose ends it tells.

    Args:
        processes: their ids, by rank; one that cannot be watched here is taken to be alive.
    """

    def __init__(self, processes: dict[int, int]) -> None:
        self._poll, self._polling = select.poll(), threading.Lock()  # which two threads must not do at once
        self._rank_of: dict[int, int] = {}
        for rank, process in processes.items():
            try:
                watch = os.pidfd_open(process)
            except ProcessLookupError:
                watch = _ended()
            except (OSError, AttributeError):  # an old Linux, or none
                continue
            weakref.finalize(self, os.close, watch)
            self._poll.register(watch, select.POLLIN)
            self._rank_of[watch] = rank

    def all(self) -> list[int]:
        """Return the ranks whose process has ended."""
        with self._polling:
            return [self._rank_of[watch] for watch, _ in self._poll.poll(0)]

    def among(self, ranks: list[int]) -> int | None:
        """Return one of these ranks whose process has ended; None where none has."""
        ended = self.all()
        return next((rank for rank in ranks if rank in ended), None)


def _ended() -> int:
    """Return a descriptor that can be read, as that of a process that has ended."""
    reader, writer = os.pipe()
    os.close(writer)
    return reader
