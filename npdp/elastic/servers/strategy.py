"""The parameter-server strategy that survives deaths: roles for as many ranks as there are, and replicas."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from npdp.collectives.communicator import Communicator
from npdp.data.batch import Batch
from npdp.data.sampler import this_rank
from npdp.elastic.ledger import checksum
from npdp.elastic.servers.replicas import Replicas, Replicated
from npdp.elastic.servers.shards import Kept, Place
from npdp.nn.parameter import Parameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.parameter_server.client import Lines
from npdp.parallel.parameter_server.record import Record
from npdp.parallel.parameter_server.service import Fail, Logic, Service
from npdp.parallel.parameter_server.shard import DenseShard, Roles
from npdp.parallel.parameter_server.strategy import Ends, ParameterServer
from npdp.parallel.parameter_server.work import WorkPool
from npdp.parallel.parameter_server.worker import Key, Shards
from npdp.parallel.samples import SampleCount
from npdp.parallel.world import shard_of_this_rank

if TYPE_CHECKING:
    from npdp.elastic.servers.recovery import Survival

SPARSE = "elastic training under a parameter server: wanted dense parameters, got {} sparse: use --strategy allreduce"


def roles_of(rank: int, ranks: int, servers: int, ranges: int) -> Roles:
    """Return who is who among so many ranks, of which so many are to be servers of so many ranges of the parameters.

    One rank at least works. Where no other is left, or there are to be no servers, all serve beside their work.
    """
    dedicated = min(servers, ranks - 1)
    workers = ranks - dedicated
    serving = range(workers, ranks) if dedicated else range(ranks)
    return Roles(rank, workers, [serving[number % len(serving)] for number in range(ranges)])


def replica_of(roles: Roles, server: int) -> int | None:
    """Return the rank that keeps a server's replicas: the next server, or a worker where there is one; None: nobody."""
    serving = sorted(set(roles.servers))
    if len(serving) > 1:
        return serving[(serving.index(roles.servers[server]) + 1) % len(serving)]
    others = [rank for rank in range(roles.workers) if rank not in serving]
    return others[server % len(others)] if others else None


@dataclass(eq=False)
class SurvivingServers(ParameterServer):
    """Parameter-server strategy that survives deaths: each shard has a replica, and begins from what survived."""

    survival: Survival = field(kw_only=True, repr=False)

    @property
    def parts(self) -> int:
        return super().parts if self.synchronous else self.survival.parts

    def workers(self, ranks: int) -> int:
        begun = self.survival.ranges > 0  # with enough ranks
        return roles_of(0, ranks, self.servers, self.survival.ranges).workers if begun else super().workers(ranks)

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        self.survival.transport = communicator.transport
        super().attach(parameters, communicator)
        self.survival.works = True
        if not self.synchronous:  # work items stay what they were, though there may be fewer workers
            shard_of_this_rank().world_size = self.parts

    def roles(self, communicator: Communicator) -> Roles:
        ranks, survival = communicator.world_size, self.survival
        if self.sparse_parameters:
            raise ValueError(SPARSE.format(len(self.sparse_parameters)))
        survival.ranges = survival.ranges or self.servers or ranks
        roles = roles_of(communicator.rank, ranks, self.servers, survival.ranges)
        survival.parts = survival.parts or roles.workers
        self._only_serves = roles.rank >= roles.workers
        return roles

    def served(self, optimizers: dict[Key, Optimizer], ends: Ends, roles: Roles) -> list[Logic]:
        """Return what this rank serves, and keep replicas on a thread; none goes on before all can."""
        survival, world = self.survival, self.communicator
        lines = Lines(world)
        there, back = lines.for_a_thread(serves=True)
        mine = [(number, server) for number in range(len(optimizers)) for server in roles.served(roles.rank)]
        made, replicated = [], []
        for place, logic in zip(mine, super().served(optimizers, ends, roles)):
            assert isinstance(logic.shard, DenseShard)
            kept = self._kept(place, logic.shard)
            peer = replica_of(roles, place[1])
            replicated.append(Replicated(kept, there, back, peer, self._note))
            pool = None if logic.pool is None else WorkPool(survival.left())
            made.append(logic._replace(shard=replicated[-1], pool=pool, record=kept.record))
        replicas: dict[Place, Kept] = {}
        for number, (key, optimizer) in enumerate(optimizers.items()):
            assert isinstance(key, ParameterGroup)
            for server in range(len(roles.servers)):
                if replica_of(roles, server) == roles.rank:
                    shard = DenseShard(self.rate(optimizer, key, roles), key, ends[key].replica(server))
                    replicas[number, server] = self._kept((number, server), shard)
        sources = [roles.servers[server] for _, server in replicas]
        loop = Replicas(*lines.for_a_thread(serves=True), replicas, sources)
        survival.begin(replicated, replicas, world)
        survival.beside(loop.run, lines.transport.fail, "replicas")
        return made

    def _kept(self, place: Place, shard: DenseShard) -> Kept:
        """Return a shard as it survived, or as it is at first."""
        before = self.survival.begun_with.get(place)
        if before is not None:
            shard.steps = list(before.steps)
        record = copy.deepcopy(before.record) if before is not None else Record()
        return Kept(place, shard, record, undoes=self.synchronous)

    def _note(self, version: int) -> None:
        """Say where a server's program is; that of a rank which works is where its work is."""
        if self._only_serves:
            place = self.communicator.place
            place.iteration, place.part = version if self.synchronous else version // self.parts, "update"

    def serve_beside(self, service: Service, fail: Fail) -> threading.Thread:
        return self.survival.beside(service.serve, fail, "server")

    def remote(self, ends: Ends, roles: Roles) -> Shards:
        remote = super().remote(ends, roles)
        for number, shards in enumerate(remote.values()):
            for server, shard in enumerate(shards):
                before = self.survival.begun_with.get((number, server))
                shard.version = before.record.version if before is not None else 0
        return remote

    def sample_count(self) -> SampleCount:
        return _HashedSamples(self.survival)

    def end_training(self) -> dict[str, Any]:
        end = super().end_training()
        checksum = self._client.reports[0]["checksum"]
        return {**end, "samples_checksum": checksum, "recoveries": self.survival.recoveries}


class _HashedSamples(SampleCount):
    """Counter that sums the hashes of samples, too."""

    def __init__(self, survival: Survival) -> None:
        super().__init__()
        self._survival = survival

    def _clear(self) -> None:
        super()._clear()
        self.hashed = 0

    def _count(self, batch: Batch) -> None:
        super()._count(batch)
        if this_rank.rows is not None:
            self.hashed += checksum(this_rank.rows, batch.iteration // self._survival.iterations_per_epoch)
