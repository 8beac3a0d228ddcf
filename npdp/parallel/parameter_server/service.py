"""What a server rank does: takes messages from any worker, politely waiting, until all have left.

    wait for a header → what follows it → server.handle → answers, with parameters

It sends from the shard itself, so an update waits until the answers before it are on their way: nobody gets half of
one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from npdp import environment
from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.comm.transport import Handle, Transport
from npdp.parallel.parameter_server import wire
from npdp.parallel.parameter_server.messages import Leave, Push, Reply
from npdp.parallel.parameter_server.policies import Policy
from npdp.parallel.parameter_server.server import Server
from npdp.parallel.parameter_server.shard import Shard


class Together:
    """Servers of one rank that are looked at together, one message to any of them at a time.

    Attributes:
        handling: held while a message is handled.
        servers: of one model's shards; or of those of all models that are trained in step, whose workers wait for
            nothing but steps. (At another a worker waits for one whose word that it is idle may be on its way.)
    """

    def __init__(self) -> None:
        self.handling = threading.Lock()
        self.servers: list[Server] = []

    def require_progress(self) -> None:
        """Raise RuntimeError where each worker waits for an answer, at several servers: none will come."""
        if len(self.servers) < 2:  # most models: this is asked with every message
            return
        waiting = [workers for server in self.servers if (workers := server.waiting)]
        if len(waiting) > 1 and sum(map(len, waiting)) == len(self.servers[0].workers):
            one, other = waiting[0][0], waiting[1][0]
            raise RuntimeError(
                f"worker {one} takes a step of an optimiser while worker {other} takes one of another: all workers "
                "take the same steps in the same order"
            )


# The servers that a rank is, beside its program
IN_STEP: WeakKeyDictionary[Communicator, Together] = WeakKeyDictionary()


class Service:
    """Serves some shards.

    Args:
        requests, replies: worlds of all ranks, for what goes to servers and what comes back; this thread's alone.
        header_length: of a worker's header.
        workers: how many there are: ranks 0, 1, ... there.
        shards: each shard's arithmetic, and what its logic goes by.
        has_first: whether the first of them is the first of all servers'.
        records: whether they keep the order of arrivals.
        together: what their servers join until all workers have left.
    """

    def __init__(
        self,
        requests: Transport,
        replies: Transport,
        header_length: int,
        workers: int,
        shards: Sequence[tuple[Shard, Policy]],
        has_first: bool,
        records: bool,
        together: Together,
    ) -> None:
        self._requests, self._replies, self._workers = requests, replies, workers
        self._shards = [
            (Server(workers, policy, partial(self._apply, shard), has_first and number == 0, records), shard)
            for number, (shard, policy) in enumerate(shards)
        ]
        self._headers = np.zeros((workers, header_length), np.int64)
        self._sending: dict[int, list[Handle]] = {}  # what is on its way to each worker
        self._together = together
        together.servers += [server for server, _ in self._shards]

    def serve(self) -> None:
        """Serve until every worker has left every shard."""
        shards_left = [len(self._shards)] * self._workers
        listening = {worker: self._listen(worker) for worker in range(self._workers)}
        while listening:
            worker = list(listening)[self._requests.wait_any(list(listening.values()))]
            message, number = wire.decode(worker, self._headers[worker])
            server, shard = self._shards[number]
            shard.take(message, partial(wire.receive, self._requests, peer=worker))
            shards_left[worker] -= isinstance(message, Leave)
            if shards_left[worker]:
                listening[worker] = self._listen(worker)
            else:
                del listening[worker]
            with self._together.handling:
                for reply in server.handle(message):
                    self._answer(reply, number)
                self._together.require_progress()
        self._settle()
        with self._together.handling:
            for server, _ in self._shards:
                self._together.servers.remove(server)

    def _apply(self, shard: Shard, pushes: list[Push]) -> None:
        self._settle()
        shard.apply(pushes)

    def _settle(self) -> None:
        """Return when all that was sent is out of this rank's hands."""
        for worker in list(self._sending):
            self._settle_with(worker)

    def _settle_with(self, worker: int) -> None:
        for handle in self._sending.pop(worker, ()):
            self._replies.wait(handle)

    def _listen(self, worker: int) -> Handle:
        return self._requests.receive(self._headers[worker], worker)

    def _answer(self, reply: Reply, number: int) -> None:
        server, shard = self._shards[number]
        following: list[Array] = [] if reply.last else list(shard.answer(reply))
        extra = _report(server) if reply.last else b""
        self._settle_with(reply.worker)  # it has asked again, so it has got the last answer
        self._sending[reply.worker] = []
        for array in (wire.encode_reply(reply, len(extra)), *following, np.frombuffer(extra, np.uint8)):
            self._sending[reply.worker] += wire.send(self._replies, array, reply.worker)


def _report(server: Server) -> bytes:
    """Return what a shard has done, for the last answer."""
    report: dict[str, Any] = {
        "version": server.version,
        **vars(server.statistics),
        "staleness": sorted(server.statistics.staleness.items()),
        "arrivals": [(arrival.worker, *arrival.unit, arrival.version) for arrival in server.arrivals],
        "peak_memory_bytes": environment.peak_memory_bytes(),
    }
    return json.dumps(report).encode()
