"""The arithmetic of a shard: from workers' gradients to the optimiser's update of its range of the parameters.

    worker 0's gradient  |....[shard]....|  ┐
    worker 1's gradient  |....[shard]....|  ┼ added in this order → optimiser → data |....[shard]....|

    ranks share memory             a push brings    an answer brings
    no, or there is no room        the gradient     the parameters
    yes, staleness 0               nothing          nothing: all have the same parameters, and wait for an update
    yes, else                      nothing          nothing: the server wrote them to the worker's, which may compute

A server has a `DenseShard` of each parameter group; a worker a `RemoteDense` of each server's. Of a sparse parameter
only the rows travel that a worker has touched: rows.py has the same for these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.kernels import Sum
from npdp.kernels.memory import allocate
from npdp.nn.parameter import FlatParameters
from npdp.optim.groups import ParameterGroup, Span, within
from npdp.optim.optimizer import Optimizer
from npdp.parallel.parameter_server.messages import AS_BEGUN, Kind, Message, Reply

Receive = Callable[[Array], object]  # fills an array with what the other side sends next


class Roles(NamedTuple):
    """Roles of the ranks: worker, server or both.

        mpirun -n 4, servers=1     rank 0  worker 0    rank 1  worker 1    rank 2  worker 2    rank 3  server 0
        mpirun -n 3, servers=0     rank 0  worker 0    rank 1  worker 1    rank 2  worker 2
                                           server 0            server 1            server 2    (a thread each)
    """

    rank: int  # this one
    workers: int  # how many: the first ranks
    servers: Sequence[int]  # the rank of each: of range 0, 1, ... of the parameters; one rank may have several

    def served(self, rank: int) -> list[int]:
        """Return the numbers of the servers that a rank is."""
        return [server for server, its_rank in enumerate(self.servers) if its_rank == rank]

    def number(self, key: int, server: int) -> int:
        """Return which of its rank's shards a server has of the `key`-th of what has shards."""
        mine = self.served(self.servers[server])
        return key * len(mine) + mine.index(server)


class Rate:
    """The learning rate of a shard's updates, of which so many make an iteration where a push does not say it.

    It is divided by 1 + the update's staleness where it is damped.
    """

    def __init__(self, optimizer: Optimizer, settings: dict[str, Any], pushes: int, damped: bool) -> None:
        self.optimizer, self.settings = copy.copy(optimizer), dict(settings)  # a worker here may have them
        self._first_iteration, self._lr = optimizer.iteration, settings["lr"]
        self._pushes, self._damped = pushes, damped

    def set(self, pushed: Sequence[Message], version: int) -> None:
        """Set the learning rate for an update of this version; RuntimeError where pushes do not agree on it."""
        optimizer, settings, push = self.optimizer, self.settings, pushed[0]
        if len({other.lr for other in pushed}) > 1:
            named = [(p.worker, "its schedule" if p.lr == AS_BEGUN else f"{p.lr:g}") for p in pushed]
            rates = ", ".join(f"worker {worker} {lr}" for worker, lr in named)
            raise RuntimeError(f"parameter server: workers have other learning rates in the same step: {rates}")
        pushes = self._pushes if self._pushes == 1 else push.request.parts or self._pushes
        optimizer.iteration = self._first_iteration + version // pushes
        settings["lr"] = self._lr if push.lr == AS_BEGUN else push.lr
        if self._damped and version > push.version:
            settings["lr"] = optimizer.lr_of(settings) / (1 + version - push.version)


class Held(NamedTuple):
    """Arrays of one range of the parameters, on a server.

    Attributes:
        own: the range.
        data: its parameters; for all optimisers the same, as an answer is all of it.
        gradients: where each worker's gradient is after a push.
        copies: the workers' own parameters, which an answer refreshes; none where they are sent, or all have the same.
        in_memory: whether they are not sent.
    """

    own: slice
    data: Array
    gradients: list[Array]
    copies: list[Array]
    in_memory: bool


class Layout:
    """Layout of some flat arrays in memory; collective. Parameters move, and are read-only from then on."""

    def __init__(self, flat: FlatParameters, world: Communicator, roles: Roles, synchronous: bool) -> None:
        self.flat, self.roles = flat, roles
        gradients = world.memory.everyones(flat.grad)
        parameters = None
        if gradients is not None and not synchronous:
            parameters = one_for_each(world, flat.data.size, flat.dtype)
        elif gradients is not None and (once := world.shared_once(flat.data.size, flat.dtype)) is not None:
            parameters = [once] * world.world_size
        self.in_memory = parameters is not None  # else gradients and parameters are sent
        flat.move_data(flat.data if parameters is None else parameters[world.rank], writeable=False)
        world.barrier()
        self._synchronous, self._gradients, self._parameters = synchronous, gradients, parameters
        self.held = {server: self._held(server) for server in roles.served(world.rank)}  # what this rank serves

    def _held(self, server: int) -> Held:
        own, workers = self.range_of(server), self.roles.workers
        data = self.flat.data[own]
        if self.roles.rank < workers and not (self.in_memory and self._synchronous):  # this rank's own are a worker's
            data = _copied(data)
        copies = [] if self._synchronous else [each[own] for each in (self._parameters or [])[:workers]]
        return Held(own, data, self._gradients_of(own), copies, self.in_memory)

    def replica(self, server: int) -> Held:
        """Return what a rank holds that keeps a replica of a server's shards."""
        own = self.range_of(server)
        return Held(own, _copied(self.flat.data[own]), self._gradients_of(own), [], self.in_memory)

    def _gradients_of(self, own: slice) -> list[Array]:
        """Return where the gradients of a range are after a push, each worker's."""
        workers = self.roles.workers
        if self.in_memory and self._gradients is not None:
            return [gradient[own] for gradient in self._gradients[:workers]]
        return [allocate(own.stop - own.start, self.flat.dtype) for _ in range(workers)]

    def range_of(self, server: int) -> slice:
        """Return the range of a server's shard: equal in bytes, in whole cache lines."""
        return slice(*self.flat.part_in_lines(len(self.roles.servers), server))


