"""Gradients that are not finite, in a run from the command line: what is kept, written and said.

    --on-nan raise   the batch of each rank whose gradient was not finite is kept, and the run ends with exit code 1:
                     not_finite_000057_rank1.npz: inputs, labels, rows (their numbers in the training part), among the
                     checkpoints, else beside --metrics or --save, else in the current directory
    --on-nan skip    a line for each update that was left out; their number is in the `end` event
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from npdp.autograd.sparse_rows import SparseRows
from npdp.base.environment import launch
from npdp.base.errors import Contribution, DivergedError, NotFiniteError
from npdp.base.whole_file import whole_file
from npdp.data.sampler import shard

if TYPE_CHECKING:
    from npdp.app.config import TrainConfig
    from npdp.app.job import Job
    from npdp.report.console import Console
    from npdp.report.metrics import Metrics

KEPT = "not_finite_"  # begins the names of files with batches
EACH_TOLD, TOLD_EVERY = 10, 100  # updates that are left out: from the 11th on only every 100th
ADVICE = (
    "where training diverges, try a smaller --learning-rate, --clip-norm 1, or --standardize; --on-nan skip leaves "
    "such updates out"
)


class NotFinite:
    """Reporter of a job's gradients that are not finite; a context that ends a run of which one was.

    Args:
        save_best: saves the parameters that scored best so far, if this rank has some; returns the file, or "".

    Raises:
        DivergedError: within, a NotFiniteError was raised; on all ranks alike, but where one is alone with it.
    """

    def __init__(self, job: Job, console: Console, metrics: Metrics, save_best: Callable[[], str]) -> None:
        self._job, self._console, self._metrics, self._save_best = job, console, metrics, save_best
        self._told: NotFiniteError | None = None  # the last update that was left out, of those told of

    def after(self, iteration: int) -> None:
        """Tell of an update that was left out."""
        guard = self._job.model.strategy.guard
        if guard is not None and guard.last is not None and guard.last is not self._told:
            self._told = guard.last
            self._write(guard.last, "skip")
            if guard.skipped <= EACH_TOLD or guard.skipped % TOLD_EVERY == 0:
                self._console.say(f"  {guard.last}; this update is left out ({guard.skipped} so far)")

    def _write(self, error: NotFiniteError, action: str, **more: Any) -> None:
        ranks = [contribution._asdict() for contribution in error.contributions]
        self._metrics.write("not_finite", iteration=error.iteration, action=action, ranks=ranks, **more)

    def __enter__(self) -> NotFinite:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, NotFiniteError):
            rank, gather = shard().begun[0], (lambda text: [text]) if error.alone else self._job.world.gather_texts
            turns = [gather(self._kept(error, each) if each.rank == rank else "") for each in error.contributions]
            files = [said for turn in turns for said in turn if said]
            self._write(error, "raise", files=files)
            kept = f"; the batch is kept: {', '.join(files)}" if files else ""
            best = gather(self._save_best())[0]
            saved = f"; the best parameters are saved: {best}" if best else ""
            words = f"{error}{kept}{saved}; {ADVICE}"
            if error.alone and launch() is not None:  # what nobody catches ends the other ranks
                raise NotFiniteError(words, error.iteration, error.contributions, True) from None
            raise DivergedError(words) from None

    def _kept(self, error: NotFiniteError, mine: Contribution) -> str:
        """Keep this rank's batch; return the file, or why there is none."""
        if mine.rows is None:
            return ""
        name = f"{KEPT}{error.iteration:06d}_rank{mine.rank}.npz"
        path = os.path.join(folder_of(self._job.config), name)
        try:
            with whole_file(path) as file:
                np.savez(file, **_batch(self._job, error.iteration, mine))
        except OSError as fault:
            return f"none, {path} cannot be written ({fault.strerror or fault})"
        return path


def folder_of(config: TrainConfig) -> str:
    """Return the directory in which batches are kept."""
    if config.checkpoint is not None:
        return config.checkpoint
    return os.path.dirname(config.metrics or config.save or "")


def _batch(job: Job, iteration: int, mine: Contribution) -> Mapping[str, Any]:
    """Return a rank's samples, as the loader gave them."""
    rows = np.array(mine.rows, np.int64)
    inputs, labels = job.loader.samples(rows, (iteration - 1) // job.loader.iterations_per_epoch)
    if isinstance(inputs, SparseRows):
        parts = {"indptr": inputs.indptr, "indices": inputs.indices, "values": inputs.values, "shape": inputs.shape}
        return {"labels": labels, "rows": rows, **{f"inputs_{name}": part for name, part in parts.items()}}
    return {"inputs": inputs, "labels": labels, "rows": rows}
