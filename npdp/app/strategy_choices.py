"""The table of strategies that `--strategy` can name; a new strategy takes one line.

It imports neither NumPy nor MPI, as flags are read before these are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_ELASTIC = "is not elastic: --elastic is for --strategy allreduce or ps"
_ON_EACH_RANK = "updates on each rank: --update is for --strategy allreduce"
_APART = {
    f"{name}_every": f"has ranks at different parameters: --{name}-every is for --strategy allreduce"
    for name in ("evaluate", "sample")
} | {"checkpoint": "has ranks at different parameters: --checkpoint is for --strategy allreduce"}


class Choice(NamedTuple):
    """A strategy of the table.

    Attributes:
        made_by: `module:name`, of a class of strategies, or of a function of (flags, world, what is trained) that
            returns one (strategies.py).
        help: what it does.
        flags: its own flags, and what each is where not given.
        excludes: other flags, and why they do not go together with it.
    """

    made_by: str
    help: str
    flags: Mapping[str, Any] = MappingProxyType({})
    excludes: Mapping[str, str] = MappingProxyType({"update": _ON_EACH_RANK, "elastic": _ELASTIC})


_SERVER_FLAGS = {
    "servers": 1,
    "staleness": 0.0,
    "staleness_lr": "constant",
    "record_arrivals": None,
    "replay_arrivals": None,
}
_ON_SERVERS = {
    "update": "updates on the servers: --update is for --strategy allreduce",
    "clip_norm": "adds gradients up on the servers, where --clip-norm cannot see them",
    "spares": "has replicas of its shards, and no spares: --spares is for --strategy allreduce",
    **_APART,
}
_LOCAL_FLAGS = {"local_iterations": 8, "outer_momentum": 0.0, "outer_learning_rate": 1.0}

STRATEGIES = {
    "allreduce": Choice("npdp.app.strategies:all_reduce", "every rank has the mean gradient", excludes={}),
    "naive": Choice("npdp.parallel.naive:Naive", "the same, by one all-reduce a parameter after backward"),
    "ps": Choice("npdp.app.strategies:parameter_server", "a parameter server", _SERVER_FLAGS, _ON_SERVERS),
    "local-sgd": Choice("npdp.app.strategies:local_sgd", "parameters are averaged now and then", _LOCAL_FLAGS,
                        {"update": _ON_EACH_RANK, "elastic": _ELASTIC, **_APART}),
}