def _copied(array: Array) -> Array:
    copied = allocate(array.size, array.dtype)
    copied[:] = array
    return copied


def one_for_each(world: Communicator, count: int, dtype: np.dtype[Any]) -> list[Array] | None:
    """Return an array of each rank, in memory that all map; None where they share none; collective."""
    mine = world.shared_empty(count, dtype)
    everyones = world.memory.everyones(mine)
    if everyones is not None:
        everyones[world.rank] = mine  # who holds it holds the memory
    return everyones


class DenseShard:
    """Shard of a parameter group on its server: a range of parameters, their state, and every worker's gradient."""

    def __init__(self, rate: Rate, group: ParameterGroup, held: Held) -> None:
        self._rate, self._held, self._group = rate, held, _part_of(group, held)
        self._group.settings = rate.settings
        self._unused: list[set[int]] = [set() for _ in held.gradients]
        self._sum = Sum(held.gradients)

    @property
    def steps(self) -> list[int]:
        """How often each of the group's parameters was updated."""
        return self._group.steps

    @steps.setter
    def steps(self, steps: list[int]) -> None:
        self._group.steps = steps

    def arrays(self) -> dict[str, Array]:
        """Return the arrays of its range: "data", and the optimiser's state by name."""
        return {"data": self._held.data, **self._group.state}

    def pushed(self, push: Message) -> list[Array]:
        """Return what followed a push."""
        unused = np.array(sorted(self._unused[push.worker]), np.int64)
        return [unused] if self._held.in_memory else [unused, self._held.gradients[push.worker]]

    def take(self, message: Message, receive: Receive) -> None:
        """Receive what follows a message."""
        if message.kind == Kind.PUSH:
            unused = np.empty(message.unused, np.int64)
            receive(unused)
            self._unused[message.worker] = set(unused.tolist())
            if not self._held.in_memory:
                receive(self._held.gradients[message.worker])

    def apply(self, pushes: Sequence[Message], version: int) -> None:
        """Update this version from these workers' gradients, added in this order."""
        self._rate.set(pushes, version)
        start, stop = self._held.own.start, self._held.own.stop
        grad = self._sum if len(pushes) > 1 else self._held.gradients[pushes[0].worker]
        everywhere_unused = set.intersection(*(self._unused[push.worker] for push in pushes))
        used = [index for index in range(len(self._group.numbers)) if index not in everywhere_unused]
        for span in within(self._group.next_spans_of(used), start, stop):
            mine = span._replace(start=span.start - start, stop=span.stop - start)
            whole = mine.start == 0 and mine.stop == stop - start
            self._rate.optimizer.update(self._group, mine, grad if whole else _cut(grad, mine))

    def answer(self, reply: Reply) -> Iterator[Array]:
        """Yield what follows a reply; it may be the parameters themselves, which must not change before it is sent."""
        if reply.changed and not self._held.in_memory:
            yield self._held.data
        elif reply.changed and self._held.copies:
            np.copyto(self._held.copies[reply.worker], self._held.data)


def _part_of(group: ParameterGroup, held: Held) -> ParameterGroup:
    """Return a group whose arrays begin with the shard: its state is that of this range alone."""
    mine = copy.copy(group)
    mine.flat = copy.copy(group.flat)
    mine.flat.data = held.data
    mine.steps = list(group.steps)
    mine.move_state({name: values[held.own] for name, values in group.state.items()})
    return mine


def _cut(grad: Array | Sum, span: Span) -> Array | Sum:
    if isinstance(grad, Sum):
        return Sum([array[span.start : span.stop] for array in grad.arrays])
    return grad[span.start : span.stop]


class RemoteDense:
    """Shard of a parameter group, as a worker sees it.

    Attributes:
        rank, number: the server's rank, and which of its shards it is.
        version: that of the parameters which this worker computes on.
    """

    def __init__(self, number: int, server: int, layout: Layout) -> None:
        self.rank, self.number, self.version = layout.roles.servers[server], number, 0
        where, self._in_memory = layout.range_of(server), layout.in_memory
        self._gradient, self._parameters = layout.flat.grad[where], layout.flat.data[where]

    def outgoing(self, message: Message, content: Any) -> tuple[Message, list[Array]]:
        """Return a message as it goes to this shard, and what follows.

        Args:
            content: of a push, the indices of parameters that have no gradient.
        """
        message = message._replace(shard=self.number, version=self.version)
        if message.kind != Kind.PUSH:
            return message, []
        unused = np.array(content, np.int64)
        return message._replace(unused=unused.size), [unused] if self._in_memory else [unused, self._gradient]

    def take(self, message: Message, reply: Reply, receive: Receive) -> int:
        """Receive what follows a reply; return the bytes of parameters that have changed, wherever they lie."""
        self.version = reply.version
        if reply.changed and not self._in_memory:
            receive(self._parameters)
        return self._parameters.nbytes if reply.changed else 0
