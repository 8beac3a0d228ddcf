"""Ranks of an exercise: a process each, whose messages pass through the grader.

So the grader counts each message, sees who waits for whom, and needs no clock to know that nobody can go on.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any

import numpy as np

from npdp.grading.process import Asked, Process, SolutionError


class Network:
    """Ranks that call one function, each with arguments of its own.

    Attributes:
        sent: (ranks, ranks) how many numbers each rank has sent to each other.
        calls: how many all-reduces there were.
    """

    def __init__(self, processes: Sequence[Process], functions: Sequence[str]) -> None:
        """Join the processes; programs may use these of `send`, `receive` and `allreduce`."""
        self.processes, self.functions = processes, functions
        self.ranks = len(processes)
        self.sent = np.zeros((self.ranks, self.ranks), np.int64)
        self.calls = 0
        self._waits: dict[int, Asked] = {}

    def run(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call the function on all ranks; return what each returns.

        Raises:
            SolutionError: a rank raises, two messages do not fit, or nobody can go on.
        """
        for rank, (process, own) in enumerate(zip(self.processes, arguments)):
            process.begin(name, *own, rank=rank, world_size=self.ranks)
        results: dict[int, Any] = {}
        while len(results) < self.ranks:
            going = [rank for rank in range(self.ranks) if rank not in results and rank not in self._waits]
            if not going:
                raise SolutionError(self._stuck(results))
            for rank in self._heard(going):
                answer = self._next(rank)
                if isinstance(answer, Asked):
                    self._waits[rank] = answer
                else:
                    results[rank] = answer
            while any(self.settle(rank, asked) for rank, asked in list(self._waits.items()) if rank in self._waits):
                pass
        return [results[rank] for rank in range(self.ranks)]

    def settle(self, rank: int, asked: Asked) -> bool:
        """Answer what a rank asks, where that can be done now; return whether it could."""
        if asked.name not in self.functions:
            raise SolutionError(f"rank {rank} calls {asked.name}, which this exercise does without")
        if asked.name == "send":
            return self._meet(rank, asked)
        if asked.name == "allreduce":
            return self._sum()
        self._peer(rank, asked)
        return False  # of a receive: its send is what meets it

    def reply(self, rank: int, value: Any) -> None:
        """Let a rank that waits go on with this answer."""
        del self._waits[rank]
        self.processes[rank].answer(value)

    def _meet(self, rank: int, asked: Asked) -> bool:
        array, to = asked.arguments[0], self._peer(rank, asked)
        other = self._waits.get(to)
        if other is None or other.name != "receive" or self._peer(to, other) != rank:
            return False
        wanted = other.arguments[0]
        if array.size != wanted.size or array.dtype != wanted.dtype:
            raise SolutionError(
                f"rank {rank} sends {array.size} {array.dtype} to rank {to}, "
                f"which receives {wanted.size} {wanted.dtype}"
            )
        self.sent[rank, to] += array.size
        self.reply(to, array.reshape(wanted.shape))
        self.reply(rank, None)
        return True

    def _sum(self) -> bool:
        if len(self._waits) < self.ranks or any(asked.name != "allreduce" for asked in self._waits.values()):
            return False
        arrays = [self._waits[rank].arguments[0] for rank in range(self.ranks)]
        shapes = [array.shape for array in arrays]
        if len(set(shapes)) > 1:
            rank = next(rank for rank in range(self.ranks) if shapes[rank] != shapes[0])
            raise SolutionError(f"rank 0 calls allreduce with shape {shapes[0]}, rank {rank} with {shapes[rank]}")
        self.calls += 1
        total = sum(arrays[1:], start=arrays[0].copy())
        for rank in range(self.ranks):
            self.reply(rank, total)
        return True

    def _peer(self, rank: int, asked: Asked) -> int:
        peer = int(asked.arguments[1])
        if not 0 <= peer < self.ranks or peer == rank:
            raise SolutionError(f"rank {rank} of {self.ranks}: {_verb(asked)} rank {peer}, wanted another rank")
        return peer

    def _heard(self, ranks: list[int]) -> list[int]:
        """Return those of the ranks that have said something; all where none does in time, and the first will fail."""
        connections = [self.processes[rank].connection for rank in ranks]
        ready = select.select(connections, [], [], self.processes[0].limit_s)[0]
        return [rank for rank, connection in zip(ranks, connections) if connection in ready] or ranks

    def _next(self, rank: int) -> Any:
        try:
            return self.processes[rank].next()
        except SolutionError as failed:
            raise type(failed)(f"rank {rank} of {self.ranks}: {failed}" if self.ranks > 1 else str(failed)) from None

    def _stuck(self, results: dict[int, Any]) -> str:
        said = ", ".join(
            f"rank {rank} has returned" if rank in results else
            f"rank {rank} {_verb(asked)}{f' rank {asked.arguments[1]}' if len(asked.arguments) > 1 else ''}"
            for rank, asked in sorted([*self._waits.items(), *((rank, Asked("", [])) for rank in results)])
        )  # fmt: skip
        return f"all wait for ever: {said}; a send ends when its receive is there"


def _verb(asked: Asked) -> str:
    return {"send": "sends to", "receive": "receives from"}.get(asked.name, f"waits in {asked.name}")
