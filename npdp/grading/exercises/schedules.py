"""Checks that the exercises on schedules share: proven, priced, and timed beside npdp's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import npdp
from npdp.collectives.schedule import Move, Schedule
from npdp.collectives.verify import WrongSchedule, bytes_sent, prove
from npdp.grading.grading import Grading
from npdp.grading.process import SolutionError

TIMED_RANKS, TIMED_COUNT, TIMES, TRIES = 4, 1 << 18, 9, 3
SLOWEST = 2.0  # of npdp's own time
Sizes = Callable[[Grading], list[int]]


def schedule(grading: Grading, name: str, world_size: int) -> Schedule:
    """Return the schedule that a student's function makes; SolutionError where it makes none."""
    steps = grading.program.call(name, world_size)
    what = f"{name}({world_size})"
    if not isinstance(steps, list):
        raise SolutionError(f"{what} returned {steps!r}, wanted a list of steps, or a generator (yield)")
    return [_step(f"{what}, step {number}", step) for number, step in enumerate(steps)]


def _step(where: str, step: Any) -> list[Move]:
    if not isinstance(step, list):
        raise SolutionError(f"{where}: wanted a list of moves, got {step!r}")
    for move in step:
        right = isinstance(move, list) and len(move) == 5 and all(type(number) is int for number in move[:4])
        if not right or not isinstance(move[4], bool):
            raise SolutionError(f"{where}: wanted moves, made by add(...) or put(...), got {move!r}")
    return [Move(*move) for move in step]


def proven(name: str, sizes: Sizes) -> Callable[[Grading], None]:
    """Return a check: each schedule is an all-reduce, from the smallest number of ranks on."""

    def check(grading: Grading) -> None:
        for ranks in sizes(grading):
            try:
                prove(schedule(grading, name, ranks), "allreduce", ranks)
            except (WrongSchedule, ValueError) as wrong:
                raise SolutionError(f"{ranks} ranks: {wrong}") from None

    return check


def steps_at_most(name: str, sizes: Sizes, most: Callable[[int], int], formula: str) -> Callable[[Grading], None]:
    """Return a check: a schedule has few steps that move anything."""

    def check(grading: Grading) -> None:
        for ranks in sizes(grading):
            steps = len([step for step in schedule(grading, name, ranks) if step])
            if steps > most(ranks):
                raise SolutionError(f"{ranks} ranks: {steps} steps, wanted at most {most(ranks)}, which is {formula}")

    return check


def bytes_at_most(name: str, sizes: Sizes) -> Callable[[Grading], None]:
    """Return a check: no rank sends more than 2 (P - 1) of P chunks."""

    def check(grading: Grading) -> None:
        for ranks in sizes(grading):
            sent = bytes_sent(schedule(grading, name, ranks), ranks, 1, ranks)
            if max(sent) > 2 * (ranks - 1):
                raise SolutionError(
                    f"{ranks} ranks: rank {int(np.argmax(sent))} sends {max(sent)} chunks, wanted at most "
                    f"{2 * (ranks - 1)}, which is 2 (P - 1)"
                )

    return check


def as_quick(name: str) -> Callable[[Grading], None]:
    """Return a check: carried out by npdp it takes at most twice the time of npdp's own, on this machine, now.

    The grader carries it out and reads its own clock; where it was disturbed it tries again.
    """

    def check(grading: Grading) -> None:
        theirs = schedule(grading, name, TIMED_RANKS)
        ratio = min(_ratio(name, theirs) for _ in range(TRIES))
        if ratio > SLOWEST:
            raise SolutionError(f"{ratio:.1f} times as long as npdp's own takes here, wanted at most {SLOWEST:g} times")

    return check


def _ratio(name: str, theirs: Schedule) -> float:
    def made(world_size: int) -> Schedule:
        return theirs

    def program() -> dict[Any, float]:
        buffer, least = np.ones(TIMED_COUNT, np.float32), {made: float("inf"), name: float("inf")}
        for _ in range(TIMES):
            for algorithm in (name, made):
                npdp.barrier()
                begun = time.perf_counter()
                npdp.allreduce(buffer, algorithm=algorithm)
                least[algorithm] = min(least[algorithm], time.perf_counter() - begun)
                buffer[...] = 1
        return least

    least = npdp.run_ranks(TIMED_RANKS, program)[0]
    return least[made] / least[name]


def small_and_drawn(grading: Grading) -> list[int]:
    """All numbers of ranks from 1 to 12, and three drawn up to 40."""
    return [*range(1, 13), *sorted(int(ranks) for ranks in grading.random.integers(13, 41, 3))]


def powers_of_two(grading: Grading) -> list[int]:
    """1, 2, 4, ... 64."""
    return [1 << power for power in range(7)]
