"""A training job made from the flags, and the events that a run reports at its start and end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from npdp import __version__, kernels, manual_seed, nn, optim
from npdp.app import models, strategies
from npdp.app.config import TrainConfig
from npdp.app.evaluation import evaluate
from npdp.base import environment
from npdp.base.errors import InputError
from npdp.base.partition import bounds
from npdp.collectives.communicator import Communicator
from npdp.data import DataLoader, SparseDataset, sources
from npdp.data.sources import DataSplit
from npdp.elastic.inject import require_ranks
from npdp.optim import learning_rates
from npdp.parallel.agreement import agree, require_equal
from npdp.parallel.data_parallel import DataParallel
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.shared_data import load_once

MOMENTUM = 0.9  # where nobody says, and neither data nor parameters are sparse


class Job(NamedTuple):
    """A training job of one rank: data, model, optimiser and loader.

    Attributes:
        config: the flags, with what depends on the data filled in.
        run: what an update log belongs to.
    """

    config: TrainConfig
    data: DataSplit
    model_name: str
    model: DataParallel
    criterion: nn.Module
    optimizer: optim.Optimizer
    loader: DataLoader
    run: dict[str, Any]

    @property
    def world(self) -> Communicator:
        """The communicator of the ranks that train."""
        return self.model.world


def prepare(config: TrainConfig, world: Communicator) -> Job:
    """Load the data, build the model, and make sure that all ranks have the same; collective.

    A rank that is a server serves here, and leaves the program (SystemExit) when the workers have.
    """
    manual_seed(config.seed)
    data = load_once(
        world,
        lambda: sources.load(
            config.data,
            target=config.target,
            test_fraction=config.test_fraction,
            seed=config.seed,
            standardize=config.standardize,
            dtype=config.dtype,
            task=_task(config),
            sparse=config.sparse,
            tokenizer=config.tokenizer,
            context=config.context,
        ),
    )
    fingerprint = data.train.fingerprint()
    require_equal(world, "data sets", [data.source, fingerprint])
    sparse = isinstance(data.train, SparseDataset)
    name = config.model or models.default_name(data.classes, sparse)
    model = agree(world, lambda: _model(name, data, sparse, config))
    what_is_sparse = "data" if sparse else "parameters" if _has_rows(model) else None
    config = agree(world, lambda: _with_momentum(config, what_is_sparse))
    optimizer = _optimizer(config, model, iterations_per_epoch=-(-len(data.train) // config.global_batch_size))
    run = strategies.run_of(config, world.world_size, fingerprint)
    nbytes = sum(parameter.data.nbytes for parameter in model.parameters() if parameter.requires_grad)
    trained = strategies.Trained(run, nbytes, what_is_sparse)
    strategy = agree(world, lambda: strategies.make(config, world, trained))
    agree(world, lambda: require_ranks(config.inject, strategy.workers(world.world_size)))
    return Job(
        config,
        data,
        name,
        DataParallel(model, strategy=strategy),
        nn.MSELoss() if data.classes is None else nn.CrossEntropyLoss(),
        optimizer,
        DataLoader(data.train, config.global_batch_size, shuffle=True, seed=config.seed, accumulate=config.accumulate),
        run,
    )


def _task(config: TrainConfig) -> str:
    """Return how targets are to be read; InputError where the flag says one thing and the model's name another."""
    of_model = models.task_of(config.model)
    if config.task == "auto":
        return of_model
    if of_model not in ("auto", config.task):
        raise InputError(f"--task {config.task}: --model {config.model} is for {of_model}")
    return config.task


def _model(name: str, data: DataSplit, sparse: bool, config: TrainConfig) -> nn.Module:
    """Return a new model; InputError where there is none of that name, or it does not fit the data."""
    if name in models.MODELS and data.tokenizer is not None:
        raise InputError(f"--model {name}: the data is text: wanted file.py:function")
    if name in models.MODELS and (name in models.SPARSE) != sparse:
        fitting = [other for other in models.MODELS if (other in models.SPARSE) == sparse]
        kind = "sparse" if sparse else "a table"
        raise InputError(f"--model {name}: the data is {kind}: wanted {', '.join(fitting)} or file.py:function")
    model = models.build(name, data.train.sample_shape[0], data.classes, config.hidden, config.dtype)
    if name not in models.MODELS:
        models.require_fit(name, model, data.train, data.classes)
    return model


def _has_rows(model: nn.Module) -> bool:
    """Return whether a gradient is rows: of a parameter that is sparse, and trained."""
    return any(isinstance(p, nn.SparseParameter) and p.requires_grad for p in model.parameters())


