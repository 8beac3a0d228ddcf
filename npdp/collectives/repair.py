"""Search for the one change that makes a wrong schedule right: so a mistake can be told as what should have been.

    one move       adds instead of replacing, or the other way | left out | other chunks | another partner | put in
    a row of steps all its moves, in the same way: one chunk further, to the next rank, turned round, ...; a step more

What is found is proven, so what is told is true; it need not be the only way. Of several moves that could be put in,
the one counts that is most like the others of its step.

Cost: some thousand trials, each of the moves of a wrong chunk; so only for as few ranks as a student has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations_with_replacement
from typing import NamedTuple

from npdp.collectives.contents import Promise, once
from npdp.collectives.schedule import Move, Schedule, Step

MOST_RANKS = 12  # two seconds where nothing helps

IsRight = Callable[[Schedule], bool]
Change = Callable[[Move], "Iterable[Move | None]"]  # what a move may become


class Edit(NamedTuple):
    """A change of a schedule.

    Attributes:
        kind: what is done; see explain.py for the words.
        step, last: the first and last step that it changes.
        move: the one that is changed; None where one is put in, or whole steps are changed.
        instead: what it becomes; None where it is left out, or whole steps are changed.
        schedule: the changed one.
    """

    kind: str
    step: int
    last: int
    move: Move | None
    instead: Move | None
    schedule: Schedule


def mend(schedule: Schedule, wanted: Promise, chunks: list[int], is_right: IsRight) -> Edit | None:
    """Return the one change that makes a schedule right; None where none is found.

    Args:
        chunks: those that end wrong, ascending.
        is_right: the proof.
    """
    if len(wanted) > MOST_RANKS:
        return None

    def mends(edit: Edit) -> bool:
        return _settles(edit.schedule, chunks[0], wanted) and is_right(edit.schedule)

    everywhere = [(number, at) for number, step in enumerate(schedule) for at in range(len(step))]
    kinds = edits_of_moves(schedule, len(wanted), everywhere, chunks[0])
    if chunks[-1] - chunks[0] == len(chunks) - 1:
        kinds.append(_put_in(schedule, len(wanted), chunks[0], chunks[-1] + 1))
    for edits in kinds:
        if found := list(filter(mends, edits)):
            return max(found, key=lambda edit: _likeness(schedule, edit, len(wanted)))
    return next(filter(mends, _edits_of_steps(schedule, len(wanted))), None)


def _settles(schedule: Schedule, chunk: int, wanted: Promise) -> bool:
    """Return whether a chunk ends as promised: a quick look, before the whole is proven."""
    content = [once([rank]) for rank in range(len(wanted))]
    for step in schedule:
        moves = [move for move in step if move.start <= chunk < move.stop]
        for move, sent in zip(moves, [content[move.source] for move in moves]):
            content[move.target] = sent + (content[move.target] if move.accumulate else 0)
    return all(chunks[chunk] in (None, got) for got, chunks in zip(content, wanted))


# One move
def edits_of_moves(
    schedule: Schedule, world_size: int, places: Sequence[tuple[int, int]], chunk: int
) -> list[Iterator[Edit]]:
    """Return changes of one of the moves at these places, (step, index), for this chunk: the likelier kind first."""

    def each(kind: str, change: Change) -> Iterator[Edit]:
        return _each(schedule, places, kind, change, chunk)

    return [
        each("leave out", lambda move: [None]),
        each("turn into the other kind", _flipped),
        each("other chunks", lambda move: _other_chunks(move, world_size)),
        chain(
            each("another target", lambda move: _others(move, "target", world_size)),
            each("another source", lambda move: _others(move, "source", world_size)),
            each("turn round", _turned),
        ),
    ]


def _each(
    schedule: Schedule, places: Iterable[tuple[int, int]], kind: str, change: Change, chunk: int
) -> Iterator[Edit]:
    for number, at in places:
        step = schedule[number]
        for instead in change(step[at]):
            if step[at].start <= chunk < step[at].stop or (instead and instead.start <= chunk < instead.stop):
                new = [*step[:at], *([] if instead is None else [instead]), *step[at + 1 :]]
                changed = [*schedule[:number], new, *schedule[number + 1 :]]
                yield Edit(kind, number, number, step[at], instead, changed)


def _flipped(move: Move) -> list[Move]:
    return [move._replace(accumulate=not move.accumulate)]


def _turned(move: Move) -> list[Move]:
    return [move._replace(source=move.target, target=move.source)]


def _other_chunks(move: Move, world_size: int) -> list[Move]:
    length = move.stop - move.start
    starts = [start for start in range(world_size - length + 1) if start != move.start]
    return [move._replace(start=start, stop=start + length) for start in starts]


def _others(move: Move, end: str, world_size: int) -> list[Move]:
    ranks = [rank for rank in range(world_size) if rank not in (move.source, move.target)]
    return [move._replace(source=rank) if end == "source" else move._replace(target=rank) for rank in ranks]


def _put_in(schedule: Schedule, world_size: int, start: int, stop: int) -> Iterator[Edit]:
    """Yield each way to put in a move of these chunks, also in a step after the last."""
    for number in range(len(schedule) + 1):
        step = schedule[number] if number < len(schedule) else []
        for source in range(world_size):
            for target in range(world_size):
                for accumulate in (True, False) if source != target else ():
                    move = Move(source, target, start, stop, accumulate)
                    changed = [*schedule[:number], [*step, move], *schedule[number + 1 :]]
                    yield Edit("put in", number, number, None, move, changed)


def _likeness(schedule: Schedule, edit: Edit, world_size: int) -> tuple[float, int]:
    """Return how much more a step's moves are alike after an edit: what stands out was wrong, what fits in is missing.

    Of two alike an earlier one is better; but of two that do the same, the later is the one too many.
    """
    step = schedule[edit.step] if edit.step < len(schedule) else []
    others = [move for move in step if move is not edit.move]
    before = _fit(edit.move, others, world_size) if edit.move else 0.0
    if edit.instead is None:
        return -before, edit.step
    if edit.step == len(schedule):
        return 2.0, -edit.step
    return _fit(edit.instead, others, world_size) - before, -edit.step


def _fit(move: Move, others: Step, world_size: int) -> float:
    """Return how well a move fits in with others of a step: as far, as long, the way back, by a rank that is free."""
    if not others:
        return 2.0 * world_size  # a step without a move lacks one

    def like(other: Move) -> int:
        if other.accumulate != move.accumulate:
            return 0
        is_as_long = other.stop - other.start == move.stop - move.start
        is_as_far = (other.target - other.source - move.target + move.source) % world_size == 0
        is_way_back = (other.source, other.target) == (move.target, move.source)
        return is_as_long + 2 * is_as_far + 4 * is_way_back

    is_free = all(other.source != move.source for other in others)
    return sum(map(like, others)) / len(others) + is_free


# A row of steps
def _edits_of_steps(schedule: Schedule, world_size: int) -> Iterator[Edit]:
    """Yield changes of all moves of a row of steps at once: short rows first."""
    for number in reversed(range(len(schedule))):
        yield Edit("leave out the step", number, number, None, None, [*schedule[:number], *schedule[number + 1 :]])
    for number in range(len(schedule) - 1):
        swapped = [*schedule[:number], schedule[number + 1], schedule[number], *schedule[number + 2 :]]
        yield Edit("exchange", number, number + 1, None, None, swapped)
    rows = list(combinations_with_replacement(range(len(schedule)), 2))
    for first, last in sorted(rows, key=lambda row: row[1] - row[0]):
        for kind, change in _ALIKE.items():
            new = [[change(move, world_size) for move in step] for step in schedule[first : last + 1]]
            yield Edit(kind, first, last, None, None, [*schedule[:first], *new, *schedule[last + 1 :]])
    for number in range(len(schedule) + 1):
        for new_step in _steps_like(schedule[max(0, number - 1) : number + 1], world_size):
            yield Edit("a step more", number, number, None, None, [*schedule[:number], new_step, *schedule[number:]])


def _steps_like(neighbours: list[Step], world_size: int) -> Iterator[Step]:
    for step in neighbours:
        for shift in range(-1, 2):
            yield [_shifted(move, world_size, shift) for move in step]


def _shifted(move: Move, world_size: int, shift: int) -> Move:
    start = (move.start + shift) % world_size
    return move._replace(start=start, stop=start + move.stop - move.start)


def _to_neighbour(move: Move, world_size: int, shift: int) -> Move:
    return move._replace(target=(move.target + shift) % world_size)


_ALIKE: dict[str, Callable[[Move, int], Move]] = {
    "turn all into the other kind": lambda move, world_size: _flipped(move)[0],
    "one chunk less": lambda move, world_size: _shifted(move, world_size, -1),
    "one chunk more": lambda move, world_size: _shifted(move, world_size, 1),
    "to the rank before": lambda move, world_size: _to_neighbour(move, world_size, -1),
    "to the rank after": lambda move, world_size: _to_neighbour(move, world_size, 1),
    "turn all round": lambda move, world_size: _turned(move)[0],
}
