"""Which rank is what: workers first, then servers; or, with no servers, every rank both.

    mpirun -n 4, servers=1     rank 0  worker 0    rank 1  worker 1    rank 2  worker 2    rank 3  server 0
    mpirun -n 3, servers=0     rank 0  worker 0    rank 1  worker 1    rank 2  worker 2
                                       server 0            server 1            server 2    (a thread each)
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from npdp.autograd.tensor import Array
from npdp.comm import mailbox
from npdp.comm.forked import not_in_forks
from npdp.comm.threads import ThreadTransport, ThreadWorld
from npdp.comm.transport import NoTransport, Transport
from npdp.data.sampler import set_hand_out
from npdp.nn.parameter import FlatParameters, Parameter
from npdp.optim.optimizer import Optimizer, Slab
from npdp.parallel.agreement import require_same_optimizers
from npdp.parallel.exchange import Exchange
from npdp.parallel.parameter_server import wire
from npdp.parallel.parameter_server.client import Client
from npdp.parallel.parameter_server.layout import Layout
from npdp.parallel.parameter_server.messages import Push
from npdp.parallel.parameter_server.rows import RemoteRows, RowShard, cut_lane, lay_lanes
from npdp.parallel.parameter_server.server import Server
from npdp.parallel.parameter_server.service import Service
from npdp.parallel.parameter_server.shard import DenseShard, Rate, RemoteSlab, Shard
from npdp.parallel.parameter_server.worker import ServerExchange
from npdp.parallel.world import World, become
from npdp.partition import part

if TYPE_CHECKING:
    from npdp.parallel.parameter_server.strategy import ParameterServer

NO_OPTIMIZER = (
    "ParameterServer: {} of the model's parameters have no optimiser: make it before the model is wrapped, for servers "
    "need it too; or freeze them (requires_grad=False)"
)


class Roles:
    """Lays out the memory and splits the world: all ranks do the same, up to `take_up`.

    Args:
        strategy: what the user wants.
        parameters: to be trained.
        world: of all ranks.
    """

    def __init__(self, strategy: ParameterServer, parameters: list[Parameter], world: World) -> None:
        self.strategy, self.world = strategy, world
        if strategy.servers and world.exchanges:
            raise ValueError(
                "ParameterServer: a model of this world was wrapped before, and its ranks would become servers: wrap "
                "models that share servers as one module, or use servers=0"
            )
        self.workers = strategy.workers(world.world_size)
        self.server_ranks = range(self.workers, world.world_size) if strategy.servers else range(world.world_size)
        self.exchange = ServerExchange(parameters, world, strategy)
        flats = self.exchange.flats
        self.optimized: list[tuple[Optimizer, Slab | Parameter]] = [
            *(found for flat in flats for found in _optimizers_of(flat)),
            *((_optimizer_of(parameter), parameter) for parameter in self.exchange.sparse_parameters),
        ]
        require_same_optimizers(world, [optimizer for optimizer, _ in self.optimized])  # servers update by theirs
        if strategy.backup_workers and len(self.optimized) > 1:
            raise ValueError(
                "ParameterServer: backup_workers are for models whose parameters are of one dtype, with one optimiser: "
                "each shard would drop gradients of its own"
            )
        ranks = self.workers, self.server_ranks
        self.layouts = {flat: Layout(flat, world, *ranks, strategy.in_step) for flat in flats}
        self.lanes = {parameter: lay_lanes(world, parameter) for parameter in self.exchange.sparse_parameters}
        self.transport: Transport = world.transport
        if isinstance(self.transport, NoTransport):
            self.transport = _Alone(ThreadWorld(1), 0)
        self.boxes = self._lay_boxes()
        self.forks = [self.transport.fork(range(world.world_size)) for _ in range(2)]  # to servers, and back
        self.rank, self.is_worker = world.rank, world.rank < self.workers

    @property
    def header_length(self) -> int:
        """Of a worker's message."""
        slabs = [key for _, key in self.optimized if isinstance(key, Slab)]
        return wire.header_length(max((len(slab.numbers) for slab in slabs), default=0))

    def _lay_boxes(self) -> Array | None:
        """Return memory for mailboxes, where all ranks share it."""
        world = self.world
        if not world.shares_memory:
            return None
        boxes = world.shared_once(mailbox.nbytes(world.world_size), np.dtype(np.uint8))
        if boxes is not None:
            boxes[:] = 0  # each rank writes the same
            world.barrier()
        return boxes

    def _lines(self) -> list[Transport]:
        """Return worlds for what goes to servers and for what comes back, for one thread's use."""
        forks = [not_in_forks(copy.copy(fork)) for fork in self.forks]
        return forks if self.boxes is None else list(mailbox.lines(forks, self.boxes))

    def take_up(self) -> Exchange:
        """Begin to work, or serve; a server rank leaves the program (SystemExit) at the end."""
        rank = self.rank
        service = self._service(self.server_ranks.index(rank)) if rank in self.server_ranks else None
        if service is not None and not self.is_worker:
            service.serve()
            raise SystemExit(0)
        self._narrow_world()
        self._begin_to_work()
        if service is not None:
            thread = threading.Thread(target=_guarded(service.serve, self.transport.fail), name="server", daemon=True)
            thread.start()
            self.world.closing.append(thread.join)
        return self.exchange

    def _narrow_world(self) -> None:
        """Make the world, which the exchange and this rank's program hold, that of the workers."""
        if self.workers < self.world.world_size:
            self.world.narrow(self.transport.fork(range(self.workers)))
            self.world.exchanges = 1
            become(self.world)

    def _begin_to_work(self) -> None:
        requests, replies = self._lines()
        client = Client(self.rank, requests, replies, self.header_length)
        optimizers = {key: optimizer for optimizer, key in self.optimized}
        servers = range(len(self.server_ranks))
        keys = list(enumerate(key for _, key in self.optimized))
        slabs = {k: [self._remote_slab(k, number, s) for s in servers] for number, k in keys if isinstance(k, Slab)}
        rows = {k: [self._remote_rows(k, number, s) for s in servers] for number, k in keys if isinstance(k, Parameter)}
        self.exchange.begin_to_work(slabs, rows, optimizers, client)
        self.world.closing.append(self.exchange.leave)
        if 0 < self.strategy.staleness < math.inf:  # nobody need wait for one that waits for all
            self.world.around.append(self.exchange.idle_meanwhile)
        if not self.strategy.in_step:
            set_hand_out(self.exchange.units)

    def _remote_slab(self, slab: Slab, number: int, server: int) -> RemoteSlab:
        return RemoteSlab(self.server_ranks[server], number, server, self.layouts[slab.flat])

    def _remote_rows(self, parameter: Parameter, number: int, server: int) -> RemoteRows:
        servers = len(self.server_ranks)
        lane = cut_lane(self.lanes[parameter][self.rank], servers, server)
        return RemoteRows(self.server_ranks[server], number, parameter, servers, server, lane)

    def _service(self, server: int) -> Service:
        """Return what serves this server's shard of everything."""
        shards: list[tuple[Server, Shard]] = []
        requests, replies = self._lines()
        service = Service(requests, replies, self.workers, shards, self.header_length)
        for number, (optimizer, key) in enumerate(self.optimized):
            shard = self._shard(server, optimizer, key)

            def apply(pushes: list[Push], shard: Shard = shard) -> None:
                service.settle()
                shard.apply(pushes)

            strategy = self.strategy
            place = number * len(self.server_ranks) + server
            policy = strategy.policy(self.workers, place, isinstance(key, Parameter))
            shards.append((Server(self.workers, policy, apply, number == server == 0, strategy.record), shard))
        return service

    def _shard(self, server: int, optimizer: Optimizer, key: Slab | Parameter) -> Shard:
        strategy, whole_batches = self.strategy, self.strategy.whole_batches
        rate = Rate(optimizer, 1 if whole_batches else self.workers, strategy.damped, strategy.in_step)
        if isinstance(key, Parameter):
            servers = len(self.server_ranks)
            lanes = [cut_lane(lane, servers, server) for lane in self.lanes[key][: self.workers]]
            return RowShard(rate, key, *part(len(key.data), servers, server), lanes, whole_batches)
        return DenseShard(rate, key, self.layouts[key.flat], whole_batches)


