"""Proves a schedule right for a world size, by running it on the set of contributions in each chunk.

Instead of numbers, a chunk on a rank holds how often each rank's contribution is in it (contents.py): adding adds these
counts, putting replaces them. At the end every chunk must hold each contribution exactly once, wherever the collective
promises it. On the way it is checked that

- sends and receives pair up, with nothing buffered: a step ends when all its messages have met their other half
  (progress.py);
- the order in which messages arrive within a step cannot matter: nobody sends a chunk that is being received,
  and no two messages of a step write the same chunk of a rank, unless both add.

What is wrong is told by the first step and move that are, and what they should have been (explain.py).

Cost: O(moves x world_size); all world sizes from 1 to 64 take some seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from npdp.base.partition import bounds
from npdp.collectives import explain
from npdp.collectives.contents import Promise, broken, promise, run
from npdp.collectives.progress import meet
from npdp.collectives.schedule import Move, Schedule, Step, as_schedule
from npdp.collectives.wrong import WrongSchedule as WrongSchedule


def prove(schedule: Iterable[Iterable[Move]], collective: str, world_size: int, root: int = 0) -> None:
    """Raise unless the schedule keeps its collective's promise for this world size.

    Args:
        schedule: the steps, over all ranks.
        collective: allreduce, reduce_scatter, allgather or broadcast.
        world_size: the number of ranks and chunks.
        root: of a broadcast.

    Raises:
        WrongSchedule: the first step and move that are wrong, and what they should have been.
        ValueError: there is no such collective.
        TypeError: this is no schedule.
    """
    wanted, steps = promise(collective, world_size, root), as_schedule(schedule)
    _check_steps(steps, wanted)
    meet([steps] * world_size)
    _check_promise(f"{collective}, {world_size} ranks", steps, wanted)


def prove_each(schedules: Sequence[Iterable[Iterable[Move]]], collective: str, root: int = 0) -> None:
    """Raise unless ranks that each follow a schedule of their own keep the promise: rank r follows `schedules[r]`.

    A rank carries out those moves that name it. As `prove`, but ranks may wait for each other for ever here, which is
    told as a circle. Where messages all meet and contents are wrong, each message counts as a step.
    """
    wanted = promise(collective, len(schedules), root)
    own = [
        [[move for move in step if rank in (move.source, move.target)] for step in as_schedule(schedule)]
        for rank, schedule in enumerate(schedules)
    ]
    for steps in own:
        _check_steps(steps, wanted)
    heading = f"{collective}, {len(schedules)} ranks (each message is a step)"
    _check_promise(heading, [[move] for move in meet(own)], wanted)


def bytes_sent(schedule: Schedule, count: int, itemsize: int, world_size: int) -> list[int]:
    """Return the bytes that each rank sends when a buffer of `count` elements is cut by the partition law."""
    cuts = bounds(count, world_size)
    sent = [0] * world_size
    for step in schedule:
        for move in step:
            sent[move.source] += (cuts[move.stop] - cuts[move.start]) * itemsize
    return sent


def _check_steps(steps: Schedule, wanted: Promise) -> None:
    """Raise where a move names no rank or chunk, or where the order of arrival would matter."""
    for number, step in enumerate(steps):
        for move in step:
            if not _is_among(move, len(wanted)):
                raise explain.no_move(number, move, len(wanted))
    for number, step in enumerate(steps):
        if found := race(step):
            raise explain.race(steps, number, *found, len(wanted), lambda changed: _is_right(changed, wanted))


def _is_among(move: Move, world_size: int) -> bool:
    ranks = range(world_size)
    ends = move.source in ranks and move.target in ranks and move.source != move.target
    return ends and 0 <= move.start < move.stop <= world_size


def race(step: Step) -> tuple[tuple[Move, Move], int] | None:
    """Return two moves of a step of which the order matters, and the chunk; None where there are none.

    The second one writes the chunk that the first one writes too, or sends.
    """
    written: dict[tuple[int, int], Move] = {}
    for move in step:
        for chunk in range(move.start, move.stop):
            before = written.setdefault((move.target, chunk), move)
            if before is not move and not (before.accumulate and move.accumulate):
                return (before, move), chunk
    for move in step:
        for chunk in range(move.start, move.stop):
            if (move.source, chunk) in written:
                return (move, written[move.source, chunk]), chunk
    return None


def _check_promise(heading: str, steps: Schedule, wanted: Promise) -> None:
    """Raise where chunks end with other contents than are promised."""
    states = run(steps, len(wanted))
    if broken(states[-1], wanted):
        raise explain.broken_promise(heading, steps, states, wanted, lambda changed: _is_right(changed, wanted))


def _is_right(steps: Schedule, wanted: Promise) -> bool:
    """Return whether a schedule that all ranks share keeps the promise."""
    if any(not _is_among(move, len(wanted)) for step in steps for move in step) or any(map(race, steps)):
        return False
    return not broken(run(steps, len(wanted))[-1], wanted)
