"""`python -m npdp.train`: from flags to a trained model, on however many ranks were launched.

    flags → data, model, optimiser      all ranks agree that these can be used, or leave together
          → epochs of batches           forward, backward with the exchange inside, step
          → scores over all ranks, the saved model, where the time went
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from npdp import addresses, on_ranks
from npdp import config as flags
from npdp.config import TrainConfig
from npdp.elastic.inject import Pace
from npdp.errors import InputError, OutputError
from npdp.report.console import Console, banner, summary
from npdp.report.metrics import Metrics
from npdp.report.results import write_results

if TYPE_CHECKING:
    from npdp.job import Job
    from npdp.parallel.world import World


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `npdp.train`; return the exit code: 2 where flags or input cannot be used, 1 if results are not written."""
    return on_ranks.main(lambda: flags.parse(arguments), _train, lambda config: "npdp train")


def run(arguments: Sequence[str] | None) -> None:
    """Train as the flags say; collective where a launcher has started several ranks.

    Raises:
        InputError: flags or input that cannot be used; on all ranks alike, before any of them trains.
        OutputError: results that could not be written; on all ranks alike, when they have trained.
    """
    on_ranks.run(lambda: flags.parse(arguments), _train, lambda config: "npdp train")


def _train(config: TrainConfig) -> int:
    train(config)
    return 0


def _set_algorithm(algorithm: str, world: World) -> None:
    """Make it the world's, or refuse it where this world cannot use it; collective."""
    try:
        world.chosen("allreduce", 0, algorithm)
    except ValueError as error:
        raise InputError(f"--algorithm {algorithm}: {error}") from None
    world.algorithm = algorithm


def train(config: TrainConfig) -> dict[str, Any]:
    """Train on this rank of the world that there is; collective. Returns the `end` event."""
    import numpy as np

    from npdp import job as jobs
    from npdp.parallel.agreement import agree
    from npdp.parallel.world import init

    world = init()
    agree(world, lambda: _set_algorithm(config.algorithm, world))
    job = jobs.prepare(config, world)
    world = job.world  # of the ranks that train: a server has left by now
    console = Console(world.rank == 0 and not config.quiet)
    opened = agree(world, lambda: _open_metrics(config.metrics if world.rank == 0 else None))
    with opened as metrics, np.errstate(over="ignore", invalid="ignore"):  # what diverges is told in words
        start = jobs.start_event(job)
        metrics.write("start", **start)
        console.say(banner(start))
        world.clear_times()
        before = time.perf_counter()
        iterations, samples = _epochs(job, console, metrics)
        job.model.exchange.synchronize()
        wall_s = time.perf_counter() - before
        end = jobs.end_event(job, iterations, samples, wall_s)
        metrics.write("end", **end)
        console.say(summary(end))  # first, whatever becomes of the files
        agree(world, lambda: _write_results(job, metrics, console) if world.rank == 0 else None, OutputError)
    return end


def _epochs(job: Job, console: Console, metrics: Metrics) -> tuple[int, int]:
    """Train all epochs; return the number of updates, and of samples that this rank has used."""
    from npdp import optim

    config, world = job.config, job.world
    model, optimizer, criterion = job.model, job.optimizer, job.criterion
    pace = Pace(config.inject, world.rank)
    samples = 0
    start_s = time.perf_counter()
    for epoch in range(config.epochs):
        epoch_loss = batch_loss = epoch_count = batch_count = began_s = 0.0  # sums over this rank's samples
        for piece, (inputs, labels) in enumerate(job.loader):
            first, last = piece % config.accumulate == 0, (piece + 1) % config.accumulate == 0
            if first:
                began_s = time.perf_counter()
                optimizer.zero_grad()
                batch_loss = batch_count = 0.0
            with model.syncing(last):
                loss = criterion(model(inputs), labels)
                loss.backward()
            batch_loss += loss.item() * len(labels)
            batch_count += len(labels)
            if not last:
                continue
            pace.hold(began_s)
            if config.clip_norm is not None:
                optim.clip_grad_norm_(optimizer.parameters, config.clip_norm)
            learning_rate = optimizer.current_lr
            optimizer.step()
            epoch_loss += batch_loss
            epoch_count += batch_count
            local_loss = batch_loss / (batch_count or 1)
            if metrics.due():
                metrics.write(
                    "iteration", iteration=model.exchange.updates(optimizer), epoch=epoch + 1, local_loss=local_loss,
                    learning_rate=learning_rate, elapsed_s=time.perf_counter() - start_s,
                )  # fmt: skip
            if console.due():
                at = f"epoch {epoch + 1}/{config.epochs}  iteration {model.exchange.updates(optimizer)}"
                console.live(f"{at}  loss {local_loss:.4f}")
        samples += int(epoch_count)
        mean = world.mean(epoch_loss / (epoch_count or 1), epoch_count)
        metrics.write("epoch", epoch=epoch + 1, iteration=model.exchange.updates(optimizer), train_loss=mean)
        console.epoch(f"epoch {epoch + 1}/{config.epochs}  mean loss {mean:.4f}", last=epoch + 1 == config.epochs)
        _warn_of_divergence(mean, console)
    return optimizer.iteration, samples


def _warn_of_divergence(loss: float, console: Console) -> None:
    if not math.isfinite(loss):
        console.say_once("  training has diverged: try a smaller --learning-rate, --clip-norm 1, or --standardize")


def _open_metrics(path: str | None) -> Metrics:
    try:
        return Metrics(path)
    except OSError as error:
        raise InputError(f"--metrics: {path} cannot be written: {error.strerror or error}") from None


def _write_results(job: Job, metrics: Metrics, console: Console) -> None:
    """Write the files that flags name; OutputError names those that could not be."""
    config = job.config
    write_results(console, (
        ("--metrics", config.metrics, metrics.close),
        ("--save", config.save, lambda: _save(job)),
        ("--record-arrivals", config.record_arrivals, lambda: _save_arrivals(job)),
    ))  # fmt: skip


def _save_arrivals(job: Job) -> None:
    assert job.config.record_arrivals is not None
    job.model.exchange.save_arrivals(job.config.record_arrivals, job.run)


def _save(job: Job) -> None:
    from npdp import models, saved_model

    config = job.config

    description = {
        "model": models.name_from_anywhere(job.model_name),
        "features": job.data.train.sample_shape[0],
        "classes": job.data.classes,
        "hidden": list(config.hidden),
        "dtype": config.dtype,
        "data": job.data.source,
    }
    if job.data.labels is not None:
        description["labels"] = list(job.data.labels)
    assert config.save is not None
    saved_model.save(config.save, saved_model.SavedModel(job.model.module, description, job.data.scaling))


if __name__ == "__main__":
    addresses.begin_again_at_same()
    sys.exit(main())
