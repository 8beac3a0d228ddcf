"""The server loop: takes messages for a rank's shards from any worker, until all have left.

    wait for a header → what follows it → server.handle → answers, with parameters

It sends from the shard itself, so an update waits until the answers before it are on their way: nobody gets half of
one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from npdp.autograd.tensor import Array
from npdp.base import environment
from npdp.comm.transport import Handle, Transport
from npdp.parallel.parameter_server.messages import Message, Reply, decode, encode, new_header, receive, send
from npdp.parallel.parameter_server.record import Record
from npdp.parallel.parameter_server.server import Policy, Server
from npdp.parallel.parameter_server.shard import Receive
from npdp.parallel.parameter_server.work import WorkPool

Fail = Callable[[BaseException], None]


class Shard(Protocol):
    """A shard's arithmetic; see `DenseShard`."""

    def take(self, message: Message, receive: Receive) -> None: ...
    def apply(self, pushes: Sequence[Message], version: int) -> None: ...
    def answer(self, reply: Reply) -> Iterator[Array]: ...


class Logic(NamedTuple):
    """A shard's arithmetic, what its logic goes by, and what it has applied before."""

    shard: Shard
    policy: Policy
    pool: WorkPool | None
    record: Record


class Service:
    """Server loop of some shards, for so many workers: ranks 0, 1, ... of the lines, which only this thread uses."""

    def __init__(self, requests: Transport, replies: Transport, workers: int, shards: Sequence[Logic]) -> None:
        self._requests, self._replies = requests, replies
        self._shards = [shard for shard, *_ in shards]
        self._servers = [
            Server(workers, policy, partial(self._apply, k), pool, record)
            for k, (_, policy, pool, record) in enumerate(shards)
        ]
        self._headers = [new_header(Message) for _ in range(workers)]
        self._sending: dict[int, list[Handle]] = {}  # what is on its way to each worker

    def serve(self) -> None:
        """Serve until every worker has left every shard."""
        listening = {worker: self._requests.receive(header, worker) for worker, header in enumerate(self._headers)}
        while listening:
            worker = list(listening)[self._requests.wait_any(list(listening.values()))]
            message = decode(Message, self._headers[worker])
            self._shards[message.shard].take(message, partial(receive, self._requests, peer=worker))
            for reply in self._servers[message.shard].handle(message):
                self._answer(reply, message.shard)
            del listening[worker]
            if not all(server.workers[worker].left for server in self._servers):
                listening[worker] = self._requests.receive(self._headers[worker], worker)
        self._settle(*self._sending)

    def begin(self, fail: Fail) -> threading.Thread:
        """Serve on a thread, which hands its errors to `fail`: nobody else sees them."""

        def run() -> None:
            try:
                self.serve()
            except BaseException as error:
                fail(error)

        thread = threading.Thread(target=run, name="server", daemon=True)
        thread.start()
        return thread

    def _apply(self, number: int, pushes: list[Message]) -> None:
        self._settle(*self._sending)
        self._shards[number].apply(pushes, self._servers[number].record.version)

    def _settle(self, *workers: int) -> None:
        """Return when all that was sent to these workers is out of this rank's hands."""
        for worker in workers:
            for handle in self._sending.pop(worker, ()):
                self._replies.wait(handle)

    def _answer(self, reply: Reply, number: int) -> None:
        server, worker = self._servers[number], reply.worker
        following = _report(server) if server.workers[worker].left else self._shards[number].answer(reply)
        arrays = [encode(reply), *following]
        self._settle(worker)  # it has asked again, so it has got the last answer
        self._sending[worker] = [handle for array in arrays for handle in send(self._replies, array, worker)]


def _report(server: Server) -> Iterator[Array]:
    """Yield how long the report of what a shard has done is, and it, in bytes."""
    report = {
        "version": server.record.version,
        "samples": server.record.samples,
        "checksum": server.record.checksum,
        "staleness": sorted(server.record.staleness.items()),
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "log": server.policy.log,
    }
    text = np.frombuffer(json.dumps(report).encode(), np.uint8)
    yield np.array([text.size])
    yield text
