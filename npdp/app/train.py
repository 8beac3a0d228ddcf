"""Training from the command line, `python -m npdp.train`: flags in, a trained model out, on any number of ranks.

    flags → data, model, optimiser      all ranks agree that these can be used, or leave together
          → epochs of batches (epochs.py)
          → scores over all ranks, the saved model, where the time went
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from npdp.app import on_ranks
from npdp.app.config import TrainConfig, parse
from npdp.base.errors import DivergedError, InputError, OutputError
from npdp.report.console import Console, banner, note, summary
from npdp.report.metrics import Metrics
from npdp.report.progress import Progress
from npdp.report.results import write_results

if TYPE_CHECKING:
    from npdp.app.elastic_servers import ElasticServers
    from npdp.app.epochs import LossSum
    from npdp.app.job import Job
    from npdp.autograd.tensor import Array
    from npdp.collectives.communicator import Communicator
    from npdp.elastic.faults import Faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `npdp.train`; return the exit code: 2 where flags or input cannot be used, 1 without usable results."""
    return on_ranks.main(lambda: parse(arguments), _train, lambda config: "npdp train")


def _train(config: TrainConfig) -> int:
    if config.estimate:
        return _estimate(config)
    end = _from_the_start(config) if config.elastic else train(config)
    loss = end["train_loss"]  # the same on all ranks
    if not math.isfinite(loss):
        raise DivergedError(
            f"training ended with a loss of {loss}, the model is of no use: try a smaller --learning-rate, "
            "--clip-norm 1, or --standardize"
        )
    return 0


def _from_the_start(config: TrainConfig) -> dict[str, Any]:
    """Train on ranks that may die at any moment."""
    from npdp.app.elastic import require_survival
    from npdp.app.elastic_servers import ElasticServers
    from npdp.elastic.recovery import from_the_start
    from npdp.parallel.world import init

    world = init()
    require_survival(world, config.spares)
    if config.strategy == "ps":
        return ElasticServers(config, world).run(world, partial(train, config))
    return from_the_start(world, lambda: train(config))


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
    try:
        world.chosen("allreduce", 0, algorithm)
    except ValueError as error:
        raise InputError(f"--algorithm {algorithm}: {error}") from None
    world.algorithm = algorithm


def train(config: TrainConfig, servers: ElasticServers | None = None) -> dict[str, Any]:
    """Train on this rank of the world that there is; collective. Returns the `end` event.

    Args:
        servers: what of an elastic training under a parameter server is kept.
    """
    import numpy as np

    from npdp.app import job as jobs
    from npdp.app.checkpoints import Checkpoints
    from npdp.app.elastic import Elastic
    from npdp.app.epochs import each, train_epochs
    from npdp.app.observing import Observer
    from npdp.elastic.faults import Faults
    from npdp.parallel.agreement import agree
    from npdp.parallel.world import init

    world = init(stall_warning_s=config.stall_warning_s, stall_abort_s=config.stall_abort_s)
    world.transport.stalls.limits.fences = config.fence_stalled
    agree(world, lambda: _set_algorithm(config.algorithm, world))
    faults = servers.faults if servers else Faults(config.inject, world)  # where there are none, it does nothing
    checkpoints = Checkpoints(config, faults.while_writing)  # likewise
    job = jobs.prepare(config, world, checkpoints.resume, servers)
    goes_on = servers is not None and servers.goes_on
    agree(world, lambda: faults.may_befall(job.model))
    world = job.world  # of the ranks that train: a server has left by now
    console = Console(world.rank == 0 and not config.quiet)
    path = config.metrics if world.rank == 0 else None
    opened = agree(world, lambda: _open_metrics(path, console, checkpoints.goes_on or goes_on))
    with opened as metrics, np.errstate(over="ignore", invalid="ignore"):  # what diverges is told in words
        start = jobs.start_event(job)
        if not goes_on:
            metrics.write("start", **start)
            console.say("\n".join([banner(start), *(f"  note      {note}" for note in job.data.notes)]))
        world.clock.clear()
        before = servers.began_s() if servers else time.perf_counter()
        updates = partial(job.model.strategy.updates, job.optimizer)
        progress = Progress(console, metrics, config.epochs, job.loader.iterations_per_epoch, updates)
        observer = Observer(job, console, metrics)
        end: dict[str, Any] = {}

        def complete(after: Callable[[int], None], mean: Callable[[LossSum], float] | None = None) -> None:
            iterations, samples = train_epochs(job, progress, after, mean)
            checkpoints.finish()
            job.model.strategy.synchronize()
            wall_s = time.perf_counter() - before
            end.update(jobs.end_event(job, iterations, samples, wall_s))
            if not metrics.ended:
                metrics.write("end", **end)
                console.say(summary(end))  # first, whatever becomes of the files
            if left := faults.left():
                note(f"--inject: {left}: training ended before")
            best = observer.better_than(end["test_loss"])
            write = partial(_write_results, job, best, metrics, console, faults)
            agree(world, lambda: write() if world.rank == 0 else None, OutputError)

        look = each(observer.after, checkpoints.after)
        with checkpoints.begin(job, observer, console, start):
            if servers:
                servers.train(job, progress, console, metrics, complete)
            elif config.elastic:
                Elastic(job, progress, console, metrics).train(look, complete)
            else:
                complete(look)
    return end


def _open_metrics(path: str | None, console: Console, append: bool) -> Metrics:
    try:
        return Metrics(path, lambda why: console.say(f"  --metrics: no more is written to {path}: {why}"), append)
    except OSError as error:
        raise InputError(f"--metrics: {path} cannot be written: {error.strerror or error}") from None


def _write_results(
    job: Job, best: Mapping[str, Array] | None, metrics: Metrics, console: Console, faults: Faults
) -> None:
    """Write the files that flags name; OutputError names those that could not be."""
    config = job.config
    write_results(console, (
        ("--metrics", config.metrics, metrics.close),
        ("--save", config.save, lambda: _save(job, best, faults)),
        ("--record-arrivals", config.record_arrivals, lambda: _save_arrivals(job)),
    ))  # fmt: skip


def _save_arrivals(job: Job) -> None:
    assert job.config.record_arrivals is not None
    job.model.strategy.save_arrivals(job.config.record_arrivals, job.run)


def _save(job: Job, best: Mapping[str, Array] | None, faults: Faults) -> None:
    """Write the model: with the parameters that scored best, where they were looked at, else with the last ones."""
    from npdp.app import saved_model

    assert job.config.save is not None
    faults.need_room(job.optimizer.iteration)
    saved = saved_model.SavedModel(job.model.module, job.describe(), job.data.scaling)
    saved_model.save(job.config.save, saved, best)
