"""Files in a job's folder by which a launcher asks its ranks to stop, and they answer.

    launcher                                        ranks
                             ◀── listening ───      from now on rank 0 looks, now and then, for
    a signal comes           ─── stop ────────▶     its number: all ranks stop after the same iteration
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


# Ranks
def listen(yes: bool) -> None:
    """Let the launcher know, on rank 0, whether ranks now look for a stop; a no-op where nobody launched them."""
    with contextlib.suppress(OSError):
        path = _path(LISTENING)
        if path is not None and yes:
            path.touch()
        elif path is not None:
            path.unlink()


def asked() -> int:
    """Return the number of the signal for which the launcher wants a stop; 0 where it wants none."""
    path = _path(STOP)
    return 0 if path is None else _number(path) or 0


def answer(code: int) -> None:
    """Leave the exit code on which all ranks have agreed."""
    path = _path(VERDICT)
    if path is not None:
        with contextlib.suppress(OSError):
            path.write_text(str(code))


def _path(name: str) -> Path | None:
    folder = os.environ.get(environment.JOB_FOLDER)
    return Path(folder, name) if folder and environment.launch() else None  # what a rank starts has the variable too


# Launcher
def ask(folder: str, number: int) -> bool:
    """Ask ranks to stop; return whether they listen."""
    if not Path(folder, LISTENING).exists():
        return False
    Path(folder, STOP).write_text(str(number))
    return True


def verdict(folder: str) -> int | None:
    """Return the exit code that ranks have left; None where they have left none."""
    return _number(Path(folder, VERDICT))


def _number(path: Path) -> int | None:
    try:  # it may be empty still
        return int(path.read_text())
    except (OSError, ValueError):
        return None
