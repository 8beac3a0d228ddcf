"""Elastic training from the command line, `--elastic`: a job goes on through deaths, and the next rank 0 takes over.

What a dead rank 0 had alone is lost: the parameters that scored best (observing.py), and the live line of the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from npdp.base import environment
from npdp.base.errors import InputError
from npdp.comm.errors import RankDied
from npdp.elastic.recovery import Recovery, through_deaths
from npdp.elastic.state import State

if TYPE_CHECKING:
    from npdp.app.config import TrainConfig
    from npdp.app.epochs import LossSum
    from npdp.app.job import Job
    from npdp.collectives.communicator import Communicator
    from npdp.report.console import Console
    from npdp.report.metrics import Metrics
    from npdp.report.progress import Progress

Look = Callable[[int], None]
Program = Callable[[Look, "Callable[[LossSum], float]"], object]


def require_survival(world: Communicator, spares: int) -> None:
    """Raise InputError where ranks of this world do not survive others, or none of them is to train."""
    if spares >= world.world_size:
        raise InputError(f"--spares {spares}: wanted less than the {world.world_size} ranks that mpirun has started")
    if world.world_size > 1 and not environment.survives_deaths():
        raise InputError(
            "--elastic: mpirun was not told to let ranks survive: wanted mpirun --with-ft ulfm, of Open MPI 5, or npdp "
            "train --ranks N, which says so; elsewhere use --checkpoint and --restarts"
        )


def workers_of(config: TrainConfig, world: Communicator) -> int:
    """Return how many ranks train: of those that were launched all but the spares, as far as so many live."""
    launched = environment.launch()
    return min(world.world_size, (launched.world_size if launched else world.world_size) - config.spares)


class Elastic:
    """Elastic training of a job on one rank.

    Args:
        progress, console, metrics: who tells of it; silent on all ranks but 0.
    """

    def __init__(self, job: Job, progress: Progress, console: Console, metrics: Metrics) -> None:
        self._job, self._progress, self._console, self._metrics = job, progress, console, metrics
        self._is_first = job.world.rank == 0
        self._state = State(job.model, job.optimizer, job.loader, workers_of(job.config, job.world))
        self._told = self._state.ended  # before this run went on from a checkpoint

    def train(self, look: Look, complete: Program) -> None:
        """Do `complete(after, mean)`, again after each death; collective.

        Args:
            look: looks at the model after each iteration; collective.
            complete: trains on from wherever the state is, to its end.
        """
        state = self._state

        def after(iteration: int) -> None:
            state.commit()
            state.look(look)

        def program() -> None:
            state.look(look)
            complete(after, lambda seen: state.end_epoch())

        through_deaths(state, program, self._tell)

    def _tell(self, recovery: Recovery) -> None:
        job, world = self._job, self._job.world
        if world.rank == 0 and not self._is_first:
            self._is_first = True
            self._take_over()
        tell_recovery(recovery, world.world_size, job.optimizer.iteration, "iterations", self._console, self._metrics)

    def _take_over(self) -> None:
        """Be rank 0."""
        job, state = self._job, self._state
        self._console.speak(not job.config.quiet)
        told = take_over_metrics(job.config, self._console, self._metrics)
        if told is not None and max(told, self._told) < state.ended:
            self._progress.epoch(state.ended, state.ledger.mean_loss)


def take_over_metrics(config: TrainConfig, console: Console, metrics: Metrics) -> int | None:
    """Go on with the metrics of a rank 0 that died; return the last epoch in them, None where there are none."""
    if config.metrics is None:
        return None
    try:
        return metrics.take_over(config.metrics)
    except OSError as error:  # on another host, say
        console.say(f"  --metrics: no more is written to {config.metrics}: {error.strerror or error}")
        return None


def tell_recovery(recovery: Recovery, ranks: int, done: int, unit: str, console: Console, metrics: Metrics) -> None:
    """Tell who died, after how many units, and with how many ranks training goes on."""
    metrics.write("recovery", ranks_lost=recovery.lost, world_size=ranks, iteration=done, seconds=recovery.seconds)
    console.say(
        f"{RankDied(recovery.lost)}; after {done} {unit} training goes on with {ranks} rank{'s' * (ranks > 1)}, "
        f"{recovery.seconds * 1e3:.0f} ms later"
    )
