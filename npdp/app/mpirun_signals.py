"""Signals to a command that waits for its mpirun: ranks that listen are asked to stop; a second signal ends them.

    SIGINT, SIGTERM, SIGHUP ── ranks listen ──▶ asked to stop ── they end ──▶ their own exit code
             │                                       │ another signal, or too late
             └──────── nobody listens ───────────────┴──▶ mpirun gets SIGTERM ── ENDING_S later ──▶ SIGKILL
"""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from npdp.base import stop_files
from npdp.base.stop_signals import OF_SINGLE, SAME_STOP_S
from npdp.report.console import note, refuse

STOPPING_S = 25.0  # what ranks get to stop: who preempts, Slurm or Kubernetes, kills after 30 s
ITERATIONS = 3  # or so many: the one that they are in, as much again, and a checkpoint
ENDING_S = 10.0  # what mpirun gets to end its ranks, which takes half a second, before it is killed and they with it


class Ended(NamedTuple):
    """How an mpirun has ended: its exit code; whether it has failed, for no signal to this process."""

    code: int
    failed: bool


class MpirunSignals:
    """Signals to this process, from before its mpirun begins until nothing of it is left, but those to be ignored.

    Attributes:
        number: of the first that came; 0 before.
    """

    def __init__(self) -> None:
        self.number, self._asked_s = 0, -math.inf
        self._process: subprocess.Popen[bytes] | None = None
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> MpirunSignals:
        numbers = [number for number in OF_SINGLE if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
        self._before: dict[int, Any] = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, process: subprocess.Popen[bytes], folder: str) -> Ended:
        """Wait for an mpirun's end, which signals may bring about.

        Where one does it is said, and the code is 128 + the signal's number, as a shell has it.

        Args:
            process: mpirun.
            folder: of its job, in which ranks are asked.
        """
        self._process, self._folder = process, folder
        if self.number:  # before it had begun
            self._end()
        try:
            code = process.wait()
        finally:
            for timer in self._timers:
                timer.cancel()
        failed = code != 0 and not self.number
        if code == 0 or (code > 0 and failed):
            return Ended(code, failed)
        by = self.number or -code
        refuse(f"{'mpirun was ' * failed}ended by {_name(by)}")
        return Ended(128 + by, failed)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._asked_s < SAME_STOP_S:
            return
        is_first, self.number = not self.number, self.number or number
        if self._process is None:
            return
        iteration_s = stop_files.ask(self._folder, number) if is_first else None
        if iteration_s is None:
            self._end()
        else:
            self._asked_s = time.monotonic()
            note_stop(number)
            self._later(max(STOPPING_S, ITERATIONS * iteration_s), self._end)

    def _end(self) -> None:
        assert self._process is not None
        self._later(ENDING_S, self._process.kill)
        self._process.terminate()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)


def note_stop(number: int) -> None:
    """Say that a signal was heard."""
    note(f"{_name(number)}: stopping after this iteration; another one ends all ranks at once")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
