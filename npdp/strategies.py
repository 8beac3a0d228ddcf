"""From `--strategy` and its flags to how ranks train together: the one place that knows them by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from npdp.collectives.algorithms import SHARED_MEMORY
from npdp.collectives.communicator import Communicator
from npdp.config import FLAGS_OF, TrainConfig
from npdp.errors import InputError
from npdp.flag_parser import flag_of
from npdp.parallel.fused import require_reduce_scatter
from npdp.parallel.local_sgd import LocalSGD
from npdp.parallel.parameter_server import arrivals
from npdp.parallel.parameter_server.strategy import ParameterServer
from npdp.parallel.strategy import AllReduce, Strategy

# What of the flags does not change what is computed
BESIDE = ("metrics", "save", "quiet", "transport", "ranks", "inject", "algorithm", "record_arrivals", "replay_arrivals")
FUSED_FROM_BYTES = 2**20  # of parameters; below, its second meeting costs more than it saves: docs/measurements.md


class Trained(NamedTuple):
    """What is trained.

    Attributes:
        run: what a record of arrivals must belong to.
        nbytes: of its parameters that are trained.
        what_is_sparse: the data, its parameters, or None.
    """

    run: dict[str, Any]
    nbytes: int
    what_is_sparse: str | None = None


def make(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    """Return the strategy that the flags ask for.

    Raises:
        InputError: this world is too small for it, or a record does not fit.
    """
    return _STRATEGIES[config.strategy](config, world, trained)


def run_of(config: TrainConfig, ranks: int, fingerprint: str) -> dict[str, Any]:
    """Return what makes a run what it is, for a record of its arrivals."""
    flags = {name: value for name, value in asdict(config).items() if name not in BESIDE}
    return {"ranks": ranks, **flags, "staleness": f"{config.staleness:g}", "data_fingerprint": fingerprint}


def settings(config: TrainConfig) -> dict[str, Any]:
    """Return the strategy's flags, for metrics."""
    mine = {name: getattr(config, name) for name in FLAGS_OF[config.strategy]}
    if "staleness" in mine:
        mine["staleness"] = "inf" if config.staleness == math.inf else int(config.staleness)  # JSON has no inf
    return mine


def _allreduce(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    """Updates are fused where that is quicker: in shared memory, and where nothing looks at gradients in between."""
    if (sparse := trained.what_is_sparse) is not None and config.update == "fused":
        raise InputError(f"sparse {sparse}: --update fused {_WHOLE_PARAMETERS} --update replicated")
    if config.update == "fused" and world.world_size > 1:
        try:
            require_reduce_scatter(world.algorithm)
        except ValueError as error:
            raise InputError(f"--update {error}") from None
    if config.update != "auto":
        return AllReduce(config.update)
    in_memory = world.world_size > 1 and world.algorithm in ("auto", SHARED_MEMORY) and world.memory.is_of_all
    fused = in_memory and config.clip_norm is None and trained.nbytes >= FUSED_FROM_BYTES and sparse is None
    return AllReduce("fused" if fused else "replicated")


def _parameter_server(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    replay = arrivals.load(config.replay_arrivals, trained.run) if config.replay_arrivals else []
    try:
        strategy = ParameterServer(
            config.servers,
            config.staleness,
            config.backup_workers,
            damped=config.staleness_lr != "constant",
            record=config.record_arrivals is not None,
            replay=tuple(map(tuple, replay)),
        )
        strategy.workers(world.world_size)
    except ValueError as error:
        flags = {name: getattr(config, name) for name in ("servers", "backup_workers")}
        given = [f"{flag_of(name)} {flags[name]}" for name in flags if flags[name] != FLAGS_OF["ps"][name]]
        raise InputError(f"{' '.join(given) or '--strategy ps'}: {error}") from None
    return strategy


def _local_sgd(config: TrainConfig, world: Communicator, trained: Trained) -> Strategy:
    if (sparse := trained.what_is_sparse) is not None:
        raise InputError(f"sparse {sparse}: --strategy local-sgd {_WHOLE_PARAMETERS} --strategy allreduce or ps")
    return LocalSGD(config.local_iterations, config.outer_momentum, config.outer_learning_rate)


_WHOLE_PARAMETERS = "passes over whole parameters; use"
_STRATEGIES: dict[str, Callable[[TrainConfig, Communicator, Trained], Strategy]] = {
    "allreduce": _allreduce,
    "ps": _parameter_server,
    "local-sgd": _local_sgd,
}