class _Alone(ThreadTransport):
    """A world of one, worker and server, that can send to itself; its errors are its own."""

    def in_vain(self, peers: list[int]) -> BaseException | None:
        return self.world.failure[1] if self.world.failure else None


def _optimizers_of(flat: FlatParameters) -> list[tuple[Optimizer, Slab]]:
    """Return the optimisers of these parameters, each with its slab of them, in the order in which they were made."""
    alive = [optimizer for reference in flat.optimizers if (optimizer := reference()) is not None]
    found = [(optimizer, slab) for optimizer in alive for slab in optimizer.slabs if slab.flat is flat]
    optimized = {number for _, slab in found for number in slab.numbers}
    without = sum(p.requires_grad for number, p in enumerate(flat.parameters) if number not in optimized)
    if without:
        raise ValueError(NO_OPTIMIZER.format(without))
    return found


def _optimizer_of(parameter: Parameter) -> Optimizer:
    """Return the optimiser of a sparse parameter."""
    optimizer = parameter.optimizer() if parameter.optimizer is not None else None
    if not isinstance(optimizer, Optimizer):
        raise ValueError(NO_OPTIMIZER.format(1))
    return optimizer


def _guarded(program: Callable[[], None], fail: Callable[[BaseException], None]) -> Callable[[], None]:
    """Return the program with its errors handed to `fail`: in a thread nobody else sees them."""

    def run() -> None:
        try:
            program()
        except BaseException as error:
            fail(error)

    return run