def _with_momentum(config: TrainConfig, what_is_sparse: str | None) -> TrainConfig:
    """Return the flags with momentum filled in; raise InputError where rows without a gradient would be changed."""
    if config.optimizer != "sgd":  # Adam has none
        config = replace(config, momentum=None)
    elif config.momentum is None:
        config = replace(config, momentum=0.0 if what_is_sparse else MOMENTUM)
    if what_is_sparse and (config.optimizer != "sgd" or config.momentum or config.weight_decay):
        raise InputError(
            f"sparse {what_is_sparse}: only rows with a gradient are updated: wanted --optimizer sgd --momentum 0 "
            f"--weight-decay 0, got {config.optimizer}, {config.momentum or 0.0} and {config.weight_decay}"
        )
    return config


def _optimizer(config: TrainConfig, model: nn.Module, iterations_per_epoch: int) -> optim.Optimizer:
    iterations = config.epochs * iterations_per_epoch
    lr = {
        "constant": learning_rates.constant(config.learning_rate),
        "step": learning_rates.step(config.learning_rate, every=-(-iterations // 3) or 1),
        "cosine": learning_rates.cosine(config.learning_rate, iterations),
    }[config.lr_schedule]
    if config.warm_up_epochs:
        lr = learning_rates.warm_up(lr, round(min(config.warm_up_epochs, config.epochs) * iterations_per_epoch))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return optim.SGD(parameters, lr, momentum=config.momentum or 0.0, weight_decay=config.weight_decay)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    return kind(parameters, lr, weight_decay=config.weight_decay)


def start_event(job: Job) -> dict[str, Any]:
    """Return what a run is, for people and for the metrics file (docs/metrics.md)."""
    config, world = job.config, job.world
    return {
        "version": __version__,
        "data": job.data.source,
        "model": job.model_name,
        "parameters": sum(parameter.data.size for parameter in job.model.parameters()),
        "world_size": world.world_size,
        "transport": world.transport.name,
        "strategy": config.strategy,
        **strategies.settings(config),
        "algorithm": job.model.strategy.algorithm,
        "bucket_bytes": job.model.strategy.bucket_bytes,
        "update": job.model.strategy.update,
        "backend": kernels.backend(),
        "blas_threads": environment.blas_threads_in_use(),
        "global_batch_size": config.global_batch_size,
        "local_batch_size": np.diff(bounds(config.global_batch_size, world.world_size)).tolist(),
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


def end_event(job: Job, iterations: int, samples: int, wall_s: float) -> dict[str, Any]:
    """Score the model, compare the ranks' replicas, and add up their work; collective.

    Args:
        iterations, samples: as this rank counts them; a parameter server knows better.
    """
    config, world = job.config, job.world
    spent = world.clock.communication_s, world.clock.wait_s  # in training alone
    of_strategy = job.model.strategy.end_training()
    server_peak = of_strategy.pop("server_peak_memory_bytes", 0)
    sums = np.array([samples, *spent, job.model.strategy.exchanged_bytes], np.float64)
    world.allreduce(sums, algorithm="tree")
    peak = np.array([max(environment.peak_memory_bytes(), server_peak)], np.int64)
    sha256 = parameters_sha256(job.model.named_parameters())
    require_equal(world, "trained parameters", [sha256], RuntimeError)
    world.allreduce(peak, "max", algorithm="tree")
    train_score = evaluate(world, job.model.module, job.data.train, job.data.classes)
    test = None if job.data.test is None else evaluate(world, job.model.module, job.data.test, job.data.classes)
    samples_seen = of_strategy.get("samples_seen", int(sums[0]))
    communication_s, wait_s = (sums[1:3] / world.world_size).tolist()
    return {
        "world_size": world.world_size,
        "strategy": config.strategy,
        "algorithm": job.model.strategy.algorithm,
        "backend": kernels.backend(),
        "epochs": config.epochs,
        "iterations": iterations,
        "samples_seen": samples_seen,
        "train_loss": train_score.loss,
        "test_loss": test.loss if test else None,
        "test_accuracy": test.accuracy if test else None,
        "parameters_sha256": sha256,
        "wall_s": wall_s,
        "samples_per_s": samples_seen / wall_s,
        "compute_s": max(0.0, wall_s - communication_s - wait_s),
        "communication_s": communication_s,
        "wait_s": wait_s,
        "exchanged_bytes": int(sums[3]),
        "peak_memory_bytes": int(peak[0]),
        "recoveries": 0,
        **of_strategy,
    }
