"""Starts a job whose ranks have failed again, from its last checkpoint: `npdp train --restarts N --checkpoint DIR`.

    ranks ── one dies, crashes or raises ──▶ mpirun ends all ──▶ started again with --resume, at most N times
      └── done, stopped, unusable input, a loss that is no number ──▶ the exit code

A job that fails twice with no new checkpoint in between would fail so again, and is not started a third time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from npdp.app import launch
from npdp.app.stopping import going_on, resuming
from npdp.base import environment
from npdp.report.console import note

if TYPE_CHECKING:
    from npdp.app.config import TrainConfig


def run(flags: TrainConfig, module: str, typed: Sequence[str]) -> int:
    """Run a module on the ranks that flags ask for, as often as it takes; return the exit code."""
    began_at = None  # the iterations of the last checkpoint, when the job failed before
    ranks, of_mpirun = (flags.ranks or 1) + flags.spares, launch.surviving() if flags.elastic else ()
    os.environ[environment.SPARES] = str(flags.spares)
    for restarts in count():
        program = resuming(typed) if restarts else typed
        ended = launch.launch(ranks, ["-m", module, *program], flags_of_mpirun=of_mpirun, restarts=restarts)
        if not ended.failed or flags.checkpoint is None:
            return ended.code
        newest = _newest(flags.checkpoint)
        is_new = newest != began_at
        if restarts == flags.restarts or not is_new:
            how = f"go on with: {going_on(typed)}" if newest else "there is no checkpoint to go on from"
            why = "" if is_new else " again, with no new checkpoint"
            note(f"ranks have failed{why}; {how}")
            return ended.code
        began_at = newest
        start = f"from iteration {newest}" if newest else "from the beginning"
        note(f"ranks have failed: started again {start}, {restarts + 1} of {flags.restarts} times")
    raise AssertionError


def _newest(folder: str) -> int:
    """Return the iterations of the last checkpoint in a directory, 0 where there is none."""
    from npdp.elastic import checkpoint

    with contextlib.suppress(OSError):  # it was not made yet
        return max(checkpoint.numbers(folder), default=0)
    return 0
