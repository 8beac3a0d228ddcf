"""Carries out a schedule over a transport: one loop for all algorithms.

A chunk travels in segments. In each step a rank begins its sends, then takes what comes in the schedule's order,
with the next segment under way while it adds the last. Nothing is copied but what must be added: that arrives in a
scratch segment.

Of a long row of sends to one peer only SENDS_AHEAD are under way, as MPI is slow with thousands: one more is begun with
each segment that was taken, and then with each that has gone. Nobody waits for ever: the i-th send waits for the
(i - SENDS_AHEAD)-th segment to be taken, which is at most that far along its sender's row.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from npdp import kernels
from npdp.base.partition import bounds
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.schedule import Move, Step, of_rank
from npdp.comm.call import Call
from npdp.comm.failures.call_log import LoggedCall
from npdp.comm.transport import Buffer, Transport

SENDS_AHEAD = 16  # 4 to 64 are alike from 64 MB on; all sends at once take twice as long
SEGMENT_BYTES = 256 * 1024  # fits in a core's second-level cache beside what it is added to


class Segment(NamedTuple):
    """Segment of a buffer: elements [start, stop), sent to or received from `peer`."""

    peer: int
    start: int
    stop: int
    accumulate: bool


class RankStep(NamedTuple):
    """One rank's share of a step."""

    sends: list[Segment]
    receives: list[Segment]


@lru_cache(maxsize=1024)
def rank_steps(
    collective: str,
    algorithm: str,
    world_size: int,
    rank: int,
    count: int,
    itemsize: int,
    root: int = 0,
    among: tuple[int, ...] | None = None,
) -> list[RankStep]:
    """Return what `rank` has to do for a buffer of `count` elements, cut into segments.

    Args:
        root: of a broadcast.
        among: the ranks of the world that take part, where not all do: `world_size` of them; `rank` is an index of it.
    """
    maker = SCHEDULES[collective][algorithm]
    schedule = maker(world_size, root) if collective == "broadcast" else maker(world_size)
    return cut_steps(schedule, rank, bounds(count, world_size), itemsize, among or range(world_size))


def cut_steps(
    schedule: Iterable[Step], rank: int, cuts: Sequence[int], itemsize: int, ranks: Sequence[int]
) -> list[RankStep]:
    """Return what `rank` has to do, in segments: chunk c is elements [cuts[c], cuts[c + 1]), peer r is `ranks[r]`."""
    length = max(1, SEGMENT_BYTES // itemsize)

    def segments(move: Move, peer: int) -> Iterator[Segment]:
        for start in range(cuts[move.start], cuts[move.stop], length):
            yield Segment(ranks[peer], start, min(start + length, cuts[move.stop]), move.accumulate)

    return [
        RankStep(
            [segment for move in sends for segment in segments(move, move.target)],
            [segment for move in receives for segment in segments(move, move.source)],
        )
        for sends, receives in of_rank(schedule, rank)
    ]


def execute(steps: list[RankStep], transport: Transport, buffer: Buffer, call: Call) -> None:
    """Carry out this rank's steps on `buffer`, 1-D and contiguous, in place; collective.

    Args:
        call: what that is, the same on every rank.

    Raises:
        CommunicationError: another rank calls something else, or has left.
    """
    with transport.calls:
        for message in messages(steps, transport, buffer, call.op, transport.calls.begin(call)):
            transport.wait(message)


def messages(
    steps: list[RankStep],
    transport: Transport,
    buffer: Buffer,
    op: str,
    call: LoggedCall,
    meanwhile: Iterator[None] | None = None,
) -> Iterator[Any]:
    """Carry out this rank's steps as `execute` does, but yield each message before it must be waited for.

    Args:
        call: that these messages belong to.
        meanwhile: other work; in each step it goes on once, when the step's first sends have begun.
    """
    scratch, op = tuple(_here.memory.view(buffer.dtype)), elementwise(op)
    try:
        for sends, receives in steps:
            begun = (transport.send(buffer[segment.start : segment.stop], segment.peer, call) for segment in sends)
            sending = deque(islice(begun, _ahead(sends)))
            if meanwhile is not None:
                next(meanwhile, None)
            under_way: deque[tuple[Segment, Buffer, Any]] = deque()
            for number, segment in enumerate(receives):
                into = buffer[segment.start : segment.stop]
                if segment.accumulate:
                    into = scratch[number % 2][: into.size]
                under_way.append((segment, into, transport.receive(into, segment.peer, call)))
                if len(under_way) == 2:
                    yield from _take(under_way.popleft(), buffer, op)
                    sending.extend(islice(begun, 1))
            while under_way:
                yield from _take(under_way.popleft(), buffer, op)
            while sending:
                yield sending.popleft()
                sending.extend(islice(begun, 1))
    except BaseException:  # or this iterator was closed: nobody waits for what is under way
        transport.calls.keep(buffer, scratch)
        _here.renew()
        raise


def _ahead(sends: list[Segment]) -> int:
    """Return how many sends are begun before anything is taken: all, where peers that wait could do so in a circle."""
    one_peer = len(sends) > SENDS_AHEAD and len({segment.peer for segment in sends}) == 1
    return SENDS_AHEAD if one_peer else len(sends)


def elementwise(op: str) -> str:
    """Return what an op does to two elements: a mean adds them, for the caller divides."""
    return "sum" if op == "mean" else op


def _take(arriving: tuple[Segment, Buffer, Any], buffer: Buffer, op: str) -> Iterator[Any]:
    """Yield the message; when it has come, add the segment where it is to be added."""
    segment, into, message = arriving
    yield message
    if segment.accumulate:
        kernels.accumulate(buffer[segment.start : segment.stop], into, op)


class _Scratch(threading.local):  # two segments to receive into; ranks may be threads
    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Have other memory from now on: messages may still be written to what was."""
        self.memory = np.empty((2, SEGMENT_BYTES), np.uint8)


_here = _Scratch()
