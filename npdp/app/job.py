"""A training job made from the flags, and the events that a run reports at its start and end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdp import __version__, kernels, manual_seed, nn, optim
from npdp.app import models, strategies
from npdp.app.config import TrainConfig
from npdp.app.elastic import workers_of
from npdp.app.evaluation import criterion_of, evaluate, of_text
from npdp.app.making import load_data, make_model, make_optimizer, sparse_part, with_momentum
from npdp.app.peak import share_of_peak
from npdp.base import environment
from npdp.base.partition import bounds
from npdp.collectives.communicator import Communicator
from npdp.data import DataLoader
from npdp.data.sources import DataSplit
from npdp.data.text import TextDataset
from npdp.elastic.inject import require_ranks
from npdp.parallel.agreement import agree, require_equal
from npdp.parallel.data_parallel import DataParallel
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.shared_data import load_once

if TYPE_CHECKING:
    from npdp.app.elastic_servers import ElasticServers


class Parts(NamedTuple):
    """What a job is made of, before the model is wrapped."""

    run: dict[str, Any]
    model_name: str
    model: nn.Module
    optimizer: optim.Optimizer
    loader: DataLoader


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

    def describe(self) -> dict[str, Any]:
        """Return what a saved model says of itself, but for what the training went through."""
        config, data = self.config, self.data
        description = {
            "model": models.name_from_anywhere(self.model_name),
            "features": data.train.sample_shape[0],
            "classes": data.classes,
            **config.model_flags,
            "dtype": config.dtype,
            "data": data.source,
        }
        if data.labels is not None:
            description["labels"] = list(data.labels)
        if data.columns is not None:
            description["columns"], description["target"] = list(data.columns.features), data.columns.target
        if data.tokenizer is not None:
            description["tokenizer"] = data.tokenizer.to_json()
        return description


def prepare(
    config: TrainConfig,
    world: Communicator,
    before_wrapping: Callable[[Communicator, Parts], object],
    servers: ElasticServers | None = None,
) -> Job:
    """Load the data, build the model, and make sure that all ranks have the same; collective.

    A rank that is a server serves here, and leaves the program (SystemExit) when the workers have.

    Args:
        before_wrapping: called when all is made, collectively, and may give it another state.
        servers: of an elastic training under a parameter server; it does so then.
    """
    manual_seed(config.seed)
    load = partial(load_once, world, lambda: load_data(config))
    data = servers.data(load) if servers else load()
    fingerprint = data.train.fingerprint()
    require_equal(world, "data sets", [data.source, fingerprint])
    name, model = agree(world, lambda: make_model(config, data))
    what_is_sparse = sparse_part(data, model)
    config = agree(world, lambda: with_momentum(config, what_is_sparse))
    optimizer = make_optimizer(config, model, -(-len(data.train) // config.global_batch_size))
    run = strategies.run_of(config, world.world_size, fingerprint)
    nbytes = sum(parameter.data.nbytes for parameter in model.parameters() if parameter.requires_grad)
    trained = strategies.Trained(run, nbytes, what_is_sparse, servers.survival if servers else None)
    strategy = agree(world, lambda: strategies.make(config, world, trained))
    if servers is None or not servers.goes_on:
        befallen = strategy.workers(world.world_size) if servers is None else world.world_size
        agree(world, lambda: require_ranks(config.inject, befallen))
    batch_size, accumulate = config.global_batch_size, config.accumulate
    loader = DataLoader(data.train, batch_size, shuffle=True, seed=config.seed, accumulate=accumulate)
    (servers.take_over if servers else before_wrapping)(world, Parts(run, name, model, optimizer, loader))
    return Job(
        config,
        data,
        name,
        DataParallel(model, strategy=strategy),
        criterion_of(data.train, data.classes),
        optimizer,
        loader,
        run,
    )


def start_event(job: Job) -> dict[str, Any]:
    """Return what a run is, for people and for the metrics file (docs/metrics.md)."""
    config, world = job.config, job.world
    ranks = workers_of(config, world)
    return {
        "version": __version__,
        "data": job.data.source,
        "model": job.model_name,
        "parameters": sum(parameter.data.size for parameter in job.model.parameters()),
        "world_size": ranks,
        "spares": config.spares,
        "transport": world.transport.name,
        "strategy": config.strategy,
        **strategies.settings(config),
        "algorithm": job.model.strategy.algorithm,
        "bucket_bytes": job.model.strategy.bucket_bytes,
        "update": job.model.strategy.update,
        "backend": kernels.backend(),
        "blas_threads": environment.blas_threads_in_use(),
        "global_batch_size": config.global_batch_size,
        "local_batch_size": np.diff(bounds(config.global_batch_size, ranks)).tolist(),
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
        **(of_text(test, job.data.test) if test and job.data.test else {}),
        **_speed_on_text(job, samples_seen / wall_s),
        **of_strategy,
    }


def _speed_on_text(job: Job, samples_per_s: float) -> dict[str, float]:
    """Return tokens a second, and the share of the processor's peak; nothing where the data is no text."""
    if not isinstance(job.data.train, TextDataset):
        return {}
    tokens_per_s = samples_per_s * job.data.train.context
    share = share_of_peak(job.model.module, tokens_per_s, job.world.world_size, job.config.dtype)
    return {"tokens_per_s": tokens_per_s, **share}
