"""A shard of a sparse parameter: servers have ranges of its rows, and only the rows that a batch touches travel.

    forward   ── these rows? ──▶ the servers that have them ── their values ──▶ this worker's copy
    step      ── rows, their gradient ──▶ the same servers: param[rows] -= lr gradient

Where a worker and a server share memory, rows and values lie in a lane between them, and only headers are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npdp.autograd.rows import Distinct, RowGradient, Rows
from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import LINE_BYTES, Parameter
from npdp.nn.products import sums_of_rows
from npdp.parallel.parameter_server.layout import one_for_each
from npdp.parallel.parameter_server.messages import Fetch, Message, Push, Reply
from npdp.parallel.parameter_server.shard import Outgoing, Rate, Receive, missing_weight
from npdp.partition import part, rounded_up

LANE_BYTES = 8 << 20  # of a worker's lanes to all servers, at most: a batch of texts touches some MB; more is sent


class Lane:
    """Memory that a worker and a server share: the numbers of rows, and behind them the rows' values.

    Args:
        memory: bytes, on a cache line; None where they share none.
        width: elements of a row.
        dtype: of them.
    """

    def __init__(self, memory: Array | None, width: int, dtype: np.dtype[Any]) -> None:
        self._memory, self._width, self._dtype = memory, width, dtype

    def holds(self, count: int) -> bool:
        """Return whether so many rows have room; both sides know the count, and so agree."""
        return self._memory is not None and self._start(count) + count * self._row_bytes <= self._memory.size

    def rows(self, count: int) -> Rows:
        """Return where the numbers of so many rows lie."""
        assert self._memory is not None
        return self._memory[: count * 8].view(np.int64)

    def values(self, count: int) -> Array:
        """Return where their values lie, (count, width)."""
        assert self._memory is not None
        start = self._start(count)
        return self._memory[start : start + count * self._row_bytes].view(self._dtype).reshape(count, self._width)

    @property
    def _row_bytes(self) -> int:
        return self._width * self._dtype.itemsize

    @staticmethod
    def _start(count: int) -> int:
        return rounded_up(count * 8, LINE_BYTES)


def _lane_bytes(parameter: Parameter) -> int:
    """Return how much memory a worker's lanes take: room for all rows, or what a batch is likely to touch."""
    rows = len(parameter.data)
    return rounded_up(min(LANE_BYTES, parameter.data.nbytes + rows * 16 + LINE_BYTES), LINE_BYTES)


def lay_lanes(world: Communicator, parameter: Parameter) -> list[Array | None]:
    """Return each rank's memory for rows on their way; None where ranks share none; collective."""
    lanes = one_for_each(world, _lane_bytes(parameter), np.dtype(np.uint8))
    return [None] * world.world_size if lanes is None else [*lanes]


