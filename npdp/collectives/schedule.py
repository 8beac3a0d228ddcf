"""Schedules: the moves of chunks between ranks, step by step, where the receiver adds or replaces.

A buffer is cut into one chunk per rank. A schedule is a list of steps, a step a list of moves, over all ranks at
once. A rank carries out the moves that name it: in each step it begins all its sends and receives, and goes on
when they are done. Steps order a rank's own messages only; there is no barrier between them.

The same value is proven (verify.py), priced (cost.py) and carried out (execute.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Move(NamedTuple):
    """Move of chunks [start, stop) from `source` to `target`, which adds them to its own or replaces those."""

    source: int
    target: int
    start: int
    stop: int
    accumulate: bool

    @property
    def chunks(self) -> str:
        """The chunks in words: `chunk 3`, `chunks 0-3`."""
        return f"chunk {self.start}" if self.stop - self.start == 1 else f"chunks {self.start}-{self.stop - 1}"

    def __str__(self) -> str:
        if self.accumulate:
            return f"rank {self.target} adds {self.chunks} of rank {self.source}"
        return f"rank {self.target} replaces its {self.chunks} by rank {self.source}'s"


Step = list[Move]
Schedule = list[Step]


def add(source: int, target: int, start: int, stop: int | None = None) -> Move:
    """A move whose receiver adds: chunk `start`, or chunks [start, stop)."""
    return Move(source, target, start, start + 1 if stop is None else stop, True)


def put(source: int, target: int, start: int, stop: int | None = None) -> Move:
    """A move whose receiver replaces: chunk `start`, or chunks [start, stop)."""
    return Move(source, target, start, start + 1 if stop is None else stop, False)


def as_schedule(steps: object) -> Schedule:
    """Return steps as a schedule: lists of moves.

    Raises:
        TypeError: they are none.
    """
    if callable(steps):
        raise TypeError(f"wanted a schedule, which is a list of steps, got the function {steps!r}: call it")
    try:
        schedule = [list(step) for step in steps]  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"wanted a schedule, which is a list of steps, each a list of moves, got {steps!r}") from None
    for number, step in enumerate(schedule):
        for move in step:
            if not isinstance(move, Move):
                raise TypeError(f"step {number}: wanted a move, made by add(...) or put(...), got {move!r}")
    return schedule


def of_rank(schedule: Iterable[Step], rank: int) -> Iterator[tuple[list[Move], list[Move]]]:
    """Yield the (sends, receives) of one rank, step by step; steps that do not name it are left out."""
    for step in schedule:
        sends = [move for move in step if move.source == rank]
        receives = [move for move in step if move.target == rank]
        if sends or receives:
            yield sends, receives


def reversed_as_puts(steps: Iterable[Step]) -> Iterator[Step]:
    """Run a reduce-scatter backwards: each sum travels back the way its parts came, which makes an allgather."""
    for step in reversed(list(steps)):
        yield [put(move.target, move.source, move.start, move.stop) for move in step]
