"""Progress of ranks that each follow a schedule: whether all messages meet, or ranks wait for each other for ever.

A rank runs through its own steps, as `execute` does: it begins a step's sends and receives, and goes on when all of
them have met their other half. Between two ranks the n-th send meets the n-th receive; nothing is buffered.

Ranks that follow one schedule always get on: of those that wait, one in the earliest step has all its peers there.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from npdp.collectives.schedule import Move, Schedule, of_rank
from npdp.collectives.wrong import WrongSchedule


class Half(NamedTuple):
    """Half of a message, a send or a receive, that a rank has begun in a step of its own schedule."""

    step: int
    move: Move
    is_send: bool

    @property
    def peer(self) -> int:
        """The rank that has the other half."""
        return self.move.target if self.is_send else self.move.source

    def __str__(self) -> str:
        return f"{'take' if self.is_send else 'send'} {self.move.chunks}"  # what it waits for the peer to do


def meet(schedules: Sequence[Schedule]) -> list[Move]:
    """Return the moves in an order in which they may be carried out, where rank r follows `schedules[r]`.

    Raises:
        WrongSchedule: ranks wait for each other for ever, or a message meets another one's receive.
    """
    todo = [deque(_halves(schedule, rank)) for rank, schedule in enumerate(schedules)]
    begun: dict[tuple[int, int], tuple[deque[Half], deque[Half]]] = defaultdict(lambda: (deque(), deque()))
    open_halves: list[list[Half]] = [[] for _ in schedules]  # of the step in which a rank stands
    met: list[Move] = []
    ready = list(range(len(schedules)))
    while ready:
        rank = ready.pop()
        if open_halves[rank] or not todo[rank]:
            continue
        open_halves[rank] = todo[rank].popleft()
        for half in list(open_halves[rank]):
            sends, receives = begun[half.move.source, half.move.target]
            (sends if half.is_send else receives).append(half)
            if sends and receives:
                send, receive = sends.popleft(), receives.popleft()
                _require_same(send, receive)
                met.append(send.move)
                open_halves[send.move.source].remove(send)
                open_halves[send.move.target].remove(receive)
                ready += [end for end in (send.move.source, send.move.target) if not open_halves[end]]
    if any(open_halves):
        raise _stuck(open_halves)
    return met


def _halves(schedule: Schedule, rank: int) -> Iterator[list[Half]]:
    for number, step in enumerate(schedule):
        for sends, receives in of_rank([step], rank):
            yield [*(Half(number, move, True) for move in sends), *(Half(number, move, False) for move in receives)]


def _require_same(send: Half, receive: Half) -> None:
    if send.move != receive.move:
        raise WrongSchedule(
            f"step {send.step} of rank {send.move.source}: what it sends to rank {send.peer}, {send.move.chunks}, "
            f"meets the receive of its step {receive.step}, by which {receive.move}: "
            "between two ranks messages arrive in the order in which they are sent"
        )


def _stuck(open_halves: list[list[Half]]) -> WrongSchedule:
    """Return who waits for whom: a circle where there is one, else the way to a rank that has ended."""
    rank = next(rank for rank, halves in enumerate(open_halves) if halves)
    way: list[int] = []
    while rank not in way and open_halves[rank]:
        way.append(rank)
        rank = open_halves[rank][0].peer
    circle = way[way.index(rank) :] if rank in way else way
    waits = [(waiting, open_halves[waiting][0]) for waiting in circle]
    said = [f"rank {waiting} in step {half.step} waits for rank {half.peer} to {half}" for waiting, half in waits]
    how = "ranks wait for each other for ever, in a circle" if rank in way else "ranks wait for ever"
    end = "" if rank in way else f"; rank {rank} has nothing left to do"
    return WrongSchedule(f"{how}: {', '.join(said)}{end}", step=min(half.step for _, half in waits))
