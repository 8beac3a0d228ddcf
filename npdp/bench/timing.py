"""Timing of benchmarks.

A round is: inputs, a barrier, one call that is not counted (it leaves the ranks as far apart as such a call does,
not as a barrier does), then calls in a row between two looks at the clock, then the check. Contenders take turns within
a round, so that what else the machine does meets all alike. The slowest rank counts; of the rounds, the median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npdp.collectives.communicator import Communicator

ROUND_S = 0.010  # the calls of a round take about so long, or are one
TURNS_S = 0.25  # rounds go on until all contenders together have had so long ...
MOST_ROUNDS = 50  # ... or so many turns
LATE_S = 1.0  # after so long there are no more than must be: the machine is busier than it was when they were tried


class Contender(NamedTuple):
    """A contender in a benchmark, as this rank runs it.

    Attributes:
        name: for people.
        fill: puts the inputs there.
        warm: a small call of the same kind on other memory.
        call: what is timed.
        wrong: returns how many elements are wrong after so many calls.
        most_calls: how many in a row can be checked.
    """

    name: str
    fill: Callable[[], None]
    warm: Callable[[], Any]
    call: Callable[[], Any]
    wrong: Callable[[int], int]
    most_calls: int


class Timing(NamedTuple):
    """Measured times of one contender.

    Attributes:
        rounds_s: seconds a call, in each round, of the slowest rank.
        calls: in a row, in each round.
        errors: wrong elements over all ranks, rounds and trials.
    """

    rounds_s: list[float]
    calls: int
    errors: int

    @property
    def median_s(self) -> float:
        return statistics.median(self.rounds_s)


def time_in_turn(world: Communicator, contenders: Sequence[Contender], least_rounds: int) -> list[Timing]:
    """Time contenders side by side; collective. Returns one timing each, the same on all ranks."""
    tried = [_try(world, contender) for contender in contenders]
    turn_s = sum(seconds * calls for seconds, calls, _ in tried)
    rounds = max(least_rounds, min(MOST_ROUNDS, int(TURNS_S / turn_s)))
    taken: list[list[float]] = [[] for _ in contenders]
    errors = [wrong for _, _, wrong in tried]
    until = time.perf_counter() + LATE_S
    for done in range(rounds):
        if done >= least_rounds and world.sum(time.perf_counter() > until):
            break
        for number, (contender, (_, calls, _)) in enumerate(zip(contenders, tried)):
            seconds, wrong = _round(world, contender, calls)
            taken[number].append(seconds)
            errors[number] += wrong
    return [_over_ranks(world, seconds, calls, wrong) for seconds, (_, calls, _), wrong in zip(taken, tried, errors)]


def _try(world: Communicator, contender: Contender) -> tuple[float, int, int]:
    """Return the seconds a call, how many calls in a row make a round, and how many elements were wrong."""
    _, first_wrong = _round(world, contender, 1)  # pages, schedules and connections are made here
    seconds, wrong = _round(world, contender, 1)
    slowest = max(float(_gather(world, [seconds]).max()), 1e-9)
    calls = max(1, min(contender.most_calls, int(ROUND_S / slowest)))
    return slowest, calls, first_wrong + wrong


def _round(world: Communicator, contender: Contender, calls: int) -> tuple[float, int]:
    """Return this rank's seconds a call, and how many elements are wrong in it; collective."""
    contender.fill()
    call = contender.call
    world.barrier()
    contender.warm()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    seconds = (time.perf_counter() - start) / calls
    return seconds, contender.wrong(calls)


def _over_ranks(world: Communicator, seconds: list[float], calls: int, wrong: int) -> Timing:
    rows = _gather(world, [*seconds, wrong])
    return Timing([float(slowest) for slowest in rows[:, :-1].max(axis=0)], calls, int(rows[:, -1].sum()))


def _gather(world: Communicator, numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return every rank's numbers, (world_size, numbers); collective."""
    everything = np.zeros(world.world_size * len(numbers))
    world.allgather(np.array(numbers, np.float64), everything, "halving_doubling")
    return everything.reshape(world.world_size, len(numbers))
