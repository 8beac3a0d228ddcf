"""The way from a worker to the shards: one question at a time to each, all shards of a step at once.

    ask   header, and what follows it ──▶ every shard ──▶ answers, in whatever order they come
    tell  header ──▶ every shard; no answer
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from npdp.autograd.tensor import Array
from npdp.comm.transport import Handle, Transport
from npdp.parallel.parameter_server import wire
from npdp.parallel.parameter_server.messages import Message, Reply
from npdp.parallel.parameter_server.rows import RemoteRows
from npdp.parallel.parameter_server.shard import Outgoing, RemoteDense

RemoteShard = RemoteDense | RemoteRows
S = TypeVar("S", bound=RemoteShard)
Make = Callable[[S, int], Outgoing]  # the message to a shard, of this sequence number


class Client:
    """One worker's way to the shards.

    Args:
        worker: its number.
        requests, replies: worlds of all ranks, for what goes to servers and what comes back; this thread's alone.
        header_length: of its headers.

    Attributes:
        spent_s, wait_s: seconds in `ask`; those of them in which there was nothing to do but wait.
        pushed_bytes, pulled_bytes: of gradients and parameters, wherever they lay.
        reports: each shard's, once this worker has left, by rank and number.
    """

    def __init__(self, worker: int, requests: Transport, replies: Transport, header_length: int) -> None:
        self._worker, self._requests, self._replies = worker, requests, replies
        self._header_length = header_length
        self._sequence = 0
        self.spent_s = self.wait_s = 0.0
        self.pushed_bytes = self.pulled_bytes = 0
        self.reports: dict[tuple[int, int], dict[str, Any]] = {}

    def ask(self, shards: Sequence[S], make: Make[S]) -> list[Reply]:
        """Send each shard a message, and return the answers, parameters taken where they have changed."""
        before, waited = time.perf_counter(), self._requests.wait_s + self._replies.wait_s
        messages, sending = self._begin_to_send(shards, make)
        replies = list(self._answers(shards, messages))
        for handle in sending:
            self._requests.wait(handle)
        self.spent_s += time.perf_counter() - before
        self.wait_s += self._requests.wait_s + self._replies.wait_s - waited
        return replies

    def tell(self, shards: Sequence[S], make: Make[S]) -> None:
        """Send each shard a message that is not answered."""
        for handle in self._begin_to_send(shards, make)[1]:
            self._requests.wait(handle)

    def _begin_to_send(self, shards: Sequence[S], make: Make[S]) -> tuple[list[Message], list[Handle]]:
        ended = self._requests.ended([])
        if ended is not None:  # servers may still answer; without it this rank would go on to its end
            raise ended
        messages: list[Message] = []
        sending: list[Handle] = []
        self._sequence += 1
        for shard in shards:
            message, following, pushed_bytes = make(shard, self._sequence)
            header = np.empty(self._header_length, np.int64)
            wire.encode(message, shard.number, header)
            sending.append(self._requests.send(header, shard.rank))
            for array in following:
                sending += wire.send(self._requests, array, shard.rank)
            self.pushed_bytes += pushed_bytes
            messages.append(message)
        return messages, sending

    def _answers(self, shards: Sequence[RemoteShard], messages: list[Message]) -> Iterator[Reply]:
        """Yield every shard's answer as it comes: a server that is rid of its own can serve whom others wait for."""
        headers = np.empty((len(shards), wire.REPLY), np.int64)
        coming = {i: self._replies.receive(headers[i], shard.rank) for i, shard in enumerate(shards)}
        while len(coming) > 1:
            index = list(coming)[self._replies.wait_any(list(coming.values()))]
            del coming[index]
            yield self._take_answer(shards[index], messages[index], headers[index])
        for index, handle in coming.items():
            self._replies.wait(handle)
            yield self._take_answer(shards[index], messages[index], headers[index])

    def _take_answer(self, shard: RemoteShard, message: Message, header: Array) -> Reply:
        reply, extra_bytes = wire.decode_reply(self._worker, header)
        self.pulled_bytes += shard.take(message, reply, lambda array: wire.receive(self._replies, array, shard.rank))
        if extra_bytes:
            extra = np.empty(extra_bytes, np.uint8)
            wire.receive(self._replies, extra, shard.rank)
            self.reports[shard.rank, shard.number] = json.loads(extra.tobytes())
        return reply
