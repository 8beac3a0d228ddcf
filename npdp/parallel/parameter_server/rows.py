"""Shards of sparse parameters: servers have ranges of rows, and only the rows that a batch touches travel.

    forward   ── these rows? ──▶ the servers that have them ── their values ──▶ this worker's copy
    step      ── rows, their gradient ──▶ the same servers: param[rows] -= lr gradient

Where a worker and a server share memory, rows and values lie in a lane between them, and only headers are sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npdp.autograd.rows import Distinct, Rows
from npdp.autograd.tensor import Array
from npdp.base.partition import part, rounded_up
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import LINE_BYTES
from npdp.nn.products import sums_of_rows
from npdp.nn.sparse_parameter import SparseParameter
from npdp.parallel.parameter_server.messages import ALL, Kind, Message, Reply
from npdp.parallel.parameter_server.shard import Rate, Receive, Roles, one_for_each

LANE_BYTES = 8 << 20  # of a worker's lanes to all servers, at most: a batch of texts touches some MB; more is sent


class Lanes:
    """Lanes for rows of a sparse parameter, from each worker to each server; collective.

    A lane is memory that both share: the numbers of rows, and behind them the rows' values.
    """

    def __init__(self, parameter: SparseParameter, world: Communicator, roles: Roles) -> None:
        self.parameter, self.roles, self.width = parameter, roles, int(np.prod(parameter.shape[1:]))
        nbytes = min(LANE_BYTES, parameter.array.nbytes + len(parameter.array) * 16 + LINE_BYTES)
        self._lines = -(-nbytes // LINE_BYTES)
        self._lanes = one_for_each(world, self._lines * LINE_BYTES // 8, np.dtype(np.int64))

    def rows_of(self, server: int) -> slice:
        """Return the range of a server's shard."""
        return slice(*part(len(self.parameter.array), len(self.roles.servers), server))

    def place(self, worker: int, server: int, count: int) -> tuple[Rows, Array, bool]:
        """Return arrays for so many rows and their values, (count,) and (count, width); and whether they are shared.

        Both sides know the count, and so agree on whether there is room for them; if not, what is in them is sent.
        """
        first, last = part(self._lines, len(self.roles.servers), server)
        start = first * LINE_BYTES + rounded_up(count * 8, LINE_BYTES)
        stop = start + count * self.width * self.parameter.dtype.itemsize
        if self._lanes is None or stop > last * LINE_BYTES:
            return np.empty(count, np.int64), np.empty((count, self.width), self.parameter.dtype), False
        lane = self._lanes[worker].view(np.uint8)
        values = lane[start:stop].view(self.parameter.dtype).reshape(count, self.width)
        return lane[first * LINE_BYTES :][: count * 8].view(np.int64), values, True


class RowShard:
    """Shard of a sparse parameter on its server: a range of rows, copied."""

    def __init__(self, rate: Rate, parameter: SparseParameter, lanes: Lanes, server: int) -> None:
        self._rate, self._lanes, self._server = rate, lanes, server
        values = np.array(parameter.array[lanes.rows_of(self._server)])
        self._table = values.reshape(len(values), lanes.width)
        self._gradients: dict[int, tuple[Rows, Array]] = {}  # each worker's
        self._wanted: dict[int, Rows | None] = {}  # what workers have asked for and not got; None: all rows
        self._distinct = Distinct(len(self._table))

    def take(self, message: Message, receive: Receive) -> None:
        if message.kind == Kind.PULL and message.rows == ALL:
            self._wanted[message.worker] = None
        elif message.kind in (Kind.PULL, Kind.PUSH):
            rows, values, is_shared = self._lanes.place(message.worker, self._server, message.rows)
            if not is_shared:
                receive(rows)
            if message.kind == Kind.PULL:
                self._wanted[message.worker] = rows
                return
            if not is_shared:
                receive(values.reshape(-1))
            self._gradients[message.worker] = rows, values

    def apply(self, pushes: Sequence[Message], version: int) -> None:
        self._rate.set(pushes, version)
        rows, values = self._sum([self._gradients[push.worker] for push in pushes])
        self._rate.optimizer.update_rows(self._table, rows, values, self._rate.settings)

    def answer(self, reply: Reply) -> Iterator[Array]:
        if reply.worker not in self._wanted:
            return
        rows = self._wanted.pop(reply.worker)
        if rows is not None:
            _, values, is_shared = self._lanes.place(reply.worker, self._server, len(rows))
            self._table.take(rows, axis=0, out=values, mode="clip")
            if not is_shared:
                yield values.reshape(-1)
        else:
            yield self._table.reshape(-1)

    def _sum(self, gradients: list[tuple[Rows, Array]]) -> tuple[Rows, Array]:
        """Return the rows that any of them has, and the values, added up in this order."""
        if len(gradients) == 1:
            return gradients[0]
        rows, indices = self._distinct(np.concatenate([rows for rows, _ in gradients]))
        return rows, sums_of_rows(np.concatenate([values for _, values in gradients]), indices, len(rows))


class RemoteRows:
    """Shard of a sparse parameter, as a worker sees it.

    Attributes:
        version: that of the rows which this worker computes on: the oldest that it has fetched since its last push.
    """

    def __init__(self, number: int, server: int, lanes: Lanes) -> None:
        self.rank, self.number, self.version = lanes.roles.servers[server], number, 0
        self._server, self._lanes, self._range = server, lanes, lanes.rows_of(server)
        data = lanes.parameter.array
        self._table = data.reshape(len(data), lanes.width)  # the user's view will be read-only
        self._fetched = False  # since the last push
        self._rows: Rows = np.empty(0, np.int64)

    def outgoing(self, message: Message, content: Any) -> tuple[Message, list[Array]]:
        """Return a message, of a push with a `RowGradient`, of a pull with the rows that are wanted, or None: all."""
        is_pull = message.kind == Kind.PULL
        message = message._replace(shard=self.number, version=self.version)
        if content is None:
            return message, []
        all_rows = content if is_pull else content.rows
        mine = slice(*np.searchsorted(all_rows, [self._range.start, self._range.stop]).tolist())
        self._rows = all_rows[mine]
        rows, values, is_shared = self._lanes.place(message.worker, self._server, len(self._rows))
        np.subtract(self._rows, self._range.start, out=rows)
        if not is_pull:
            values[...] = content.values[mine].reshape(values.shape)
        following = [] if is_shared else [rows] if is_pull else [rows, values.reshape(-1)]
        return message._replace(rows=len(rows)), following

    def take(self, message: Message, reply: Reply, receive: Receive) -> int:
        """Receive what follows a reply into the worker's copy; return its bytes."""
        if message.kind != Kind.PULL:
            self.version, self._fetched = reply.version, False
            return 0
        if message.rows == ALL:
            mine = self._table[self._range]
            receive(mine.reshape(-1))
            return mine.nbytes
        _, values, is_shared = self._lanes.place(message.worker, self._server, len(self._rows))
        if not is_shared:
            receive(values.reshape(-1))
        self._table[self._rows] = values
        self.version = self.version if self._fetched else reply.version
        self._fetched = self._fetched or message.training
        return values.nbytes
