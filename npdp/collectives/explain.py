"""Tells what is wrong with a schedule: the first wrong step and move, and what they should have been.

    a race             two moves of a step of which the order of arrival matters
    one change         the move, or steps, that would make all of it right, where there is such a change (repair.py)
    a loss             else, the first move after which the promise cannot be kept any more (keepable.py)
    too few steps      else, what is missing at the end, and where it was last

Each sentence comes with a picture: the chunks of the ranks concerned, before and after that step.
"""

from __future__ import annotations

from collections.abc import Sequence

from npdp.base.words import ranks_in_words
from npdp.collectives.contents import Promise, State, broken, counts, run
from npdp.collectives.corrections import already, contributions, correction, lost
from npdp.collectives.keepable import MOST_PARTS, Loss, first_loss
from npdp.collectives.picture import before_and_after
from npdp.collectives.repair import MOST_RANKS, Edit, IsRight, edits_of_moves, mend
from npdp.collectives.schedule import Move, Schedule
from npdp.collectives.wrong import WrongSchedule

MOST_PLACES = 8  # in a picture
Place = tuple[int, int]  # (rank, chunk)


def no_move(number: int, move: Move, world_size: int) -> WrongSchedule:
    """Return the error of a move that names no rank or chunk."""
    for end, rank in (("from", move.source), ("to", move.target)):
        if not 0 <= rank < world_size:
            why = f"goes {end} rank {rank}: ranks are 0 to {world_size - 1}, is a % world_size missing?"
            break
    else:
        if move.source == move.target:
            why = f"goes from rank {move.source} to itself"
        elif move.start >= move.stop:
            why = f"carries no chunk: [{move.start}, {move.stop})"
        else:
            why = f"carries {move.chunks}: chunks are 0 to {world_size - 1}, is a % world_size missing?"
    return WrongSchedule(f"step {number}: {tuple(move[:4])} is no move among {world_size} ranks: it {why}", step=number)


def race(
    steps: Schedule, number: int, pair: tuple[Move, Move], chunk: int, world_size: int, is_right: IsRight
) -> WrongSchedule:
    """Return the error of two moves of a step of which the order matters.

    Args:
        pair: the second one writes the chunk that the first one writes too, or sends.
    """
    first, second = pair
    if first.target == second.target:
        said = f"{first} and {second}: which of them writes chunk {chunk} of rank {second.target} last is chance"
    else:
        said = (
            f"rank {first.source} sends chunk {chunk} to rank {first.target} while it receives it, for {second}: "
            "whether it sends the old or the new one is chance"
        )
    places = [(number, at) for at, move in enumerate(steps[number]) if move in pair]
    kinds = edits_of_moves(steps, world_size, places, chunk) if world_size <= MOST_RANKS else []
    edit = next((edit for edits in kinds for edit in edits if is_right(edit.schedule)), None)
    cure = f"; it would be right if {_changed(edit)}" if edit else ""
    ranks = dict.fromkeys((first.source, second.source, second.target))
    picture = before_and_after(run(steps[:number], world_size), number, [(rank, chunk) for rank in ranks])
    return WrongSchedule(f"step {number}: {said}{cure}", picture, number, edit.schedule if edit else None)


def _changed(edit: Edit) -> str:
    if edit.instead is None:
        return f"there were no move by which {edit.move}"
    return f"instead of the move by which {edit.move}, {edit.instead}"


def broken_promise(
    heading: str, steps: Schedule, states: Sequence[State], wanted: Promise, is_right: IsRight
) -> WrongSchedule:
    """Return the error of chunks that end with other contents than are promised.

    Args:
        heading: which collective, on how many ranks.
        states: before the first step and after each.
        is_right: the proof, for what is tried instead.
    """
    wrong = broken(states[-1], wanted)
    chunks = sorted({chunk for _, chunk in wrong})
    end = _outcome(states[-1], wanted, *wrong[0])
    edit = mend(steps, wanted, chunks, is_right)
    if edit is not None:
        said, step, mended = correction(edit, steps, states, chunks[0]), edit.step, edit.schedule
        places = _places_of(edit, steps, chunks) if edit.step < len(steps) else wrong
    elif (loss := first_loss(steps, states, wanted)) is not None:
        said, step, mended = _told(loss, states), loss.step, None
        places = [(rank, loss.chunk) for rank in (loss.move.source, loss.move.target)]
    else:
        said, step, mended = _unfinished(len(steps), states[-1], wanted, wrong[0]), len(steps), None
        places = wrong
    picture = before_and_after(states, step, places[:MOST_PLACES])
    return WrongSchedule(f"{heading}: {said}. So {end}", picture, step, mended)


def _outcome(state: State, wanted: Promise, rank: int, chunk: int) -> str:
    """Return how a chunk ends that ends wrong."""
    there, promised = counts(state[rank][chunk]), counts(wanted[rank][chunk] or 0)
    faults = []
    if missing := [other for other in promised if other not in there]:
        faults.append(f"without {contributions(missing)}")
    if strange := [other for other in there if other not in promised]:
        faults.append(f"with {contributions(strange)}, which should not be there,")
    if twice := [other for other in promised if there.get(other, 1) > 1]:
        often = "twice" if all(there[other] == 2 for other in twice) else "several times"
        faults.append(f"with {contributions(twice)} {often}")
    return f"rank {rank} ends {' and '.join(faults)} in chunk {chunk}"


def _places_of(edit: Edit, steps: Schedule, chunks: Sequence[int]) -> list[Place]:
    """Return the places that a picture of a correction shows: of whole steps, those of the first move."""
    moves = [move for move in (edit.move, edit.instead) if move is not None]
    moves = moves or [*steps[edit.step], *edit.schedule[edit.step]][:1]
    ends = [
        (rank, chunk) for move in moves for chunk in range(move.start, move.stop) for rank in (move.source, move.target)
    ]
    return list(dict.fromkeys(place for place in ends if place[1] in chunks or not edit.move))


def _told(loss: Loss, states: Sequence[State]) -> str:
    """Return the sentence of the first move after which the promise cannot be kept any more."""
    if loss.move.accumulate:
        has = already(loss.move, states, loss.step, loss.chunk)
        why = f" once more: {has}" if has else ""
    else:
        gone = lost(loss.move, states, loss.step, loss.chunk)
        why = f", by which {contributions(gone)} in it {'are' if len(gone) > 1 else 'is'} overwritten" if gone else ""
    return f"step {loss.step}: {loss.move}{why}; after that chunk {loss.chunk} of the result cannot be had any more"


def _unfinished(steps: int, state: State, wanted: Promise, place: Place) -> str:
    """Return what is still missing at the end, and where it was last."""
    rank, chunk = place
    promised = wanted[rank][chunk]
    after = f"the last one is step {steps - 1}" if steps else "there are none"
    if len(wanted) <= MOST_PARTS:  # else that the promise can still be kept is not certain
        after = f"too few steps: {after}"
    if whole := [other for other, chunks in enumerate(state) if chunks[chunk] == promised]:
        return f"{after}, and chunk {chunk}, complete on {ranks_in_words(whole)}, has not come to rank {rank}"
    there, needed = counts(state[rank][chunk]), counts(promised or 0)
    missing = [other for other in needed if other not in there]
    if not missing:
        return f"{after}, and chunk {chunk} of rank {rank} is to be replaced"
    holders = [other for other, chunks in enumerate(state) if missing[0] in counts(chunks[chunk])]
    return f"{after}, and chunk {chunk} of rank {missing[0]} has come no further than {ranks_in_words(holders)}"
