"""The first death of a job as the launcher sees it: which rank ended, and where its program was.

    a rank's word in the job's folder ──► launcher opens its board, and a descriptor of its process: both outlive it

A rank that is killed, or crashes, says nothing; mpirun tells which one it was, but not where.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import signal
import threading
from types import TracebackType

from npdp.comm.failures.board import WORD, place_on
from npdp.comm.failures.ending import MARK

LOOK_EVERY_MS = 100  # for ranks that have begun since
WRITTEN = 128  # above it an exit code is a signal's number, as a shell has it
FROM_OUTSIDE = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class FirstDeath:
    """Watcher of a job's ranks on this host, within a `with`; it sees nothing where there are no such descriptors.

    Args:
        folder: of the job, in which its ranks leave word.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._done = folder, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._poll = select.poll()
        self._ranks: dict[int, int] = {}  # by the descriptors of their processes
        self._boards: dict[int, int] = {}  # descriptors, by rank
        self._found: str | None = None

    def said(self, code: int) -> str | None:
        """Return which rank was the first to end, where that is why the job has ended, and it has said nothing itself.

        Args:
            code: mpirun's exit code. Those of signals that end a job from outside tell of no rank.
        """
        if self._found is None or code == 0 or code - WRITTEN in FROM_OUTSIDE:
            return None
        if code > WRITTEN:
            with contextlib.suppress(ValueError):
                return f"{self._found}: killed by {signal.Signals(code - WRITTEN).name}"
        return f"{self._found}, without a word; mpirun's exit code is {code}"

    def __enter__(self) -> FirstDeath:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        for descriptor in (*self._ranks, *self._boards.values()):
            os.close(descriptor)

    def _watch(self) -> None:
        while not self._done.is_set():
            self._find_ranks()
            ended = sorted(self._ranks[descriptor] for descriptor, _ in self._poll.poll(LOOK_EVERY_MS))
            if ended:
                if not glob.glob(os.path.join(glob.escape(self._folder), "**", f"{MARK}*"), recursive=True):
                    self._found = self._words(ended[0])
                return

    def _words(self, rank: int) -> str:
        place = str(place_on(self._boards[rank]))
        return f"rank {rank} ended first, {f'in {place}' if place else 'before its first iteration'}"

    def _find_ranks(self) -> None:
        first, last = WORD.split("{}")
        for name in os.listdir(self._folder):
            rank = name.removeprefix(first).removesuffix(last)
            if name.startswith(first) and rank.isdecimal() and int(rank) not in self._boards:
                with contextlib.suppress(OSError, ValueError, AttributeError):  # it has ended; or no such descriptors
                    self._open(int(rank), os.path.join(self._folder, name))

    def _open(self, rank: int, word: str) -> None:
        with open(word) as file:
            process, board = map(int, file.read().split())
        descriptor = os.pidfd_open(process)
        try:
            self._boards[rank] = os.open(f"/proc/{process}/fd/{board}", os.O_RDONLY)
        except OSError:
            os.close(descriptor)
            raise
        self._ranks[descriptor] = rank
        self._poll.register(descriptor, select.POLLIN)
