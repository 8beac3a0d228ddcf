"""What a worker does: backward leaves its gradient, `step` pushes it and pulls the parameters that come of it.

    loader   ── give me a unit ──▶ the server that hands out          (staleness not 0)
    backward    the gradient of the unit, in this worker's flat arrays
    step     ── push ──▶ every shard ── parameters ──▶                 one message there, one back

Several backwards before a step add up, as everywhere; they are pushed together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from npdp.autograd import Batch, is_grad_enabled
from npdp.autograd.rows import RowGradient, Rows
from npdp.collectives.communicator import Communicator
from npdp.comm.errors import WorldEnded
from npdp.nn.parameter import Parameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.at_step import ExchangeAtStep, move_in, require_not_replaced
from npdp.parallel.parameter_server import arrivals
from npdp.parallel.parameter_server.client import Client, Make, RemoteShard, S
from npdp.parallel.parameter_server.messages import (
    NONE_LEFT,
    Fetch,
    Idle,
    Leave,
    Pull,
    Push,
    Reply,
    Request,
    Resume,
    Start,
    Unit,
)
from npdp.parallel.parameter_server.rows import RemoteRows
from npdp.parallel.parameter_server.server import Arrival
from npdp.parallel.parameter_server.settings import Settings, group_of
from npdp.parallel.parameter_server.shard import Outgoing, RemoteDense
from npdp.parallel.parameter_server.work import Work
from npdp.parallel.weight import SampleCount, weight_within_part

if TYPE_CHECKING:
    from npdp.parallel.parameter_server.strategy import ParameterServer

WHY_HIDDEN = (
    "under a parameter server the gradients of the workers meet on the servers, in optimizer.step(): "
    "there is no .grad to be looked at or clipped"
)


class ServerExchange(ExchangeAtStep):
    """A worker's gradients, and the way to the shards.

    Args:
        parameters: to be trained.
        world: of all ranks, workers first; when `begin_to_work` is called it has been narrowed to these.
        strategy: what the user wants.
    """

    def __init__(self, parameters: list[Parameter], world: Communicator, strategy: ParameterServer) -> None:
        super().__init__(parameters, world, WHY_HIDDEN)
        self.in_step, self._whole_batches = strategy.in_step, strategy.whole_batches
        self._work = Work()
        self._samples = SampleCount()  # of what has been pushed last, or will be next
        self._is_idle = False
        self._keeps_up = self._whole_batches and not self.sparse_parameters  # each step ends with the newest parameters
        self._is_current = True
        self._left = False

    def begin_to_work(
        self,
        groups: dict[ParameterGroup, list[RemoteDense]],
        rows: dict[Parameter, list[RemoteRows]],
        optimizers: dict[ParameterGroup | Parameter, Optimizer],
        client: Client,
    ) -> None:
        """Take up the work, as one of the workers.

        Args:
            groups: of each group, a shard a server.
            rows: of each sparse parameter, the same.
            optimizers: whose each of them is.
            client: the way to the shards.
        """
        self._groups, self._rows, self._client = groups, rows, client
        for flat in self.flats:
            flat.state_elsewhere = "under a parameter server the servers have it: load it before the model is wrapped"
        self._by_key: list[Sequence[RemoteShard]] = [*groups.values(), *rows.values()]
        self._all_shards = list(chain(*self._by_key))
        for parameter in rows:
            parameter.fetch, parameter.row_updater = partial(self.fetch, parameter), self.step_rows
            parameter.data = parameter.data_buffer = parameter.data.view()
            parameter.data.flags.writeable = False  # the shards have the array itself, for what they get
        self._optimizers = optimizers
        self._settings = {key: Settings(optimizer, group_of(optimizer, key)) for key, optimizer in optimizers.items()}

    # What the engine calls
    def begin(self, batch: Batch | None, alone: bool) -> float:
        weight = super().begin(batch, alone)
        self._samples.begin(self.parameters)
        if batch is not None and batch.parts == self.world.world_size:
            self._samples.add(batch)
            part = self._work.part
            if part is not None and not self._whole_batches:
                return weight_within_part(batch, part)
        return weight if self._whole_batches else 1.0

    # What the optimiser calls
    def _step(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        unused = tuple(move_in(group))
        for index in unused:
            group.parameters[index].grad_buffer[...] = 0  # type: ignore[index]
        self._push(optimizer, group, self._groups.get(group, []), RemoteDense.push, unused)
        for index, parameter in enumerate(group.parameters):
            if index in unused:
                parameter.version[0] += 1  # others may have used it

    def step_rows(self, optimizer: Optimizer, parameter: Parameter, gradient: RowGradient) -> None:
        """Push the rows of a sparse parameter, in place of the optimiser's own update."""
        require_not_replaced(parameter)
        shards = self._rows[parameter]
        self._push(optimizer, parameter, shards, lambda shard, message: shard.push(message, gradient))

    def _push(
        self,
        optimizer: Optimizer,
        key: ParameterGroup | Parameter,
        shards: Sequence[S],
        push: Callable[[S, Push], Outgoing],
        unused: tuple[int, ...] = (),
    ) -> None:
        if self._optimizers.get(key) is not optimizer:
            raise RuntimeError(
                "parameter server: servers do not have this optimiser: it was made after the model was wrapped, or "
                "another has its sparse parameter; make one of each parameter, before"
            )
        settings = self._settings[key]
        settings.require_unchanged()
        self._samples.mark_used()
        self._is_idle = False
        self._is_current = self._keeps_up
        unit, request = self._work.count_push(key)
        rank, samples, lr = self.world.rank, (self._samples.mine, self._samples.total), settings.changed_lr
        counts = {"completed": self._work.completed, "collectives": self._work.collectives}

        def make(shard: S, sequence: int) -> Outgoing:
            message = Push(rank, sequence, unit, shard.version, *samples, lr, unused, request, **counts)
            return push(shard, message)

        for reply in self._ask(shards, make):
            self._work.take(request, reply)
        if self.in_step and key is next(iter(self._optimizers)) and self.world.world_size > 1:
            self._count_exchange()  # now, as all workers have pushed: a server has better words for one that has left

    # What a layer calls
    def fetch(self, parameter: Parameter, rows: Rows) -> None:
        """Fill in these rows of a sparse parameter, sorted and each once."""
        if self._left:
            return  # all of it was pulled
        rank, training = self.world.rank, is_grad_enabled()

        def fetch(shard: RemoteRows, sequence: int) -> Outgoing:
            return shard.fetch(Fetch(rank, sequence, shard.version, training=training), rows)

        self._ask(self._rows[parameter], fetch)

    # What the loader calls
    def units(self, loader: int, epoch: int, units: int, parts: int) -> Iterator[int]:
        """Yield the units of work that this worker is given in a pass over the data."""
        request = Request(loader, epoch, units, parts)
        outer = self._work.now  # of a pass within which this one is made
        try:
            while (number := self._work.next_of(request, self._start)) != NONE_LEFT:
                self._work.now = request, Unit(loader, epoch, number)
                yield number
        finally:
            self._work.end(request, outer)
            if not self._left and outer is None:
                with contextlib.suppress(WorldEnded):
                    self._idle()

    def _start(self, request: Request) -> int:
        """Begin to work on a pass: return the first unit, with parameters no staler than allowed."""
        self._is_idle = False
        if is_grad_enabled():  # others train in this pass, though there may be nothing left for this one
            self._is_current = self._keeps_up
        rank, (first, *others) = self.world.rank, self._all_shards
        (reply,) = self._ask([first], lambda shard, sequence: Outgoing(Start(rank, sequence, shard.version, request)))
        completed = self._work.completed = reply.completed  # with the others it begins level, too
        for shard in others if reply.unit != NONE_LEFT else ():
            self._ask([shard], lambda s, sequence: Outgoing(Start(rank, sequence, s.version, request, completed)))
        return reply.unit

    @contextlib.contextmanager
    def idle_meanwhile(self) -> Iterator[None]:
        """Within, nobody waits for this worker, which waits for all: a collective."""
        if self._left or self._is_idle:
            yield
            return
        self._idle()
        yield
        self._is_idle = False
        rank, completed = self.world.rank, self._work.completed
        self._client.tell(self._all_shards, lambda _, sequence: Outgoing(Resume(rank, sequence, completed)))

    @contextlib.contextmanager
    def counted_meanwhile(self) -> Iterator[None]:
        """Within, servers know that this worker, which waits for all in a collective, pushes nothing."""
        self._work.collectives += 1
        if not self._left:
            self._idle()
        yield

    def _idle(self) -> None:
        self._is_idle = True
        rank, collectives = self.world.rank, self._work.collectives
        self._client.tell(self._all_shards, lambda _, sequence: Outgoing(Idle(rank, sequence, collectives)))

    # What the program calls
    @property
    def algorithm(self) -> str:
        return "parameter_server"

    def updates(self, optimizer: Optimizer) -> int:
        return self._all_shards[0].version

    def synchronize(self) -> None:
        """Give every worker the newest parameters, the same; collective over the workers."""
        rank = self.world.rank
        self._idle()
        self.world.barrier()  # everybody's gradients are applied
        self._ask_all(lambda shard, sequence: Outgoing(Pull(rank, sequence, shard.seen)))
        self.world.barrier()  # nobody pushes before everybody has them
        self._is_current = True

    @property
    def is_current(self) -> bool:
        return self._is_current

    def leave(self) -> None:
        """Tell the servers that nothing more will come; they end when all workers have."""
        if not self._left:
            self._left = True
            rank = self.world.rank
            self._ask_all(lambda _, sequence: Outgoing(Leave(rank, sequence)))

    def end_training(self) -> dict[str, Any]:
        """Leave the servers; return what they and the workers have done; collective over the workers."""
        self.leave()
        first = self._reports()[0]  # the shard's that hands out; each unit was pushed to all
        moved = np.array([self._client.pushed_bytes, self._client.pulled_bytes], np.int64)
        self.world.allreduce(moved, algorithm="tree")
        return {
            "iterations": first["version"],
            "samples_seen": first["samples"],
            "pushes": first["pushes"],
            "staleness_histogram": {str(staleness): count for staleness, count in first["staleness"]},
            "dropped_pushes": first["dropped"],
            "unused_samples": first["unused_samples"],
            "pushed_bytes": int(moved[0]),
            "pulled_bytes": int(moved[1]),
            "server_peak_memory_bytes": max(report["peak_memory_bytes"] for report in self._reports()),
        }

    @property
    def arrivals(self) -> list[list[Arrival]]:
        """Every shard's, once this worker has left."""
        return [
            [Arrival(worker, Unit(*unit), version) for worker, *unit, version in report["arrivals"]]
            for report in self._reports()
        ]

    def save_arrivals(self, path: str, run: dict[str, Any]) -> None:
        arrivals.save(path, self.arrivals, run)

    # How it does it
    def _reports(self) -> list[dict[str, Any]]:
        return [self._client.reports[shard.rank, shard.number] for shard in self._all_shards]

    def _ask_all(self, make: Make[RemoteShard]) -> None:
        """Ask all shards, one group after the other: a server has one message of this worker at a time."""
        for shards in self._by_key:
            self._ask(shards, make)

    def _ask(self, shards: Sequence[S], make: Make[S]) -> list[Reply]:
        client = self._client
        spent_s, wait_s = client.spent_s, client.wait_s
        replies = client.ask(shards, make)
        self.world.clock.other_s += client.spent_s - spent_s
        self.world.transport.wait_s += client.wait_s - wait_s
        self.exchanged_bytes = client.pushed_bytes + client.pulled_bytes
        return replies
