"""Makes a training strategy from `--strategy` and its flags, by the table of strategy_choices.py."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib import import_module
from typing import Any, NamedTuple

from npdp.app.config import TrainConfig
from npdp.app.strategy_choices import STRATEGIES
from npdp.base.errors import InputError
from npdp.collectives.algorithms import SHARED_MEMORY
from npdp.collectives.communicator import Communicator
from npdp.elastic.servers.recovery import Survival
from npdp.elastic.servers.strategy import SurvivingServers
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.fused import Fused, require_reduce_scatter
from npdp.parallel.local_sgd import LocalSGD
from npdp.parallel.parameter_server import update_log
from npdp.parallel.parameter_server.strategy import ParameterServer
from npdp.parallel.strategy import Strategy

# What of the flags does not change what is computed
BESIDE = ("metrics", "save", "quiet", "transport", "ranks", "inject", "algorithm", "record_arrivals", "replay_arrivals",
          "checkpoint", "checkpoint_every", "keep", "resume", "elastic", "spares", "stall_warning_s",
          "stall_abort_s", "fence_stalled")  # fmt: skip
_WHOLE_PARAMETERS = "passes over whole parameters; use"
FUSED_FROM_BYTES = 2**20  # of parameters; below, its second meeting costs more than it saves: docs/measurements.md


class Trained(NamedTuple):
    """Facts about the run that a strategy depends on.

    Attributes:
        run: what an update log must belong to.
        nbytes: of its parameters that are trained.
        what_is_sparse: the data, its parameters, or None.
        survival: what of an elastic training under a parameter server is kept.
    """

    run: dict[str, Any]
    nbytes: int
    what_is_sparse: str | None = None
    survival: Survival | None = None


def make(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    """Return the strategy that the flags ask for.

    Raises:
        InputError: this world is too small for it, or an update log does not fit.
    """
    module, name = STRATEGIES[config.strategy].made_by.split(":")
    maker = getattr(import_module(module), name)
    strategy: Strategy = maker() if isinstance(maker, type) else maker(config, world, trained)
    if trained.what_is_sparse is not None and not strategy.takes_rows:
        flag = f"--strategy {config.strategy}"
        raise InputError(f"sparse {trained.what_is_sparse}: {flag} {_WHOLE_PARAMETERS} --strategy allreduce or ps")
    return strategy


def run_of(config: TrainConfig, ranks: int, fingerprint: str) -> dict[str, Any]:
    """Return the facts that identify a run, for its update log."""
    flags = {name: value for name, value in asdict(config).items() if name not in BESIDE}
    return {"ranks": ranks, **flags, "staleness": f"{config.staleness:g}", "data_fingerprint": fingerprint}


def settings(config: TrainConfig) -> dict[str, Any]:
    """Return the strategy's flags, for metrics."""
    mine = {name: getattr(config, name) for name in STRATEGIES[config.strategy].flags}
    if "staleness" in mine:
        mine["staleness"] = "inf" if config.staleness == math.inf else int(config.staleness)  # JSON has no inf
    return mine


def all_reduce(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    """Return all-reduce, fused where that is quicker: in shared memory, where nothing looks at gradients in between."""
    if (sparse := trained.what_is_sparse) is not None and config.update == "fused":
        raise InputError(f"sparse {sparse}: --update fused {_WHOLE_PARAMETERS} --update replicated")
    if config.update == "fused" and world.world_size > 1:
        try:
            require_reduce_scatter(world.algorithm)
        except ValueError as error:
            raise InputError(f"--update {error}") from None
    if world.world_size == 1 or config.update == "replicated" or config.elastic:
        return AllReduce()
    if config.update == "fused":
        return Fused()
    in_memory = world.algorithm in ("auto", SHARED_MEMORY) and world.memory.is_of_all
    fused = in_memory and config.clip_norm is None and trained.nbytes >= FUSED_FROM_BYTES and sparse is None
    return Fused() if fused else AllReduce()


def parameter_server(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    if trained.survival is not None and (sparse := trained.what_is_sparse) is not None:
        raise InputError(f"--elastic: sparse {sparse} do not survive a server: use --strategy allreduce")
    replay = update_log.load(config.replay_arrivals, trained.run) if config.replay_arrivals else []
    survival, damped = trained.survival, config.staleness_lr != "constant"
    record = config.record_arrivals is not None
    try:
        if survival is not None:
            strategy: ParameterServer = SurvivingServers(config.servers, config.staleness, damped, survival=survival)
        else:
            strategy = ParameterServer(config.servers, config.staleness, damped, record, tuple(map(tuple, replay)))
        strategy.workers(world.world_size)
    except ValueError as error:
        servers = STRATEGIES["ps"].flags["servers"]
        given = "--strategy ps" if config.servers == servers else f"--servers {config.servers}"
        raise InputError(f"{given}: {error}") from None
    return strategy


def local_sgd(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    return LocalSGD(config.local_iterations, config.outer_momentum, config.outer_learning_rate)
