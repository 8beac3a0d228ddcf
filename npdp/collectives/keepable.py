"""Whether a promise can still be kept: the first step after which no further moves could keep it.

A chunk of the sum can still be completed while some of its copies on ranks together have each contribution once.
A contribution that was overwritten is in no copy any more; one that came twice spoils what it came into.

    chunk 3 on ranks 0 .. 3    0 | 0 1 | 2 | 3      0 1 + 2 + 3     can be completed
                               0 | 1 1 | 2 | 3      1 is only where it is twice: it can not
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from npdp.collectives.contents import Content, Promise, State, counts
from npdp.collectives.schedule import Move, Schedule

MOST_PARTS = 12  # among which parts are sought that add up


class Loss(NamedTuple):
    """The first move after which a promise cannot be kept any more, and the chunk of which."""

    step: int
    move: Move
    chunk: int


def first_loss(steps: Schedule, states: Sequence[State], wanted: Promise) -> Loss | None:
    """Return where the promise was lost; None where it could still be kept after the last step."""
    ranks = range(len(wanted))
    sums = [next((chunks[chunk] for chunks in wanted if chunks[chunk] is not None), 0) or 0 for chunk in ranks]
    for number, step in enumerate(steps):
        for chunk in ranks:
            if can_be_completed([states[number + 1][rank][chunk] for rank in ranks], sums[chunk]):
                continue
            column = [states[number][rank][chunk] for rank in ranks]
            for move in (move for move in step if move.start <= chunk < move.stop):
                before = column[move.target]
                column[move.target] = states[number][move.source][chunk] + (before if move.accumulate else 0)
                if not can_be_completed(column, sums[chunk]):
                    return Loss(number, move, chunk)
    return None


def can_be_completed(column: Sequence[Content], wanted: Content) -> bool:
    """Return whether some of these contents, each taken once, add up to what is wanted.

    Of many ranks, whether each contribution is left where it could be of use: to find the parts would take for ever.
    """
    members = frozenset(counts(wanted))
    found = (counts(content) for content in column)
    usable = {frozenset(times) for times in found if max(times.values(), default=2) == 1 and members.issuperset(times)}

    if len(members) > MOST_PARTS:
        return members <= frozenset().union(*usable)

    @cache
    def covers(missing: frozenset[int]) -> bool:
        if not missing:
            return True
        first = min(missing)
        return any(covers(missing - ranks) for ranks in usable if first in ranks and ranks <= missing)

    return covers(members)
