"""The clean stop of a training job, by a signal or `--time-limit`: all ranks finish the same iteration.

    SIGINT, SIGTERM     to npdp train, or to the one process        exit code 130, 143
    SIGUSR1             to a bare mpirun, or a rank                 138
    --time-limit 55min  since the command began, by rank 0's clock  124

Then there is a checkpoint of exactly that iteration where there is a place for one, what flags ask for is written, and
one line says how to go on. Where work is assigned (a parameter server with a staleness) ranks have no iterations in
common, so they stop at the end of an epoch.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from npdp.base import environment, stop_files
from npdp.base.errors import OutputError, StoppedError
from npdp.base.stop_signals import StopSignals
from npdp.elastic.inject import LASTING

if TYPE_CHECKING:
    from npdp.app.checkpoints import Checkpoints
    from npdp.app.job import Job
    from npdp.report.metrics import Metrics

TIME_LIMIT = 124  # exit code of `timeout`
LONG_S = 5.0  # of an iteration, that the launcher is told


class Command(NamedTuple):
    """A command that trains: its flags as they were typed, when it began, and the signals of its process."""

    typed: Sequence[str]
    began_s: float
    signals: StopSignals


def going_on(typed: Sequence[str]) -> str:
    """Return the command that goes on with a job from its checkpoint."""
    launched = environment.launch()
    is_bare = launched is not None and environment.VERDICT not in os.environ
    survives = "--with-ft ulfm " * environment.survives_deaths()
    begins = f"mpirun {survives}-n {launched.world_size} python -m npdp.train" if launched and is_bare else "npdp train"
    return f"{begins} {shlex.join(resuming(_undisturbed(typed)))}"


def _undisturbed(typed: Sequence[str]) -> list[str]:
    """Return flags without the faults that come once: when training goes on they would come again."""
    words, kept = iter(typed), list[str]()
    for word in words:
        flag = [word, *([next(words)] if word == "--inject" else [])]
        is_fault = word.startswith("--inject") and flag[-1].removeprefix("--inject=").partition("@")[0] not in LASTING
        kept += [] if is_fault else flag
    return kept


def resuming(typed: Sequence[str]) -> list[str]:
    """Return flags with --resume."""
    return [*typed, *["--resume"] * ("--resume" not in typed)]


class Stopping:
    """Stop of a job, told after each iteration; within, signals ask for it.

    Args:
        command: the one that trains.
        job, checkpoints, metrics: of this rank.
        write: writes the files that flags name, given the test loss of the last parameters; collective.
    """

    def __init__(
        self,
        command: Command,
        job: Job,
        checkpoints: Checkpoints,
        metrics: Metrics,
        write: Callable[[float], None],
    ) -> None:
        from npdp.elastic.stopping import Looks

        self._command, self._signals = command, command.signals
        self._job, self._checkpoints, self._metrics, self._write = job, checkpoints, metrics, write
        self._looks = Looks(job.world, self._asked, job.optimizer.iteration)
        self._is_assigned = job.config.staleness > 0
        self._code = 0  # with which this rank stops, once it has begun to
        self.error: StoppedError | None = None  # likewise, when it is done
        self._last_iteration = job.config.epochs * job.loader.iterations_per_epoch

    def __enter__(self) -> Stopping:
        self._signals.looking = True
        if self._job.world.rank == 0:
            stop_files.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.looking = False
        if self._job.world.rank == 0:
            stop_files.listen_no_more()

    def after(self, iteration: int) -> None:
        """Stop where a rank was asked to; collective, now and then. StoppedError says how to go on."""
        if not self._is_assigned and iteration < self._last_iteration and (code := self._looks.after(iteration)):
            self._stop(code, iteration)

    def after_epoch(self, epoch: int) -> None:
        """Do so where work is assigned; collective."""
        if self._is_assigned and epoch < self._job.config.epochs and (code := self._looks.now(epoch)):
            self._stop(code)

    def _asked(self) -> int:
        """Return the exit code of what this rank is asked to stop for, 0 where it is not."""
        if self._code:  # a rank has died while all stopped, it may be the one that was asked to
            return self._code
        number = self._signals.number
        if self._job.world.rank == 0:
            number = number or stop_files.asked()
            if self._looks.iteration_s > LONG_S:
                stop_files.listen(self._looks.iteration_s)
            limit = self._job.config.time_limit
            if not number and limit is not None and time.time() - self._command.began_s > limit:
                return TIME_LIMIT
        return number and 128 + number

    def _stop(self, code: int, iteration: int | None = None) -> None:
        """Stop after an iteration, counted as checkpoints are; where ranks have none in common, by updates."""
        job, why = self._job, "--time-limit" if code == TIME_LIMIT else signal.Signals(code - 128).name
        self._code = code
        job.model.strategy.synchronize()
        if iteration is None:
            iteration = job.model.strategy.updates(job.optimizer)
        kept = self._checkpoints.stop(iteration)
        self._metrics.write("stopped", iteration=iteration, why=why, checkpoint=kept)
        job.model.strategy.end_training()
        which = "that scored best so far" if job.config.evaluate_every else "as it is now"
        saved = f"; the model {which} is in {job.config.save}" if job.config.save else ""
        try:
            self._write(math.inf)
        except OutputError as error:
            saved = f"; {error}"
        command = going_on(self._command.typed)
        how = f"go on from {kept} with: {command}" if kept else "there is no checkpoint to go on from"
        self.error = StoppedError(f"stopped by {why} after iteration {iteration}{saved}; {how}", code)
        raise StoppedError(job.world.gather_texts(str(self.error))[0], code)
