"""Files in a job's folder by which a launcher asks its ranks to stop, and they answer.

    launcher                                        ranks
                             ◀── listening ───      from now on rank 0 looks, now and then, for
    a signal comes           ─── stop ────────▶     its number: all ranks stop after the same iteration,
                                                    which takes so many seconds as stand in `listening`
    the exit code            ◀── verdict ─────      128 + the number

Signals would not do: mpirun hands them on to whatever a rank has started, too, and what does not handle one it kills.
Where rank 0 is on another host than the launcher it does not see the folder: nobody listens, and a signal ends the job.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from npdp.base import environment

LISTENING, STOP, VERDICT = "listening", "stop", "verdict"
BEGUN, DONE = "begun", "done"  # of a world that survives deaths


# Ranks
def listen(iteration_s: float = 0.0) -> None:
    """Let the launcher know, on rank 0, that ranks now look for a stop, after iterations that take so long."""
    _write(LISTENING, iteration_s)


def listen_no_more() -> None:
    """Let the launcher know, on rank 0, that ranks no longer look for a stop."""
    path = _path(LISTENING)
    if path is not None:
        path.unlink(missing_ok=True)


def asked() -> int:
    """Return the number of the signal for which the launcher wants a stop; 0 where it wants none."""
    path = _path(STOP)
    return 0 if path is None else int(_number(path) or 0)


def answer(code: int) -> None:
    """Leave the exit code on which all ranks have agreed."""
    _write(VERDICT, code)


def begin() -> None:
    """Let the launcher know that this rank is one of a world that survives deaths."""
    _write(BEGUN, 1)


def done() -> None:
    """Let the launcher know that this rank has come to its program's end."""
    _write(DONE, 1)


def _write(name: str, number: float) -> None:
    path = _path(name)
    if path is not None:
        with contextlib.suppress(OSError):
            path.write_text(str(number))


def _path(name: str) -> Path | None:
    folder = os.environ.get(environment.JOB_FOLDER)
    return Path(folder, name) if folder and environment.launch() else None  # what a rank starts has the variable too


# Launcher
def ask(folder: str, number: int) -> float | None:
    """Ask ranks to stop; return how many seconds an iteration takes, or None where they do not listen."""
    listening = Path(folder, LISTENING)
    if not listening.exists():
        return None
    Path(folder, STOP).write_text(str(number))
    return _number(listening) or 0.0


def verdict(folder: str) -> int | None:
    """Return the exit code that ranks have left; None where they have left none."""
    code = _number(Path(folder, VERDICT))
    return None if code is None else int(code)


def all_have_died(folder: str) -> bool:
    """Return whether ranks of a world that survives deaths have begun, and none has come to its program's end."""
    return Path(folder, BEGUN).exists() and not Path(folder, DONE).exists()


def _number(path: Path) -> float | None:
    try:  # it may be empty still
        return float(path.read_text())
    except (OSError, ValueError):
        return None
