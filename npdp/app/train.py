"""Training from the command line, `python -m npdp.train`: flags in, a trained model out, on any number of ranks.

    flags → data, model, optimiser      all ranks agree that these can be used, or leave together
          → epochs of batches (epochs.py)
          → scores over all ranks, the saved model, where the time went
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from npdp.app import on_ranks
from npdp.app.config import TrainConfig, parse
from npdp.app.mpirun_signals import note_stop
from npdp.app.stopping import Command
from npdp.base import environment
from npdp.base.errors import DivergedError, InputError
from npdp.base.stop_signals import StopSignals
from npdp.report.console import Console
from npdp.report.metrics import Metrics

if TYPE_CHECKING:
    from npdp.app.elastic_servers import ElasticServers
    from npdp.collectives.communicator import Communicator


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `npdp.train`; return the exit code: 2 where flags or input cannot be used, 1 without usable results."""
    typed = sys.argv[1:] if arguments is None else arguments
    with StopSignals(note_stop) as signals:
        program = partial(_train, Command(typed, environment.began_s(), signals))
        return on_ranks.main(lambda: parse(typed), program, lambda config: "npdp train")


def _train(command: Command, config: TrainConfig) -> int:
    if config.estimate:
        return _estimate(config)
    end = _from_the_start(command, config) if config.elastic else train(config, command)
    loss = end["train_loss"]  # the same on all ranks
    if not math.isfinite(loss):
        raise DivergedError(
            f"training ended with a loss of {loss}, the model is of no use: try a smaller --learning-rate, "
            "--clip-norm 1, or --standardize"
        )
    return 0


def _from_the_start(command: Command, config: TrainConfig) -> dict[str, Any]:
    """Train on ranks that may die at any moment."""
    from npdp.app.elastic import require_survival
    from npdp.app.elastic_servers import ElasticServers
    from npdp.elastic.recovery import from_the_start
    from npdp.parallel.world import init

    world = init()
    require_survival(world, config.spares)
    if config.strategy == "ps":
        return ElasticServers(config, world).run(world, partial(train, config, command))
    return from_the_start(world, lambda: train(config, command))


def _estimate(config: TrainConfig) -> int:
    """Say what a rank would hold in memory; collective."""
    from npdp.app.estimate import estimate
    from npdp.parallel.agreement import agree
    from npdp.parallel.world import init

    world = init()
    Console(world.rank == 0).say(agree(world, lambda: estimate(replace(config, ranks=world.world_size))))
    return 0


def _set_algorithm(algorithm: str, world: Communicator) -> None:
    """Make it the world's, or refuse it where this world cannot use it; collective."""
    from npdp.app.algorithm_flag import usable

    world.algorithm = usable(world, "allreduce", algorithm)


def train(config: TrainConfig, command: Command, servers: ElasticServers | None = None) -> dict[str, Any]:
    """Train on this rank of the world that there is; collective. Returns the `end` event.

    Args:
        servers: what of an elastic training under a parameter server is kept.
    """
    import numpy as np

    from npdp.app import job as jobs
    from npdp.app.checkpoints import Checkpoints
    from npdp.app.training import Training
    from npdp.elastic.faults import Faults
    from npdp.parallel.agreement import agree
    from npdp.parallel.world import init

    world = init(stall_warning_s=config.stall_warning_s, stall_abort_s=config.stall_abort_s)
    world.transport.stalls.limits.fences = config.fence_stalled
    agree(world, lambda: _set_algorithm(config.algorithm, world))
    injected = () if environment.restarts() else config.inject  # what came once does not come again
    faults = servers.faults if servers else Faults(injected, world)  # where there are none, it does nothing
    checkpoints = Checkpoints(config, faults.while_writing)  # likewise
    job = jobs.prepare(config, world, checkpoints.resume, servers)
    goes_on = servers is not None and servers.goes_on
    agree(world, lambda: faults.may_befall(job.model))
    world = job.world  # of the ranks that train: a server has left by now
    console = Console(world.rank == 0 and not config.quiet)
    path = config.metrics if world.rank == 0 else None
    opened = agree(world, lambda: _open_metrics(path, console, checkpoints.goes_on or goes_on))
    with opened as metrics, np.errstate(over="ignore", invalid="ignore"):  # what diverges is told in words
        return Training(job, console, metrics, checkpoints, faults, command, servers).run()


def _open_metrics(path: str | None, console: Console, append: bool) -> Metrics:
    try:
        return Metrics(path, lambda why: console.say(f"  --metrics: no more is written to {path}: {why}"), append)
    except OSError as error:
        raise InputError(f"--metrics: {path} cannot be written: {error.strerror or error}") from None
