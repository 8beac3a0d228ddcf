"""Replicas of shards: what a server applies another rank applies too, before the workers are answered.

    server    header, gradients ──▶ (a thread of its own on another rank)  receive, apply, acknowledge
              apply                                                          │
              ◀── applied ───────────────────────────────────────────────────┘
              answer

A gradient that lies in memory which both see is not sent. The thread waits for nothing but what servers send, so two
servers that replicate on each other never wait crosswise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from npdp.autograd.tensor import Array
from npdp.comm.errors import RankDied
from npdp.comm.transport import Transport
from npdp.elastic.servers.shards import Kept, Place
from npdp.parallel.parameter_server.messages import Message, Reply, decode, encode, new_header, receive, send
from npdp.parallel.parameter_server.shard import Receive

END = (-1, -1)  # in the place of a shard: nothing more will come


class Replicated:
    """Shard on its server, which forwards what it applies.

    Args:
        kept: the shard.
        there, back: the lines to replicas and back.
        peer: the rank with the replica; None: there is none.
        note: called before each update, with the version that it is applied to.

    Attributes:
        kept: as given.
    """

    def __init__(
        self, kept: Kept, there: Transport, back: Transport, peer: int | None, note: Callable[[int], None]
    ) -> None:
        self.kept, self._there, self._back, self._peer, self._note = kept, there, back, peer, note
        self._acknowledged = np.zeros(1, np.int64)

    def take(self, message: Message, receive: Receive) -> None:
        self.kept.shard.take(message, receive)

    def answer(self, reply: Reply) -> Iterator[Array]:
        return self.kept.shard.answer(reply)

    def apply(self, pushes: Sequence[Message], version: int) -> None:
        """Update the shard and its replica."""
        self._note(version)
        if self._peer is None:
            self.kept.apply(pushes, version)
            return
        coming = self._back.receive(self._acknowledged, self._peer)
        arrays = [np.array([*self.kept.place, len(pushes)])]
        for push in pushes:
            arrays += [encode(push), *self.kept.shard.pushed(push)]
        sending = [handle for array in arrays for handle in send(self._there, array, self._peer)]
        self.kept.apply(pushes, version)
        with contextlib.suppress(RankDied):  # this update is noted first; the next wait says it again
            for handle in sending:
                self._there.wait(handle)
            self._back.wait(coming)

    def end(self) -> None:
        """Tell the replica that nothing more will come."""
        if self._peer is not None:
            for handle in send(self._there, np.array([*END, 0]), self._peer):
                self._there.wait(handle)


class Replicas:
    """Loop of the replicas that a rank keeps.

    Args:
        there, back: the lines to replicas and back, for this thread.
        kept: the replicas.
        sources: the servers' ranks, once for each replica.
    """

    def __init__(self, there: Transport, back: Transport, kept: Mapping[Place, Kept], sources: Sequence[int]) -> None:
        self._there, self._back, self._kept = there, back, kept
        self._headers = {source: np.zeros(3, np.int64) for source in sources}
        self._open = {source: list(sources).count(source) for source in sources}

    def run(self) -> None:
        """Apply what comes, until all servers have said that nothing more will."""
        listening = {source: self._there.receive(header, source) for source, header in self._headers.items()}
        while listening:
            source = list(listening)[self._there.wait_any(list(listening.values()))]
            key, server, count = self._headers[source].tolist()
            if (key, server) == END:
                self._open[source] -= 1
            else:
                self._apply(self._kept[key, server], count, source)
            del listening[source]
            if self._open[source]:
                listening[source] = self._there.receive(self._headers[source], source)

    def _apply(self, kept: Kept, count: int, source: int) -> None:
        take, pushes = partial(receive, self._there, peer=source), []
        for _ in range(count):
            take(header := new_header(Message))
            push: Message = decode(Message, header)
            kept.shard.take(push, take)
            pushes.append(push)
        kept.apply(pushes, kept.record.version)
        kept.record.note(pushes)
        self._back.wait(self._back.send(np.array([kept.record.version]), source))
