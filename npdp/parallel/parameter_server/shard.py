"""A shard's arithmetic: some workers' gradients in, the optimiser's update of its range of the parameters.

    worker 0's gradient  |....[shard]....|  ┐
    worker 1's gradient  |....[shard]....|  ┼ added in this order → optimiser → data |....[shard]....|

A worker has a `RemoteDense` of it. Of a sparse parameter only the rows travel that a worker has touched: see rows.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from npdp.autograd.tensor import Array
from npdp.kernels import Sum
from npdp.optim.groups import ParameterGroup, Span, within
from npdp.optim.optimizer import Optimizer
from npdp.parallel.parameter_server.layout import COPIED, SENT, Layout
from npdp.parallel.parameter_server.messages import Message, Push, Reply

Receive = Callable[[Array], None]  # fills an array with what a worker sends next


class Outgoing(NamedTuple):
    """A worker's message to a shard, what follows it, and the bytes of a gradient that it moves, wherever they lie."""

    message: Message
    following: Sequence[Array] = ()
    pushed_bytes: int = 0


class Shard(Protocol):
    """What a server has of one shard."""

    def take(self, message: Message, receive: Receive) -> None:
        """Receive what follows a message."""

    def apply(self, pushes: Sequence[Push]) -> None:
        """Update from these workers' gradients, added in this order."""

    def answer(self, reply: Reply) -> Iterator[Array]:
        """Yield what follows a reply; it may be the parameters themselves, which must not change before it is sent."""


class Rate:
    """The learning rate of a shard's updates.

    Args:
        optimizer: the user's; copied, so that a worker on the same rank may have it too.
        settings: of the parameter group; copied likewise.
        pushes: how many make an iteration, where a push does not say it.
        damped: whether an update's learning rate is divided by 1 + its staleness.
        in_step: whether all workers make each update together, so that they are to have the same learning rate.
    """

    def __init__(
        self, optimizer: Optimizer, settings: dict[str, Any], pushes: int, damped: bool, in_step: bool
    ) -> None:
        self.optimizer, self.settings = copy.copy(optimizer), dict(settings)
        self._first_iteration, self._lr = optimizer.iteration, settings["lr"]
        self._pushes, self._damped, self._in_step = pushes, damped, in_step

    def set(self, pushed: Sequence[Push], version: int) -> None:
        """Set the optimiser's learning rate for an update of this version.

        Raises:
            RuntimeError: workers have set other learning rates.
        """
        optimizer, push = self.optimizer, pushed[0]
        if self._in_step and len({other.lr for other in pushed}) > 1:
            rates = ", ".join(f"worker {p.worker} {'its schedule' if p.lr is None else f'{p.lr:g}'}" for p in pushed)
            raise RuntimeError(f"parameter server: workers have other learning rates in the same step: {rates}")
        pushes = self._pushes if self._pushes == 1 or push.request is None else push.request.parts
        optimizer.iteration = self._first_iteration + version // pushes
        self.settings["lr"] = self._lr if push.lr is None else push.lr
        if self._damped and version > push.version:
            self.settings["lr"] = optimizer.lr_of(self.settings) / (1 + version - push.version)


def missing_weight(pushes: Sequence[Push], workers: int) -> float:
    """Return by what a sum of weighted gradients is to be multiplied where some workers' are missing, else 1."""
    if len(pushes) == workers:
        return 1.0
    samples = sum(push.samples for push in pushes)
    return pushes[0].batch_samples / samples if samples else 1.0


