"""Puts a rank together, once it is known what it is.

    all ranks   the exchange; where gradients and parameters lie; the lines between ranks
    a server    its shards: it serves until all workers have left, and leaves the program
    a worker    the other ends of all shards: it goes on in a world of workers
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.data.sampler import this_rank
from npdp.nn.parameter import FlatParameters, Parameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.agreement import require_same_optimizers
from npdp.parallel.parameter_server import wire
from npdp.parallel.parameter_server.client import Client
from npdp.parallel.parameter_server.layout import Layout
from npdp.parallel.parameter_server.lines import Lines
from npdp.parallel.parameter_server.policies import Policy
from npdp.parallel.parameter_server.roles import Roles
from npdp.parallel.parameter_server.rows import RemoteRows, RowShard, lay_lanes
from npdp.parallel.parameter_server.service import IN_STEP, Service, Together
from npdp.parallel.parameter_server.settings import group_of
from npdp.parallel.parameter_server.shard import DenseShard, Rate, RemoteDense, Shard
from npdp.parallel.parameter_server.worker import ServerExchange
from npdp.parallel.world import become

if TYPE_CHECKING:
    from npdp.parallel.parameter_server.strategy import ParameterServer

NO_OPTIMIZER = (
    "ParameterServer: {} of the model's parameters have no optimiser: make it before the model is wrapped, for servers "
    "need it too; or freeze them (requires_grad=False)"
)


def take_up(strategy: ParameterServer, parameters: list[Parameter], world: Communicator) -> ServerExchange:
    """Begin to work, or serve; a server rank leaves the program (SystemExit) at the end; collective.

    Args:
        strategy: what the user wants.
        parameters: to be trained.
        world: of all ranks; it becomes that of the workers.
    """
    if strategy.servers and world.reducers:
        raise ValueError(
            "ParameterServer: a model of this world was wrapped before, and its ranks would become servers: wrap "
            "models that share servers as one module, or use servers=0"
        )
    roles = Roles(world.rank, world.world_size, strategy.workers(world.world_size))
    exchange = ServerExchange(parameters, world, strategy)
    shards = _lay_shards(strategy, roles, exchange)
    lines = Lines(world)
    service = shards.service(lines, world) if roles.is_server else None
    if service is not None and not roles.is_worker:
        service.serve()
        raise SystemExit(0)
    _narrow(world, roles, lines)
    _begin_to_work(exchange, shards, lines)
    if service is not None:
        thread = threading.Thread(target=_guarded(service.serve, lines.transport.fail), name="server", daemon=True)
        thread.start()
        world.closing.append(thread.join)
    return exchange


def _lay_shards(strategy: ParameterServer, roles: Roles, exchange: ServerExchange) -> _Shards:
    """Find the optimisers, and lay out the memory; collective."""
    world, sparse = exchange.world, exchange.sparse_parameters
    optimizers: dict[ParameterGroup | Parameter, Optimizer] = {}
    for flat in exchange.flats:
        optimizers.update(_optimizers_of(flat).items())
    optimizers.update((parameter, _optimizer_of(parameter)) for parameter in sparse)
    require_same_optimizers(world, dict.fromkeys(optimizers.values()))  # servers update by theirs
    if strategy.backup_workers and len(optimizers) > 1:
        raise ValueError(
            "ParameterServer: backup_workers are for models whose parameters are of one dtype, with one optimiser "
            "and one parameter group: each shard would drop gradients of its own"
        )
    layouts = {flat: Layout(flat, world, roles, strategy.in_step) for flat in exchange.flats}
    lanes = {parameter: lay_lanes(world, parameter) for parameter in sparse}
    return _Shards(strategy, roles, optimizers, layouts, lanes)


def _narrow(world: Communicator, roles: Roles, lines: Lines) -> None:
    """Make the world, which the exchange and this rank's program hold, that of the workers."""
    if roles.workers < world.world_size:
        world.narrow(lines.transport.subworld(range(roles.workers)))
        world.reducers = 1
        become(world)


