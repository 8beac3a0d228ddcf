"""`python -m npdp.train`: from flags to a trained model, on however many ranks were launched.

    flags → data, model, optimiser      all ranks agree that these can be used, or leave together
          → epochs of batches           forward, backward with the exchange inside, step
          → scores over all ranks, the saved model, where the time went
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from npdp import config as flags
from npdp import environment
from npdp.config import TrainConfig
from npdp.errors import InputError
from npdp.report.console import Console, banner, refuse, summary
from npdp.report.metrics import Metrics

if TYPE_CHECKING:
    from npdp import nn, optim
    from npdp.data import DataLoader
    from npdp.data.sources import DataSplit
    from npdp.parallel.data_parallel import DataParallel
    from npdp.parallel.world import World

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `npdp.train`; return the exit code, 2 where flags or input cannot be used."""
    launched = environment.launch()
    try:
        run(arguments)
    except InputError as error:
        if launched is None or launched.rank == 0:
            refuse(str(error))
        return 2
    return 0


def run(arguments: Sequence[str] | None) -> None:
    """Train as the flags say; collective where a launcher has started several ranks.

    Raises:
        InputError: flags or input that cannot be used; on all ranks alike, before any of them trains.
    """
    config, fault = _parsed(arguments)
    if config is not None and config.transport == "threads":
        environment.set_blas_threads(config.ranks or 1)  # NumPy is not loaded yet
        from npdp.parallel.world import run_ranks

        run_ranks(config.ranks or 1, train, config, algorithm=config.algorithm)
        return
    if environment.launch() is None and fault:
        raise InputError(fault)
    from npdp.parallel.world import init

    world = init()
    agree(world, lambda: _refuse_if(fault or _wrong_ranks(config, world)))
    assert config is not None
    world.algorithm = config.algorithm
    train(config)


def _parsed(arguments: Sequence[str] | None) -> tuple[TrainConfig | None, str | None]:
    try:
        return flags.parse(arguments), None
    except InputError as error:
        return None, str(error)


def _wrong_ranks(config: TrainConfig | None, world: World) -> str | None:
    if config is None or config.ranks in (None, world.world_size):
        return None
    return (
        f"--ranks {config.ranks}, but this is a world of {world.world_size}: ranks are started by "
        f"`npdp train --ranks {config.ranks}` or `mpirun -n {config.ranks}`; or use --transport threads"
    )


def _refuse_if(fault: str | None) -> None:
    if fault:
        raise InputError(fault)


def agree(world: World, prepare: Callable[[], T]) -> T:
    """Return `prepare()`, or raise the first rank's InputError on every rank; collective."""
    made, fault = None, ""
    try:
        made = prepare()
    except InputError as error:
        fault = str(error)
    if world.world_size > 1:
        faults = world.gather_texts(fault)
        first = next((rank for rank, text in enumerate(faults) if text), None)
        fault = "" if first is None else faults[first] if all(faults) else f"rank {first}: {faults[first]}"
    if fault:
        raise InputError(fault)
    return made  # type: ignore[return-value]


class Job(NamedTuple):
    """All that a rank needs to train."""

    data: DataSplit
    model_name: str
    model: DataParallel
    criterion: nn.Module
    optimizer: optim.Optimizer
    loader: DataLoader


def train(config: TrainConfig) -> dict[str, Any]:
    """Train on this rank of the world that there is; collective. Returns the `end` event."""
    from npdp.parallel.world import init

    world = init()
    job = prepare(config, world)
    console = Console(world.rank == 0 and not config.quiet)
    with agree(world, lambda: Metrics(config.metrics if world.rank == 0 else None)) as metrics:
        start = _start_event(config, world, job)
        metrics.write("start", **start)
        console.say(banner(start))
        world.clear_times()
        before = time.perf_counter()
        iterations, samples = _epochs(config, world, job, console, metrics)
        wall_s = time.perf_counter() - before
        end = _end_event(config, world, job, iterations, samples, wall_s)
        if config.save is not None:
            agree(world, lambda: _save(config, job) if world.rank == 0 else None)
        metrics.write("end", **end)
        console.say(summary(end))
    return end


