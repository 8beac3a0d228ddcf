"""Waits for an mpirun: a signal asks its ranks to stop, where they listen; a second one, or else the first, ends them.

    SIGINT, SIGTERM, SIGHUP ── ranks listen ──▶ asked to stop ── they end ──▶ their own exit code
             │                                       │ another signal, or STOPPING_S later
             └──────── nobody listens ───────────────┴──▶ mpirun gets SIGTERM ── ENDING_S later ──▶ SIGKILL
"""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from types import FrameType

from npdp.base import stop_files
from npdp.base.stop_signals import OF_SINGLE, SAME_STOP_S
from npdp.report.console import note, refuse

STOPPING_S = 25.0  # who preempts, Slurm or Kubernetes, kills after 30 s; mpirun takes up to a second
ENDING_S = 10.0  # what mpirun gets to end its ranks, which takes half a second, before it is killed and they with it


def wait(process: subprocess.Popen[bytes], folder: str) -> int:
    """Return the exit code of mpirun; meanwhile signals to this process stop its ranks, or end them.

    Not those that are to be ignored. Where one ends mpirun it is said, and the code is 128 + the signal's number, as a
    shell has it.

    Args:
        process: mpirun.
        folder: of its job, in which ranks are asked.
    """
    waiting = _Waiting(process, folder)
    numbers = [number for number in OF_SINGLE if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
    before = {number: signal.signal(number, waiting.note) for number in numbers}
    try:
        code = process.wait()
    finally:
        waiting.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0 or (code > 0 and not waiting.number):
        return code
    by = waiting.number or -code
    refuse(f"{'' if waiting.number else 'mpirun was '}ended by {_name(by)}")
    return 128 + by


class _Waiting:
    """What has become of signals while mpirun is waited for; `number` is the first one's, 0 before."""

    def __init__(self, process: subprocess.Popen[bytes], folder: str) -> None:
        self._process, self._folder = process, folder
        self._timers: list[threading.Timer] = []
        self.number, self._asked_s = 0, -math.inf

    def note(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._asked_s < SAME_STOP_S:
            return
        if not self.number and stop_files.ask(self._folder, number):
            self._asked_s = time.monotonic()
            note(f"{_name(number)}: stopping after this iteration; another one ends all ranks at once")
            self._later(STOPPING_S, self._end)
        else:
            self._end()
        self.number = self.number or number

    def _end(self) -> None:
        self._later(ENDING_S, self._process.kill)
        self._process.terminate()

    def _later(self, seconds: float, action: object) -> None:
        timer = threading.Timer(seconds, action)  # type: ignore[arg-type]
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
