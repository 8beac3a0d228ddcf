"""The client of the parameter server: the lines between workers and servers, and a worker's requests to the shards.

    ask   header, and what follows it ──▶ every shard ──▶ answers, in whatever order they come
    tell  header ──▶ every shard; no answer
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.comm import mailbox
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.threads import ThreadTransport, ThreadWorld
from npdp.comm.transport import Handle, NoTransport, Transport
from npdp.parallel.parameter_server.messages import Kind, Message, Reply, decode, encode, new_header, receive, send
from npdp.parallel.parameter_server.rows import RemoteRows
from npdp.parallel.parameter_server.shard import RemoteDense

RemoteShard = RemoteDense | RemoteRows


class Lines:
    """Lines between workers and servers: two worlds of all ranks, one for each direction; collective.

    Where all ranks share memory small messages go through mailboxes in it; else through the world's transport.

    Attributes:
        transport: of all ranks, one that can send to itself.
    """

    def __init__(self, world: Communicator) -> None:
        alone = isinstance(world.transport, NoTransport)
        self.transport: Transport = _Alone(ThreadWorld(1), 0) if alone else world.transport
        nbytes = mailbox.nbytes(world.world_size)
        self._boxes = world.shared_once(nbytes, np.dtype(np.uint8)) if world.memory.is_of_all else None
        if self._boxes is not None:
            self._boxes[:] = 0  # each rank writes the same
            world.barrier()
        self._subworlds = [self.transport.subworld(range(world.world_size)) for _ in range(2)]

    def for_a_thread(self, serves: bool = False) -> tuple[Transport, Transport]:
        """Return the line to servers and the line back, for one thread's use: a worker's, or a server's."""
        there, back = (refused_after_fork(copy.copy(subworld)) for subworld in self._subworlds)
        for line in (there, back):
            line.stalls = line.stalls.on_a_line(serves)
        if self._boxes is not None:
            there, back = mailbox.lines([there, back], self._boxes)
        return there, back


class _Alone(ThreadTransport):
    """World of one rank, worker and server, that can send to itself; its errors are its own."""

    def ended(self, peers: list[int]) -> BaseException | None:
        return self.world.failure[1] if self.world.failure else None


class Client:
    """Client of one worker: sends to the shards, on lines of this thread alone; the workers' world keeps the time."""

    def __init__(self, world: Communicator, requests: Transport, replies: Transport) -> None:
        self._world, self._requests, self._replies = world, requests, replies
        self.pulled_bytes = 0  # of parameters, wherever they lay
        self.reports: list[dict[str, Any]] = []  # of shards, as this worker leaves them

    def ask(self, shards: Sequence[RemoteShard], message: Message, content: Any = None) -> list[Reply]:
        """Send each shard a message, and return the answers, parameters taken where they have changed."""
        if len({shard.rank for shard in shards}) < len(shards):  # a rank has one message of this worker at a time
            return [reply for shard in shards for reply in self.ask([shard], message, content)]
        before, waited = time.perf_counter(), self._requests.wait_s + self._replies.wait_s
        messages, sending = self._begin_to_send(shards, message, content)
        headers = [new_header(Reply) for _ in shards]
        coming = {i: self._replies.receive(headers[i], shard.rank) for i, shard in enumerate(shards)}
        replies = []
        while coming:  # a server that is rid of its own answer can serve whom others wait for
            index = list(coming)[self._replies.wait_any(list(coming.values())) if len(coming) > 1 else 0]
            if len(coming) == 1:
                self._replies.wait(coming[index])  # less politely
            del coming[index]
            replies.append(self._take_answer(shards[index], messages[index], headers[index]))
        for handle in sending:
            self._requests.wait(handle)
        self._world.clock.other_s += time.perf_counter() - before
        self._world.transport.wait_s += self._requests.wait_s + self._replies.wait_s - waited
        return replies

    def tell(self, shards: Sequence[RemoteShard], message: Message) -> None:
        """Send each shard a message that is not answered."""
        for handle in self._begin_to_send(shards, message, None)[1]:
            self._requests.wait(handle)

    def _begin_to_send(
        self, shards: Sequence[RemoteShard], message: Message, content: Any
    ) -> tuple[list[Message], list[Handle]]:
        ended = self._requests.ended([])
        if ended is not None:  # servers may still answer; without it this rank would go on to its end
            raise ended
        messages: list[Message] = []
        sending: list[Handle] = []
        for shard in shards:
            one, following = shard.outgoing(message, content)
            for array in (encode(one), *following):
                sending += send(self._requests, array, shard.rank)
            messages.append(one)
        return messages, sending

    def _take_answer(self, shard: RemoteShard, message: Message, header: Array) -> Reply:
        reply: Reply = decode(Reply, header)

        def fill(array: Array) -> Array:
            receive(self._replies, array, shard.rank)
            return array

        self.pulled_bytes += shard.take(message, reply, fill)
        if message.kind == Kind.LEAVE:
            report = fill(np.empty(fill(np.empty(1, np.int64))[0], np.uint8))
            self.reports.append(json.loads(report.tobytes()))
        return reply