def prepare(config: TrainConfig, world: World) -> Job:
    """Load the data, build the model, and make sure that all ranks have the same; collective."""
    from npdp import manual_seed, models, nn
    from npdp.data import DataLoader, sources
    from npdp.parallel.data_parallel import DataParallel
    from npdp.parallel.replicas import require_equal

    manual_seed(config.seed)
    data = agree(
        world,
        lambda: sources.load(
            config.data,
            target=config.target,
            test_fraction=config.test_fraction,
            seed=config.seed,
            standardize=config.standardize,
            dtype=config.dtype,
            task=models.task_of(config.model),
        ),
    )
    require_equal(world, "data sets", [data.source, data.train.fingerprint()])
    name = config.model or models.default_name(data.classes)
    features = data.train.sample_shape[0]
    model = agree(world, lambda: models.build(name, features, data.classes, config.hidden, config.dtype))
    optimizer = _optimizer(config, model, iterations_per_epoch=-(-len(data.train) // config.global_batch_size))
    return Job(
        data,
        name,
        DataParallel(model),
        nn.MSELoss() if data.classes is None else nn.CrossEntropyLoss(),
        optimizer,
        DataLoader(data.train, config.global_batch_size, shuffle=True, seed=config.seed, accumulate=config.accumulate),
    )


def _optimizer(config: TrainConfig, model: nn.Module, iterations_per_epoch: int) -> optim.Optimizer:
    from npdp import optim
    from npdp.optim import learning_rates

    iterations = config.epochs * iterations_per_epoch
    lr = {
        "constant": learning_rates.constant(config.learning_rate),
        "step": learning_rates.step(config.learning_rate, every=-(-iterations // 3) or 1),
        "cosine": learning_rates.cosine(config.learning_rate, iterations),
    }[config.lr_schedule]
    if config.warm_up_epochs:
        lr = learning_rates.warm_up(lr, round(config.warm_up_epochs * iterations_per_epoch))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return optim.SGD(parameters, lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    return kind(parameters, lr, weight_decay=config.weight_decay)


def _epochs(
    config: TrainConfig, world: World, job: Job, console: Console, metrics: Metrics
) -> tuple[int, int]:
    """Train all epochs; return the number of updates, and of samples that this rank has used."""
    from npdp import optim

    model, optimizer, criterion = job.model, job.optimizer, job.criterion
    parameters = optimizer.parameters
    samples = 0
    for epoch in range(config.epochs):
        loss_sum = epoch_samples = 0.0
        for piece, (inputs, labels) in enumerate(job.loader):
            first, last = piece % config.accumulate == 0, (piece + 1) % config.accumulate == 0
            if first:
                optimizer.zero_grad()
            with model.syncing(last):
                loss = criterion(model(inputs), labels)
                loss.backward()
            loss_sum += loss.item() * len(labels)
            epoch_samples += len(labels)
            if not last:
                continue
            if config.clip_norm is not None:
                optim.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            if metrics.due():
                metrics.write(
                    "iteration", iteration=optimizer.iteration, epoch=epoch + 1, loss=loss.item(),
                    learning_rate=optimizer.current_lr,
                )  # fmt: skip
            console.live(f"epoch {epoch + 1}/{config.epochs}  iteration {optimizer.iteration}  loss {loss.item():.4f}")
        samples += int(epoch_samples)
        mean = world.mean(loss_sum / (epoch_samples or 1), epoch_samples)
        metrics.write("epoch", epoch=epoch + 1, iteration=optimizer.iteration, train_loss=mean)
        console.epoch(f"epoch {epoch + 1}/{config.epochs}  mean loss {mean:.4f}", last=epoch + 1 == config.epochs)
    return optimizer.iteration, samples


def _start_event(config: TrainConfig, world: World, job: Job) -> dict[str, Any]:
    import npdp
    from npdp import kernels
    from npdp.partition import bounds

    cuts = bounds(config.global_batch_size, world.world_size)
    return {
        "version": npdp.__version__,
        "data": job.data.source,
        "model": job.model_name,
        "parameters": sum(parameter.data.size for parameter in job.model.parameters()),
        "world_size": world.world_size,
        "transport": world.transport.name,
        "strategy": config.strategy,
        "algorithm": _resolved_algorithm(world, job),
        "bucket_bytes": [bucket.buffer.nbytes for bucket in job.model.exchange.buckets],
        "update": "replicated",
        "backend": kernels.backend(),
        "blas_threads": environment.blas_threads_in_use(),
        "global_batch_size": config.global_batch_size,
        "local_batch_size": [cuts[rank + 1] - cuts[rank] for rank in range(world.world_size)],
        "accumulate": config.accumulate,
        "iterations_per_epoch": job.loader.iterations_per_epoch,
        "epochs": config.epochs,
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
        "lr_schedule": config.lr_schedule,
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
        "clip_norm": config.clip_norm,
        "dtype": config.dtype,
        "seed": config.seed,
    }


def _resolved_algorithm(world: World, job: Job) -> str:
    """Return the algorithm of the largest bucket."""
    from npdp.collectives.choose import choose

    largest = max(bucket.buffer.nbytes for bucket in job.model.exchange.buckets)
    return choose("allreduce", world.algorithm, largest, world.world_size)


def _end_event(
    config: TrainConfig, world: World, job: Job, iterations: int, samples: int, wall_s: float
) -> dict[str, Any]:
    """Score the model, make sure that all ranks have the same, and add up what they did; collective."""
    import numpy as np

    from npdp import kernels
    from npdp.evaluation import evaluate
    from npdp.parallel.replicas import parameters_sha256, require_equal

    totals = np.array([samples, world.communication_s, world.wait_s], np.float64)
    peak = np.array([environment.peak_memory_bytes()], np.int64)
    sha256 = parameters_sha256(job.model.named_parameters())
    require_equal(world, "trained parameters", [sha256])
    world.allreduce(totals, algorithm="tree")
    world.allreduce(peak, "max", algorithm="tree")
    train_score = evaluate(world, job.model.module, job.data.train, job.data.classes)
    test = None if job.data.test is None else evaluate(world, job.model.module, job.data.test, job.data.classes)
    communication_s, wait_s = totals[1:] / world.world_size
    return {
        "world_size": world.world_size,
        "strategy": config.strategy,
        "algorithm": _resolved_algorithm(world, job),
        "backend": kernels.backend(),
        "epochs": config.epochs,
        "iterations": iterations,
        "samples_seen": int(totals[0]),
        "train_loss": train_score.loss,
        "test_loss": test.loss if test else None,
        "test_accuracy": test.accuracy if test else None,
        "parameters_sha256": sha256,
        "wall_s": wall_s,
        "samples_per_s": totals[0] / wall_s,
        "compute_s": max(0.0, wall_s - communication_s - wait_s),
        "communication_s": float(communication_s),
        "wait_s": float(wait_s),
        "peak_memory_bytes": int(peak[0]),
        "recoveries": 0,
    }


def _save(config: TrainConfig, job: Job) -> None:
    from npdp import saved_model

    description = {
        "model": job.model_name,
        "features": job.data.train.sample_shape[0],
        "classes": job.data.classes,
        "hidden": list(config.hidden),
        "dtype": config.dtype,
        "data": job.data.source,
    }
    assert config.save is not None
    saved_model.save(config.save, saved_model.SavedModel(job.model.module, description, job.data.scaling))


if __name__ == "__main__":
    sys.exit(main())
