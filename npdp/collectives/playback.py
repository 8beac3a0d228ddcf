"""Playback of a schedule as plain data, for a page that plays it: what `json.dumps` takes, step by step.

    collective, ranks, root, nbytes
    proven        whether it is right; `sentence`, `picture` and `step` say what is wrong
    promised      [rank][chunk]: whose contributions must be there at the end; null where anything will do
    least_bytes   what the rank that sends most must at least send
    beginning     [rank][chunk]: whose contributions are there, {"0": 1} once rank 0's
    steps         moves; contents after it; bytes that each rank has sent so far; seconds so far by the cost model

It is made of the schedule that is proven and carried out. Of a wrong one, in which two moves of a step write a chunk,
the later in the step's list counts as the later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from npdp.collectives.contents import Content, Promise, State, counts, promise, require_among, run
from npdp.collectives.cost import LEAST_SENT, price_of_steps, shapes_of
from npdp.collectives.machine import Machine
from npdp.collectives.schedule import Move, Schedule, as_schedule
from npdp.collectives.verify import WrongSchedule, bytes_sent, prove

Json = dict[str, Any]


def playback(
    schedule: Iterable[Iterable[Move]],
    collective: str,
    world_size: int,
    machine: Machine,
    root: int = 0,
    nbytes: int = 1 << 20,
) -> Json:
    """Return the run of a schedule, step by step.

    Args:
        schedule: the steps, over all ranks; also a wrong one.
        collective: allreduce, reduce_scatter, allgather or broadcast.
        machine: whose constants say what a step takes; all ranks are on one host.
        root: of a broadcast.
        nbytes: of the buffer, cut by the partition law as bytes.

    Raises:
        ValueError: there is no such collective, or a move names a rank or chunk that there is not.
        TypeError: this is no schedule.
    """
    wanted, steps = promise(collective, world_size, root), as_schedule(schedule)
    require_among("playback", steps, world_size)
    states = run(steps, world_size)
    rows = zip(steps, states[1:], _bytes(steps, nbytes, world_size), _seconds(steps, nbytes, world_size, machine))
    return {
        "collective": collective,
        "ranks": world_size,
        "root": root if collective == "broadcast" else None,
        "nbytes": nbytes,
        **_verdict(steps, collective, world_size, root),
        "promised": _whose(wanted),
        "least_bytes": round(LEAST_SENT[collective](world_size) * nbytes) if world_size > 1 else 0,
        "beginning": _whose(states[0]),
        "steps": [
            {"moves": [move._asdict() for move in step], "contents": _whose(state), "bytes": sent, "seconds": seconds}
            for step, state, sent, seconds in rows
        ],
    }


def _verdict(steps: Schedule, collective: str, world_size: int, root: int) -> Json:
    try:
        prove(steps, collective, world_size, root)
    except WrongSchedule as error:
        return {"proven": False, "sentence": error.sentence, "picture": error.picture, "step": error.step}
    return {"proven": True, "sentence": "", "picture": "", "step": None}


def _whose(state: State | Promise) -> list[list[dict[str, int] | None]]:
    def as_json(content: Content | None) -> dict[str, int] | None:
        return None if content is None else {str(rank): times for rank, times in counts(content).items()}

    return [[as_json(content) for content in chunks] for chunks in state]


def _bytes(steps: Schedule, nbytes: int, world_size: int) -> list[list[int]]:
    """Return how many bytes each rank has sent by the end of each step."""
    of_steps = (bytes_sent([step], nbytes, 1, world_size) for step in steps)
    return list(accumulate(of_steps, lambda before, of_step: [old + new for old, new in zip(before, of_step)]))


def _seconds(steps: Schedule, nbytes: int, world_size: int, machine: Machine) -> list[float]:
    """Return the seconds from the call's beginning to the end of each step; a step without moves takes none."""
    shapes = shapes_of(steps, (0,) * world_size)
    now, found = machine.call_s, []
    for step in steps:
        if step:
            now += price_of_steps(Counter([next(shapes)]), nbytes / world_size, machine)
        found.append(now)
    return found