def _cut_lane(memory: Array | None, servers: int, server: int) -> Array | None:
    """Return the part of a worker's lanes that leads to a server."""
    if memory is None:
        return None
    start, stop = part(memory.size // LINE_BYTES, servers, server)
    return memory[start * LINE_BYTES : stop * LINE_BYTES]


class RowShard:
    """A range of the rows of a sparse parameter, on their server.

    Args:
        rate: the optimiser with its learning rate.
        parameter: the whole of it, as this rank has it; these rows are copied.
        lanes: each worker's memory for lanes.
        servers, server: how many there are, and which one this is.
        whole_batches: whether an update is made of all workers' gradients, each weighted by its part of the batch.
    """

    def __init__(
        self,
        rate: Rate,
        parameter: Parameter,
        lanes: Sequence[Array | None],
        servers: int,
        server: int,
        whole_batches: bool,
    ) -> None:
        self.version = 0
        self._rate, self._whole_batches = rate, whole_batches
        start, stop = part(len(parameter.data), servers, server)
        self._parameter = Parameter(np.array(parameter.data[start:stop]), sparse=True)
        self._width = int(np.prod(parameter.shape[1:]))
        self._table = self._parameter.data.reshape(stop - start, self._width)  # the same memory
        self._lanes = [Lane(_cut_lane(lane, servers, server), self._width, parameter.dtype) for lane in lanes]
        self._gradients: list[tuple[Rows, Array]] = [(np.empty(0, np.int64), np.empty(0))] * len(lanes)
        self._wanted: dict[int, Rows] = {}  # what workers have asked for and not got
        self._distinct: Distinct | None = None

    def take(self, message: Message, receive: Receive) -> None:
        if isinstance(message, Fetch):
            self._wanted[message.worker] = self._rows(message, receive)
        elif isinstance(message, Push):
            rows, lane = self._rows(message, receive), self._lanes[message.worker]
            if lane.holds(message.rows):
                values = lane.values(message.rows)
            else:
                values = np.empty((message.rows, self._width), self._parameter.dtype)
                receive(values.reshape(-1))
            self._gradients[message.worker] = rows, values

    def apply(self, pushes: Sequence[Push]) -> None:
        self._rate.set(pushes, self.version)
        rows, values = self._sum([self._gradients[push.worker] for push in pushes])
        weight = missing_weight(pushes, len(self._lanes)) if self._whole_batches else 1.0
        if weight != 1:
            values = values * values.dtype.type(weight)
        values = values.reshape(len(rows), *self._parameter.shape[1:])
        self._rate.optimizer.update_rows(self._parameter, rows, values, self._rate.settings)
        self.version += 1

    def answer(self, reply: Reply) -> Iterator[Array]:
        rows = self._wanted.pop(reply.worker, None)
        if rows is not None and self._lanes[reply.worker].holds(len(rows)):
            self._table.take(rows, axis=0, out=self._lanes[reply.worker].values(len(rows)), mode="clip")
        elif rows is not None:
            yield self._table.take(rows, axis=0).reshape(-1)
        elif reply.pulled and reply.changed:
            yield self._table.reshape(-1)

    def _rows(self, message: Fetch | Push, receive: Receive) -> Rows:
        lane = self._lanes[message.worker]
        if lane.holds(message.rows):
            return lane.rows(message.rows)
        rows = np.empty(message.rows, np.int64)
        receive(rows)
        return rows

    def _sum(self, gradients: list[tuple[Rows, Array]]) -> tuple[Rows, Array]:
        """Return the rows that any of them has, and the values, added up in this order."""
        if len(gradients) == 1:
            return gradients[0]
        if self._distinct is None:
            self._distinct = Distinct(len(self._table))
        rows, indices = self._distinct(np.concatenate([rows for rows, _ in gradients]))
        return rows, sums_of_rows(np.concatenate([values for _, values in gradients]), indices, len(rows))


class RemoteRows:
    """Such a shard, as a worker sees it.

    Attributes:
        rank, number: its server's rank, and which of that server's shards it is.
        version: that of the rows which this worker computes on: the oldest that it has fetched since its last push.
        seen: that of the whole range, where this worker has pulled it.
    """

    def __init__(
        self, rank: int, number: int, parameter: Parameter, lanes: Array | None, servers: int, server: int
    ) -> None:
        self.rank, self.number = rank, number
        self._width = int(np.prod(parameter.shape[1:]))
        self._table = parameter.data.reshape(len(parameter.data), self._width)  # the user's view will be read-only
        self._lane = Lane(_cut_lane(lanes, servers, server), self._width, parameter.dtype)
        self.start, self.stop = part(len(parameter.data), servers, server)
        self.version, self.seen = 0, 0
        self._fetched = False  # since the last push
        self._rows: Rows = np.empty(0, np.int64)

    def _of(self, rows: Rows) -> slice:
        """Return which of these sorted rows are in this shard."""
        return slice(*np.searchsorted(rows, [self.start, self.stop]).tolist())

    def push(self, message: Push, gradient: RowGradient) -> Outgoing:
        """Return a push of what this shard has of a gradient."""
        mine = self._of(gradient.rows)
        rows, values = gradient.rows[mine] - self.start, gradient.values[mine].reshape(-1, self._width)
        return Outgoing(message._replace(rows=len(rows)), self._laid(rows, values), rows.nbytes + values.nbytes)

    def fetch(self, message: Fetch, rows: Rows) -> Outgoing:
        """Ask for those of these rows that this shard has, and note what the answer will bring."""
        self._rows = rows[self._of(rows)]
        return Outgoing(message._replace(rows=len(self._rows)), self._laid(self._rows - self.start))

    def _laid(self, rows: Rows, values: Array | None = None) -> list[Array]:
        """Lay rows and values in the lane, or return them, to be sent."""
        if not self._lane.holds(len(rows)):
            return [rows] if values is None else [rows, np.ascontiguousarray(values).reshape(-1)]
        self._lane.rows(len(rows))[:] = rows
        if values is not None:
            self._lane.values(len(rows))[:] = values
        return []

    def take(self, message: Message, reply: Reply, receive: Receive) -> int:
        """Receive what follows a reply into the worker's copy; return its bytes."""
        if isinstance(message, Fetch):
            if self._lane.holds(len(self._rows)):
                values = self._lane.values(len(self._rows))
            else:
                values = np.empty((len(self._rows), self._width), self._table.dtype)
                receive(values.reshape(-1))
            self._table[self._rows] = values
            self.version = self.version if self._fetched else reply.version
            self._fetched = self._fetched or message.training
            return values.nbytes
        if reply.pulled:
            self.seen = reply.version
            if not reply.changed:
                return 0
            mine = self._table[self.start : self.stop]
            receive(mine.reshape(-1))
            return mine.nbytes
        self.version, self._fetched = reply.version, False
        return 0
