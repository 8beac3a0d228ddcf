"""A shard of a sparse parameter: servers have ranges of its rows, and only the rows that a batch touches travel.

    forward   ── these rows? ──▶ the servers that have them ── their values ──▶ this worker's copy
    step      ── rows, their gradient ──▶ the same servers: param[rows] -= lr gradient
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from npdp.autograd.rows import Distinct, RowGradient, Rows
from npdp.autograd.tensor import Array
from npdp.nn.parameter import Parameter
from npdp.nn.products import sums_of_rows
from npdp.parallel.parameter_server.messages import Fetch, Message, Push, Reply
from npdp.parallel.parameter_server.shard import Rate, Receive, missing_weight
from npdp.partition import part


class RowShard:
    """Rows [start, stop) of a sparse parameter, on their server.

    Args:
        rate: the optimiser with its learning rate.
        parameter: the whole of it, as this rank has it; these rows are copied.
        start, stop: the range.
        workers: how many there are.
    """

    def __init__(self, rate: Rate, parameter: Parameter, start: int, stop: int, workers: int) -> None:
        self.version = 0
        self._rate = rate
        self._parameter = Parameter(np.array(parameter.data[start:stop]), sparse=True)
        self._width = int(np.prod(parameter.shape[1:]))
        self._gradients: list[tuple[Rows, Array]] = [(np.empty(0, np.int64), np.empty(0))] * workers
        self._wanted: dict[int, Rows] = {}  # what workers have asked for and not got
        self._distinct: Distinct | None = None

    @property
    def data(self) -> Array:
        """(stop - start, ...) the rows."""
        return self._parameter.data

    def take(self, message: Message, receive: Receive) -> None:
        if isinstance(message, Fetch):
            self._wanted[message.worker] = _received_rows(message.rows, receive)
        elif isinstance(message, Push):
            rows = _received_rows(message.rows, receive)
            values = np.empty(message.rows * self._width, self._parameter.dtype)
            receive(values)
            self._gradients[message.worker] = rows, values.reshape(message.rows, self._width)

    def apply(self, pushes: Sequence[Push]) -> None:
        self._rate.set(pushes[0], self.version)
        optimizer = self._rate.optimizer
        rows, values = self._sum([self._gradients[push.worker] for push in pushes])
        weight = missing_weight(pushes) if len(pushes) > 1 else 1.0
        if weight != 1:
            values = values * values.dtype.type(weight)
        values = values.reshape(len(rows), *self._parameter.shape[1:])
        optimizer.update_rows(self._parameter, rows, values, optimizer.current_lr)
        self.version += 1

    def answer(self, reply: Reply) -> Iterator[Array]:
        rows = self._wanted.pop(reply.worker, None)
        if rows is not None:
            yield self.data.take(rows, axis=0).reshape(-1)
        elif reply.pulled and reply.changed:
            yield self.data.reshape(-1)

    def _sum(self, gradients: list[tuple[Rows, Array]]) -> tuple[Rows, Array]:
        """Return the rows that any of them has, and the values, added up in this order."""
        if len(gradients) == 1:
            return gradients[0]
        if self._distinct is None:
            self._distinct = Distinct(len(self.data))
        rows, places = self._distinct(np.concatenate([rows for rows, _ in gradients]))
        return rows, sums_of_rows(np.concatenate([values for _, values in gradients]), places, len(rows))


def _received_rows(count: int, receive: Receive) -> Rows:
    rows = np.empty(count, np.int64)
    receive(rows)
    return rows


class RemoteRows:
    """Such a shard, as a worker sees it.

    Attributes:
        rank, number: its server's rank, and which of that server's shards it is.
        version: that of the rows which this worker computes on: the oldest that it has fetched since its last push.
        seen: that of the whole range, where this worker has pulled it.
    """

    def __init__(self, rank: int, number: int, parameter: Parameter, servers: int, server: int) -> None:
        self.rank, self.number, self.parameter = rank, number, parameter
        self.start, self.stop = part(len(parameter.data), servers, server)
        self.version, self.seen = 0, 0
        self._fetched = False  # since the last push
        self._rows: Rows = np.empty(0, np.int64)

    def of(self, rows: Rows) -> slice:
        """Return which of these sorted rows are in this shard."""
        return slice(*np.searchsorted(rows, [self.start, self.stop]).tolist())

    def following(self, message: Message, gradient: RowGradient | None, wanted: Rows | None) -> list[Array]:
        """Return what follows a message, and note what its answer will bring."""
        if isinstance(message, Push) and gradient is not None:
            mine = self.of(gradient.rows)
            return [gradient.rows[mine] - self.start, np.ascontiguousarray(gradient.values[mine]).reshape(-1)]
        if isinstance(message, Fetch) and wanted is not None:
            self._rows = wanted[self.of(wanted)]
            return [self._rows - self.start]
        return []

    def take(self, message: Message, reply: Reply, receive: Receive) -> int:
        """Receive what follows a reply into the worker's copy; return its bytes."""
        data = self.parameter.data
        if isinstance(message, Fetch):
            values = np.empty(len(self._rows) * int(np.prod(data.shape[1:])), data.dtype)
            receive(values)
            data[self._rows] = values.reshape(len(self._rows), *data.shape[1:])
            self.version = self.version if self._fetched else reply.version
            self._fetched = self._fetched or message.training
            return values.nbytes
        if reply.pulled:
            if reply.changed:
                receive(data[self.start : self.stop].reshape(-1))
            self.seen = reply.version
            return data[self.start : self.stop].nbytes if reply.changed else 0
        self.version, self._fetched = reply.version, False
        return 0
