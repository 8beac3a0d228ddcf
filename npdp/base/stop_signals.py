"""Signals that ask a process to stop, noted until its program looks at them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from npdp.base import environment

SAME_STOP_S = 0.2  # `timeout`, or a terminal and what it runs, signal twice at once; a second Ctrl-C takes longer
ANY_TIME = [number for number in signal.Signals if number.name == "SIGUSR1"]  # Windows has none
OF_LAUNCHED = ANY_TIME  # mpirun hands it on; its SIGTERM comes when another rank has died, too
OF_SINGLE = [number for number in signal.Signals if number.name in ("SIGUSR1", "SIGINT", "SIGTERM", "SIGHUP")]


class StopSignals:
    """Signals that ask this process to stop. The first is noted while a program looks; another, later, ends it.

    SIGUSR1 is noted at any time. In a process that no launcher has started SIGINT, SIGTERM and SIGHUP are too, but
    where they are to be ignored; before and after, they do what they did. Only a process's first thread can take them.

    Attributes:
        number: of the signal that was noted; 0 before.
        looking: whether a program looks at it.

    Args:
        tell: called with the number where that is noted in a process by itself; a launcher tells it of its ranks.
    """

    def __init__(self, tell: Callable[[int], object] = lambda number: None) -> None:
        self._tell = tell
        self.number, self.looking, self._noted_s = 0, False, 0.0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            wanted = OF_SINGLE if environment.launch() is None else OF_LAUNCHED
            for number in wanted:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number and (self.looking or number in ANY_TIME):
            self.number, self._noted_s = number, time.monotonic()
            if signal.SIGINT in self._before:
                self._tell(number)
        elif self.looking and time.monotonic() - self._noted_s < SAME_STOP_S:
            pass
        elif callable(before := self._before[number]):  # of SIGINT, Python's
            before(number, frame)
        elif number not in ANY_TIME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __enter__(self) -> StopSignals:
        return self

    def __exit__(self, *_: object) -> None:
        """Let signals do again what they did."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
