"""The parameter-server strategy: number of servers, staleness of gradients, and set-up of a rank.

    all ranks   where gradients and parameters lie; the lines between ranks
    a server    its shards: it serves until all workers have left, and leaves the program
    a worker    the other ends of all shards: it goes on in a world of workers
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any

from npdp.base.arguments import require_number, whole
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter
from npdp.nn.sparse_parameter import SparseParameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.agreement import require_same_optimizers
from npdp.parallel.parameter_server.client import Client, Lines
from npdp.parallel.parameter_server.record import Record
from npdp.parallel.parameter_server.rows import Lanes, RemoteRows, RowShard
from npdp.parallel.parameter_server.server import Bounded, Policy, Synchronous
from npdp.parallel.parameter_server.service import Fail, Logic, Service
from npdp.parallel.parameter_server.shard import DenseShard, Layout, Rate, RemoteDense, Roles
from npdp.parallel.parameter_server.update_log import Logged, Replayed, Update
from npdp.parallel.parameter_server.work import WorkPool
from npdp.parallel.parameter_server.worker import Key, Shards, Worker, settings_by
from npdp.parallel.world import become

Ends = dict[Key, Any]  # where the shards of each lie


@dataclass(eq=False)
class ParameterServer(Worker):
    """Parameter-server strategy: `nn.DataParallel(model, strategy=ParameterServer(servers=1, staleness=2))`.

    Ranks in order are workers, then servers. On a server rank making the wrapped model serves the workers until they
    have left, and then leaves the program (SystemExit). The optimiser must have been made before: it is found through
    the parameters. `npdp.rank()` and `npdp.world_size()` count workers from then on.

    Args:
        servers: how many ranks are servers; 0: every rank is worker and server of a shard.
        staleness: 0: synchronous, the same update as all-reduce. s >= 1: a worker may be s iterations ahead of the
            slowest. math.inf: asynchronous.
        damped: divide an update's learning rate by 1 + its staleness.
        record: keep the update log, for a replay.
        replay: the log of a recorded run, a list a shard, to be repeated.
    """

    servers: int = 1
    staleness: float = 0
    damped: bool = False
    record: bool = False
    replay: tuple[tuple[Update, ...], ...] = field(default=(), repr=False)  # long

    def __post_init__(self) -> None:
        whole(self.servers, "ParameterServer: servers must be 0, 1, 2, ...", 0)
        require_number(self.staleness, "ParameterServer: staleness must be 0, 1, 2, ... or inf")
        if not (self.staleness >= 0 and (self.staleness == math.inf or self.staleness == int(self.staleness))):
            raise ValueError(f"ParameterServer: staleness must be 0, 1, 2, ... or inf, got {self.staleness}")
        self.synchronous = self.staleness == 0

    def workers(self, ranks: int) -> int:
        """Return how many of so many ranks are workers; raise ValueError where it is none."""
        workers = ranks - self.servers
        if workers < 1:
            raise ValueError(
                f"a parameter server with {self.servers} server{'s' * (self.servers != 1)} on {ranks} "
                f"rank{'s' * (ranks != 1)} leaves {max(0, workers)} workers: wanted at least 1"
            )
        return workers

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        """Begin to work, or serve and leave the program (SystemExit); collective.

        The communicator becomes the workers'.
        """
        if self.servers and communicator.reducers:
            raise ValueError(
                "ParameterServer: a model of this world was wrapped before, and its ranks would become servers: wrap "
                "models that share servers as one module, or use servers=0"
            )
        super().attach(parameters, communicator)
        roles = self.roles(communicator)
        optimizers = _optimizers_of(self)
        require_same_optimizers(communicator, dict.fromkeys(optimizers.values()))  # servers update by theirs
        layouts: dict[Any, Any] = {flat: Layout(flat, communicator, roles, self.synchronous) for flat in self.flats}
        layouts.update((parameter, Lanes(parameter, communicator, roles)) for parameter in self.sparse_parameters)
        ends = {key: layouts[key.flat if isinstance(key, ParameterGroup) else key] for key in optimizers}
        lines, service = Lines(communicator), None
        served = self.served(optimizers, ends, roles)
        if served:
            service = Service(*lines.for_a_thread(serves=True), roles.workers, served)
            if roles.rank >= roles.workers:
                service.serve()
                raise SystemExit(0)
        if roles.workers < communicator.world_size:
            communicator.narrow(lines.transport.subworld(range(roles.workers)))
            communicator.reducers = 1
            become(communicator)
        self.begin_to_work(optimizers, self.remote(ends, roles), Client(communicator, *lines.for_a_thread()))
        if service is not None:
            communicator.closing.append(self.serve_beside(service, lines.transport.fail).join)

    def serve_beside(self, service: Service, fail: Fail) -> threading.Thread:
        """Serve on a thread beside the work, which hands its errors to `fail`."""
        return service.begin(fail)

    def roles(self, communicator: Communicator) -> Roles:
        """Return who is who: the first ranks workers, the last ones servers."""
        workers = self.workers(communicator.world_size)
        return Roles(communicator.rank, workers, range(workers if self.servers else 0, communicator.world_size))

    def remote(self, ends: Ends, roles: Roles) -> Shards:
        """Return a worker's ends of all shards."""
        remote: Shards = {}
        for number, (key, where) in enumerate(ends.items()):
            kind = RemoteDense if isinstance(key, ParameterGroup) else RemoteRows
            servers = range(len(roles.servers))
            remote[key] = [kind(roles.number(number, server), server, where) for server in servers]
        return remote

    def served(self, optimizers: dict[Key, Optimizer], ends: Ends, roles: Roles) -> list[Logic]:
        """Return what this rank serves; what assigns work is the first shard's, by their numbers among all."""
        shards: list[Logic] = []
        for number, (key, optimizer) in enumerate(optimizers.items()):
            for server in roles.served(roles.rank):
                among_all = number * len(roles.servers) + server
                policy: Policy = Bounded(self.staleness) if self.staleness else Synchronous()
                pool = WorkPool()
                if self.replay:
                    policy = pool = Replayed(self.replay[among_all], roles.workers, isinstance(key, SparseParameter))
                rate = self.rate(optimizer, key, roles)
                if isinstance(key, ParameterGroup):
                    shard: DenseShard | RowShard = DenseShard(rate, key, ends[key].held[server])
                else:
                    shard = RowShard(rate, key, ends[key], server)
                policy = Logged(policy) if self.record else policy
                shards.append(Logic(shard, policy, None if among_all else pool, Record()))
        return shards

    def rate(self, optimizer: Optimizer, key: Key, roles: Roles) -> Rate:
        """Return the learning rate of a shard's updates."""
        return Rate(optimizer, settings_by(optimizer, key), roles.workers if self.staleness else 1, self.damped)


def _optimizers_of(worker: Worker) -> dict[Key, Optimizer]:
    """Return the optimiser of each group, in the order in which they were made, and of each sparse parameter."""
    found: dict[Key, Optimizer] = {}
    for flat in worker.flats:
        alive = [optimizer for reference in flat.optimizers if (optimizer := reference()) is not None]
        found.update((group, optimizer) for optimizer in alive for group in optimizer.groups if group.flat is flat)
    for parameter in worker.sparse_parameters:
        if parameter.optimizer is not None and (optimizer := parameter.optimizer()) is not None:
            found[parameter] = optimizer
    covered = {parameter for optimizer in found.values() for parameter in optimizer.parameters}
    if without := sum(parameter.requires_grad and parameter not in covered for parameter in worker.parameters):
        raise ValueError(
            f"ParameterServer: {without} of the model's parameters have no optimiser: make it before the model is "
            "wrapped, for servers need it too; or freeze them (requires_grad=False)"
        )
    return found
