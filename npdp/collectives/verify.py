"""Proves a schedule right for a world size, by running it on the set of contributions in each chunk.

Instead of numbers, a chunk on a rank holds how often each rank's contribution is in it: adding adds these counts,
putting replaces them. At the end every chunk must hold each contribution exactly once, wherever the collective
promises it. On the way it is checked that

- sends and receives pair up, with nothing buffered: a step ends when all its messages have met their other half;
- the order in which messages arrive within a step cannot matter: nobody sends a chunk that is being received,
  and no two messages of a step write the same chunk of a rank, unless both add.

Cost: O(moves x world_size); all world sizes from 1 to 64 take some seconds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np
import numpy.typing as npt

from npdp.base.partition import bounds
from npdp.collectives.schedule import Move, Schedule, of_rank

State = npt.NDArray[Any]  # (rank, chunk, contributor): how often it is in there


class WrongSchedule(ValueError):  # noqa: N818  (what is wrong is the schedule)
    """Error: a schedule does not do what its collective promises; the text says where."""


def prove(schedule: Schedule, collective: str, world_size: int, root: int = 0) -> None:
    """Raise unless the schedule keeps its collective's promise for this world size.

    Args:
        schedule: the steps, over all ranks.
        collective: allreduce, reduce_scatter, allgather or broadcast.
        world_size: the number of ranks and chunks.
        root: of a broadcast.

    Raises:
        WrongSchedule: what is wrong first.
        ValueError: there is no such collective.
    """
    state, wanted = _before_and_after(collective, world_size, root)
    for number, step in enumerate(schedule):
        _check_step(number, step, world_size)
    _check_progress(schedule, world_size)
    for step in schedule:
        sent = [state[move.source, move.start : move.stop].copy() for move in step]
        for move, content in zip(step, sent):
            if move.accumulate:
                state[move.target, move.start : move.stop] += content
            else:
                state[move.target, move.start : move.stop] = content
    wrong = np.argwhere((state != wanted) & (wanted >= 0))
    if len(wrong):
        rank, chunk, contributor = wrong[0]
        raise WrongSchedule(
            f"{collective}, {world_size} ranks: rank {rank} ends with the contribution of rank {contributor} "
            f"{state[rank, chunk, contributor]} times in chunk {chunk}, wanted {wanted[rank, chunk, contributor]}"
        )


def bytes_sent(schedule: Schedule, count: int, itemsize: int, world_size: int) -> list[int]:
    """Return the bytes that each rank sends when a buffer of `count` elements is cut by the partition law."""
    cuts = bounds(count, world_size)
    sent = [0] * world_size
    for step in schedule:
        for move in step:
            sent[move.source] += (cuts[move.stop] - cuts[move.start]) * itemsize
    return sent


def _before_and_after(collective: str, world_size: int, root: int) -> tuple[State, State]:
    """Return what chunks are made of at the beginning, and must be at the end; -1 where anything will do."""
    shape = (world_size,) * 3
    rank, chunk, contributor = np.indices(shape, sparse=True)
    after = {
        "allreduce": np.array(1),
        "reduce_scatter": np.where(rank == chunk, 1, -1),
        "allgather": np.where(contributor == chunk, 1, 0),
        "broadcast": np.where(contributor == root, 1, 0),
    }
    if collective not in after:
        raise ValueError(f"prove: no collective {collective!r}; there are {', '.join(after)}")
    own = np.where(contributor == rank, 1, 0)
    return np.broadcast_to(own, shape).copy(), np.broadcast_to(after[collective], shape)


def _check_step(number: int, step: list[Move], world_size: int) -> None:
    """Raise where a move names no rank or chunk, or where the order of arrival would matter."""
    written: dict[tuple[int, int], Move] = {}
    for move in step:
        if not (
            0 <= move.source < world_size
            and 0 <= move.target < world_size
            and move.source != move.target
            and 0 <= move.start < move.stop <= world_size
        ):
            raise WrongSchedule(f"step {number}: {move} is no move among {world_size} ranks and as many chunks")
        for chunk in range(move.start, move.stop):
            before = written.setdefault((move.target, chunk), move)
            if before is not move and not (before.accumulate and move.accumulate):
                place = f"chunk {chunk} of rank {move.target}"
                raise WrongSchedule(f"step {number}: {before} and {move} both write {place}")
    for move in step:
        for chunk in range(move.start, move.stop):
            if (move.source, chunk) in written:
                raise WrongSchedule(
                    f"step {number}: rank {move.source} sends chunk {chunk} while it receives it: "
                    f"{move} and {written[move.source, chunk]}"
                )


def _check_progress(schedule: Schedule, world_size: int) -> None:
    """Raise where ranks would wait for each other for ever, or where a message meets another one's receive.

    Every rank runs through its own steps, as `execute` does. A message meets its receive when both have begun;
    between two ranks the n-th send meets the n-th receive. A rank goes on when all messages of its step have met.
    """
    todo = [deque(of_rank(schedule, rank)) for rank in range(world_size)]
    begun: dict[tuple[int, int], tuple[deque[Move], deque[Move]]] = defaultdict(lambda: (deque(), deque()))
    open_moves = [0] * world_size  # of the step in which a rank stands: messages that have not met yet
    ready = list(range(world_size))
    while ready:
        rank = ready.pop()
        if not todo[rank]:
            continue
        sends, receives = todo[rank].popleft()
        open_moves[rank] = len(sends) + len(receives)
        for side, moves in enumerate((sends, receives)):
            for move in moves:
                channel = begun[move.source, move.target]
                channel[side].append(move)
                if channel[0] and channel[1]:
                    send, receive = channel[0].popleft(), channel[1].popleft()
                    if send != receive:
                        raise WrongSchedule(f"{send} meets the receive that {receive} has begun")
                    for end in (move.source, move.target):
                        open_moves[end] -= 1
                        if not open_moves[end]:
                            ready.append(end)
    waiting = [rank for rank in range(world_size) if open_moves[rank] or todo[rank]]
    if waiting:
        raise WrongSchedule(f"ranks {waiting} wait for each other for ever")