class DenseShard:
    """A range of a group: its parameters, the optimiser's state for them, and every worker's gradient.

    Args:
        rate: the optimiser with its learning rate.
        group: its parameters and state.
        layout: where its arrays lie.
        whole_batches: whether an update is made of all workers' gradients, each weighted by its part of the batch.
    """

    def __init__(self, rate: Rate, group: ParameterGroup, layout: Layout, whole_batches: bool) -> None:
        self.start, self.stop = layout.own_range
        self.data, self.gradients, self._copies = layout.data, layout.gradients_in(), layout.copies()
        self.version = 0
        self._rate, self._layout, self._whole_batches = rate, layout, whole_batches
        self._group = _range_of(group, self.start, self.stop, self.data)
        self._group.settings = rate.settings
        self._sums: dict[tuple[int, ...], Sum] = {}

    def take(self, message: Message, receive: Receive) -> None:
        if isinstance(message, Push) and self._layout.gradients is SENT:
            receive(self.gradients[message.worker])

    def apply(self, pushes: Sequence[Push]) -> None:
        self._rate.set(pushes, self.version)
        grad = self._gradient(pushes)
        everywhere_unused = set.intersection(*(set(push.unused) for push in pushes))
        used = [index for index in range(len(self._group.numbers)) if index not in everywhere_unused]
        for span in within(self._group.next_spans_of(used), self.start, self.stop):
            mine = span._replace(start=span.start - self.start, stop=span.stop - self.start)
            whole = mine.start == 0 and mine.stop == self.data.size
            self._rate.optimizer.update(self._group, mine, grad if whole else _cut(grad, mine))
        self.version += 1

    def answer(self, reply: Reply) -> Iterator[Array]:
        if not reply.changed:
            return
        if self._layout.parameters is SENT:
            yield self.data
        elif self._layout.parameters is COPIED:
            np.copyto(self._copies[reply.worker], self.data)

    def _gradient(self, pushes: Sequence[Push]) -> Array | Sum:
        workers = tuple(push.worker for push in pushes)
        if not self._whole_batches:
            return self.gradients[workers[0]]
        if workers not in self._sums:
            self._sums[workers] = Sum([self.gradients[worker] for worker in workers])
        total = self._sums[workers]
        weight = missing_weight(pushes, len(self.gradients))
        if weight == 1:
            return total
        summed: Array = np.sum(total.arrays, axis=0)
        summed *= summed.dtype.type(weight)
        return summed


class RemoteDense:
    """Such a shard, as a worker sees it.

    Args:
        server: the server's number.
        layout: where its arrays lie.

    Attributes:
        rank, number: its server's rank, and which of that server's shards it is.
        gradient, parameters: (count,) this worker's range of its flat arrays.
        version, seen: that of the parameters that this worker has.
    """

    def __init__(self, rank: int, number: int, server: int, layout: Layout) -> None:
        self.rank, self.number, self._layout = rank, number, layout
        start, stop = layout.range_of(server)
        self.gradient, self.parameters = layout.flat.grad[start:stop], layout.flat.data[start:stop]
        self.version = 0

    @property
    def seen(self) -> int:
        return self.version

    def push(self, message: Push) -> Outgoing:
        """Return a push of this shard's gradient."""
        return Outgoing(message, [self.gradient] if self._layout.gradients is SENT else [], self.gradient.nbytes)

    def take(self, message: Message, reply: Reply, receive: Receive) -> int:
        """Receive what follows a reply; return the bytes of parameters that have changed, wherever they lie."""
        self.version = reply.version
        if not reply.changed:
            return 0
        if self._layout.parameters is SENT:
            receive(self.parameters)
        return self.parameters.nbytes


def _range_of(group: ParameterGroup, start: int, stop: int, data: Array) -> ParameterGroup:
    """Return a group whose arrays begin with the shard: its state is that of this range alone."""
    mine = copy.copy(group)
    mine.flat = copy.copy(group.flat)
    mine.flat.data = data
    mine.steps = list(group.steps)
    mine.move_state({name: values[start:stop] for name, values in group.state.items()})
    return mine


def _cut(grad: Array | Sum, span: Span) -> Array | Sum:
    if isinstance(grad, Sum):
        return Sum([array[span.start : span.stop] for array in grad.arrays])
    return grad[span.start : span.stop]
