"""The worker: backward leaves its gradient, `step` pushes it and pulls the updated parameters.

    loader   ── give me a work item ──▶ the shard that assigns         (staleness not 0)
    backward    its gradient, in this worker's flat arrays
    step     ── push ──▶ every shard ── parameters ──▶                 one message there, one back

Several backwards before a step add up, as everywhere; they are pushed together.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from npdp.autograd import Tensor, is_grad_enabled
from npdp.autograd.rows import RowGradient, Rows, no_rows
from npdp.collectives.communicator import Communicator
from npdp.comm.errors import RankDied, WorldEnded
from npdp.data.sampler import this_rank
from npdp.nn.parameter import Parameter
from npdp.nn.sparse_parameter import SparseParameter
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.agreement import settings_of
from npdp.parallel.at_step import AtStep, move_in, require_not_replaced
from npdp.parallel.parameter_server import messages, update_log
from npdp.parallel.parameter_server.client import Client, RemoteShard
from npdp.parallel.parameter_server.messages import NONE_LEFT, Kind, Message, Reply, Request, WorkItem
from npdp.parallel.samples import SampleCount, weight_within_part

Key = ParameterGroup | SparseParameter  # what has shards
Shards = dict[Key, list[RemoteShard]]  # one a server
STATE_ON_SERVERS = "under a parameter server the servers have it: load it before the model is wrapped"
WHY_HIDDEN = (
    "under a parameter server the gradients of the workers meet on the servers, in optimizer.step(): "
    "there is no .grad to be looked at or clipped"
)


class Worker(AtStep):
    """Base class of workers: gradients and requests to the shards; `ParameterServer` adds the settings.

    It is attached to all ranks, of which the workers are left before `begin_to_work`. With staleness 0 all make each
    update together; else work is assigned on demand.
    """

    update = "server"
    why_hidden = WHY_HIDDEN
    takes_rows = True
    algorithm = "parameter_server"
    is_current = True
    staleness: float

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        super().attach(parameters, communicator)
        self._now: tuple[Request, WorkItem] | None = None  # what is worked on; None without npdp's loader
        self._assigned: dict[Request, int] = {}  # numbers that came with an answer to a push
        self._pushed: dict[Hashable, WorkItem] = {}  # in this iteration, by group or sparse parameter
        self._own_numbers = count()  # of pushes
        self._completed = self._collectives = 0  # iterations, in each of which each optimiser steps once
        self._samples = self.sample_count()  # of what has been pushed last, or will be next
        self._active, self._left = True, False
        self._pushed_bytes = 0  # of gradients, wherever they lay
        self._keeps_up = self.synchronous and not self.sparse_parameters  # each step ends with the newest parameters

    def begin_to_work(self, optimizers: dict[Key, Optimizer], shards: Shards, client: Client) -> None:
        """Take up the work, as one of the workers, with what the optimisers have."""
        self._optimizers, self._shards, self._client = optimizers, shards, client
        self._all_shards = [shard for some in shards.values() for shard in some]
        groups = {key: settings_by(optimizer, key) for key, optimizer in optimizers.items()}
        self._known = {key: (group["lr"], settings_of(optimizers[key], group)) for key, group in groups.items()}
        for flat in self.flats:
            flat.state_elsewhere = STATE_ON_SERVERS
        for parameter in self.sparse_parameters:
            parameter.fetch, parameter.row_updater = partial(self.fetch, parameter), self.step_rows
            parameter.array = parameter.data_buffer = parameter.array.view()
            parameter.array.flags.writeable = False  # the shards have the array itself, for what they get
        self.communicator.closing.append(self.leave)
        if self.staleness < math.inf:
            self.communicator.around.append(self.in_collective)
        if not self.synchronous:
            this_rank.assign = self.work_items

    def sample_count(self) -> SampleCount:
        """Return what counts the samples behind gradients."""
        return SampleCount()

    # What the engine calls
    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        weight = super().begin(loss, counted, alone)
        batch = self._samples.begin(self.parameters, self.loss_weight.batch, self.parts)
        if batch is not None and self._now is not None:
            request, item = self._now
            return weight_within_part(batch, item.number % request.parts)
        return weight if self.synchronous else 1.0

    # What the optimiser calls
    def step_on(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        unused = move_in(group)
        if self.guard is not None and self.guard.leaves_out_own(self, group.parameters):
            unused = [*range(len(group.parameters))]  # as if there were none: the shards change nothing
        for index in unused:
            group.parameters[index].grad_buffer[...] = 0  # type: ignore[index]
        self._push(optimizer, group, unused, group.flat.grad.nbytes)
        for index in unused:
            group.parameters[index].version[0] += 1  # others may have used it

    def step_rows(self, optimizer: Optimizer, parameter: SparseParameter, gradient: RowGradient) -> None:
        """Push the rows of a sparse parameter, in place of the optimiser's own update."""
        require_not_replaced(parameter)
        if self.guard is not None and self.guard.leaves_out_own(self, [parameter]):
            gradient = no_rows(parameter.shape, parameter.dtype)
        self._push(optimizer, parameter, gradient, gradient.rows.nbytes + gradient.values.nbytes)

    def _push(self, optimizer: Optimizer, key: Key, content: Any, nbytes: int) -> None:
        if self._optimizers.get(key) is not optimizer:
            raise RuntimeError(
                "parameter server: servers do not have this optimiser: it was made after the model was wrapped, or "
                "another has its sparse parameter; make one of each parameter, before"
            )
        lr = self._changed_lr(optimizer, key)
        self._samples.mark_used()
        self._active, self.is_current = True, self._keeps_up
        item, request = self._count_push(key)
        samples = {"samples": self._samples.mine, "hashed": self._samples.hashed}
        work = {"item": item, "request": request, "lr": lr, **samples}
        self._pushed_bytes += nbytes
        for reply in self._ask(Kind.PUSH, self._shards[key], content, **work):
            if reply.number != messages.NOT_ASKED:
                self._assigned[request] = reply.number
        if self.synchronous and key is next(iter(self._optimizers)) and self.communicator.world_size > 1:
            # Now, as all workers have pushed: a server has better words for one that has left
            self.consistency.count_exchange(self.loss_weight.batch)

    def _count_push(self, key: Key) -> tuple[WorkItem, Request]:
        """Count a push; return what it is known by, and what it asks for.

        A second step on the same item, or one without npdp's loader, is known by a number of this worker's own.
        """
        last = self._pushed.get(key)
        if last is not None or not self._pushed:  # the first of an iteration
            self._completed, self._pushed = self._completed + 1, {}
        own = WorkItem(number=next(self._own_numbers))
        request, item = self._now or (Request(), own)
        self._pushed[key] = item
        return (own, Request()) if item == last else (item, request)

    def _changed_lr(self, optimizer: Optimizer, key: Key) -> float:
        """Return the learning rate that the user has set, or AS_BEGUN; RuntimeError where anything else changed."""
        (lr, known), group = self._known[key], settings_by(optimizer, key)
        for name, value in settings_of(optimizer, group).items():
            if value != known[name]:
                raise RuntimeError(
                    f"parameter server: {name} of the optimiser was {known[name]} when the model was wrapped and "
                    f"is {value} now; servers have the old one. Only lr may change"
                )
        return messages.AS_BEGUN if group["lr"] is lr and callable(lr) else float(optimizer.lr_of(group))

    # What a layer calls
    def fetch(self, parameter: SparseParameter, rows: Rows) -> None:
        """Fill in these rows of a sparse parameter, sorted and each once."""
        if not self._left:  # else all of it was pulled
            self._ask(Kind.PULL, self._shards[parameter], rows, training=is_grad_enabled())

    # What the loader calls
    def work_items(self, loader: int, epoch: int, items: int, parts: int) -> Iterator[int]:
        """Yield the numbers of the work items that this worker is given in a pass over the data."""
        request, outer = Request(loader, epoch, items, parts), self._now  # of a pass within which this one is made
        try:
            while (number := self._next_of(request)) != NONE_LEFT:
                self._now = request, WorkItem(loader, epoch, number)
                yield number
        finally:
            self._assigned.pop(request, None)
            self._now = outer
            if not self._left and outer is None:
                with contextlib.suppress(WorldEnded, RankDied):
                    self._tell(active=False)

    def _next_of(self, request: Request) -> int:
        """Return the next number of a pass: what came with the last answer; else wait until it may begin."""
        if request in self._assigned:
            return self._assigned.pop(request)
        self._active = True
        if is_grad_enabled():  # others train in this pass, though there may be nothing left for this one
            self.is_current = self._keeps_up
        first, *others = self._all_shards
        (reply,) = self._ask(Kind.START, [first], request=request, completed=messages.NOT_SAID)
        self._completed = reply.completed  # with the others it begins level, too
        for shard in others if reply.number != NONE_LEFT else ():
            self._ask(Kind.START, [shard], request=request)
        return reply.number

    # What a collective calls
    @contextlib.contextmanager
    def in_collective(self) -> Iterator[None]:
        """Keep servers, within, from waiting for this worker, which waits for all; they know how many it came to."""
        self._collectives += 1
        if self._left:
            yield
            return
        active = self._active
        self._tell(active=False)
        yield
        if active:
            self._tell(active=True)

    def _tell(self, active: bool) -> None:
        self._active = active
        self._client.tell(self._all_shards, self._message(Kind.STATUS))

    # What the program calls
    def updates(self, optimizer: Optimizer) -> int:
        return self._all_shards[0].version

    def synchronize(self) -> None:
        """Give every worker the newest parameters, the same; collective over the workers."""
        self._tell(active=False)
        self.communicator.barrier()  # everybody's gradients are applied
        for shards in self._shards.values():  # a server has one message of this worker at a time
            self._ask(Kind.PULL, shards)
        self.communicator.barrier()  # nobody pushes before everybody has them
        self.is_current = True

    def leave(self) -> None:
        """Tell the servers that nothing more will come; they end when all workers have."""
        if not self._left:
            self._left, self._active = True, False
            for shard in self._all_shards:  # in their order, as the reports come
                self._ask(Kind.LEAVE, [shard])

    def end_training(self) -> dict[str, Any]:
        """Leave the servers; return what they and the workers have done; collective over the workers."""
        self.leave()
        first = self._client.reports[0]  # each item was pushed to all shards
        moved = np.array([self._pushed_bytes, self._client.pulled_bytes], np.int64)
        self.communicator.allreduce(moved, algorithm="tree")
        return {
            "iterations": first["version"],
            "samples_seen": first["samples"],
            "pushes": sum(count for _, count in first["staleness"]),
            "staleness_histogram": {str(staleness): count for staleness, count in first["staleness"]},
            "pushed_bytes": int(moved[0]),
            "pulled_bytes": int(moved[1]),
            "server_peak_memory_bytes": max(report["peak_memory_bytes"] for report in self._client.reports),
        }

    def save_arrivals(self, path: str, run: dict[str, Any]) -> None:
        update_log.save(path, self._client.reports, run)

    # How it does it
    def _message(self, kind: Kind, **fields: Any) -> Message:
        now = {"active": self._active, "completed": self._completed, "collectives": self._collectives}
        return Message(kind, self.communicator.rank, **{**now, **fields})

    def _ask(self, kind: Kind, shards: Sequence[RemoteShard], content: Any = None, **fields: Any) -> list[Reply]:
        replies = self._client.ask(shards, self._message(kind, **fields), content)
        self.exchanged_bytes = self._pushed_bytes + self._client.pulled_bytes
        return replies


def settings_by(optimizer: Optimizer, key: Key) -> dict[str, Any]:
    """Return the user's parameter group by which a `ParameterGroup`, or a sparse parameter, is updated."""
    return key.settings if isinstance(key, ParameterGroup) else optimizer.sparse_parameters[key]