def _begin_to_work(exchange: ServerExchange, shards: _Shards, lines: Lines) -> None:
    strategy, world = shards.strategy, exchange.world
    client = Client(shards.roles.rank, *lines.for_a_thread(), shards.header_length)
    exchange.begin_to_work(*shards.remote(), shards.optimizers, client)
    world.closing.append(exchange.leave)
    if strategy.in_step:  # who waits for all, while one of them waits for its push, is to be found
        world.around.append(exchange.counted_meanwhile)
    elif 0 < strategy.staleness < math.inf:  # nobody need wait for one that waits for all
        world.around.append(exchange.idle_meanwhile)
    if not strategy.in_step:
        this_rank.hand_out = exchange.units


@dataclass(frozen=True)
class _Shards:
    """Both ends of every shard: a server has one of each group and sparse parameter, numbered as these come.

    Attributes:
        strategy: what the user wants.
        roles: which rank is what.
        optimizers: of each group and each sparse parameter.
        layouts: where flat arrays lie.
        lanes: each rank's memory for rows of a sparse parameter.
    """

    strategy: ParameterServer
    roles: Roles
    optimizers: dict[ParameterGroup | Parameter, Optimizer]
    layouts: dict[FlatParameters, Layout]
    lanes: dict[Parameter, list[Array | None]]

    @property
    def header_length(self) -> int:
        """Of a worker's message."""
        groups = [key for key in self.optimizers if isinstance(key, ParameterGroup)]
        return wire.header_length(max((len(group.numbers) for group in groups), default=0))

    def service(self, lines: Lines, world: Communicator) -> Service:
        """Return what serves this rank's shards."""
        roles, strategy = self.roles, self.strategy
        together = IN_STEP.setdefault(world, Together()) if strategy.in_step else Together()
        shards: list[tuple[Shard, Policy]] = []
        for number, (key, optimizer) in enumerate(self.optimizers.items()):
            among_all = number * len(roles.servers) + roles.server
            policy = strategy.policy(roles.workers, among_all, isinstance(key, Parameter))
            shards.append((self._shard(key, optimizer), policy))
        first, records = roles.server == 0, strategy.record
        return Service(*lines.for_a_thread(), self.header_length, roles.workers, shards, first, records, together)

    def _shard(self, key: ParameterGroup | Parameter, optimizer: Optimizer) -> Shard:
        roles, strategy, whole_batches = self.roles, self.strategy, self.strategy.whole_batches
        settings = group_of(optimizer, key)
        pushes = 1 if whole_batches else roles.workers
        rate = Rate(optimizer, settings, pushes, strategy.damped, strategy.in_step)
        if isinstance(key, ParameterGroup):
            return DenseShard(rate, key, self.layouts[key.flat], whole_batches)
        lanes = self.lanes[key][: roles.workers]
        return RowShard(rate, key, lanes, len(roles.servers), roles.server, whole_batches)

    def remote(self) -> tuple[dict[ParameterGroup, list[RemoteDense]], dict[Parameter, list[RemoteRows]]]:
        """Return a worker's ends of each group's shards, and of each sparse parameter's."""
        groups: dict[ParameterGroup, list[RemoteDense]] = {}
        rows: dict[Parameter, list[RemoteRows]] = {}
        servers = self.roles.servers
        for number, key in enumerate(self.optimizers):
            if isinstance(key, ParameterGroup):
                layout = self.layouts[key.flat]
                groups[key] = [RemoteDense(rank, number, server, layout) for server, rank in enumerate(servers)]
            else:
                there = key, self.lanes[key][self.roles.rank], len(servers)
                rows[key] = [RemoteRows(rank, number, *there, server) for server, rank in enumerate(servers)]
        return groups, rows


def _optimizers_of(flat: FlatParameters) -> dict[ParameterGroup, Optimizer]:
    """Return the optimiser of each group of these parameters, in the order in which they were made."""
    alive = [optimizer for reference in flat.optimizers if (optimizer := reference()) is not None]
    found = {group: optimizer for optimizer in alive for group in optimizer.groups if group.flat is flat}
    optimized = {number for group in found for number in group.numbers}
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
