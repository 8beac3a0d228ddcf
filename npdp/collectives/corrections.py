"""Words for a correction of a schedule: which move, or steps, are wrong, why, and what they should have been."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from npdp.base.words import ranks_in_words
from npdp.collectives.contents import State, counts
from npdp.collectives.repair import Edit
from npdp.collectives.schedule import Move, Schedule


def contributions(ranks: Iterable[int]) -> str:
    """Return whose contributions these are: `the contribution of rank 1`."""
    found = sorted(ranks)
    return f"the contribution{'s' * (len(found) != 1)} of {ranks_in_words(found)}"


def correction(edit: Edit, steps: Schedule, states: Sequence[State], chunk: int) -> str:
    """Return the sentence of a correction.

    Args:
        edit: of `steps`; makes them right.
        states: before the first step and after each.
        chunk: one that ends wrong.
    """
    if edit.move is not None:
        if not edit.move.start <= chunk < edit.move.stop:
            chunk = edit.move.start
        return f"step {edit.step}: {_OF_MOVES[edit.kind](edit.move, edit, states, chunk)}"
    if edit.kind == "put in":
        return _put_in(edit, steps)
    where = f"step {edit.step}" if edit.step == edit.last else f"steps {edit.step} to {edit.last}"
    return f"{where}: {_OF_STEPS[edit.kind](edit, steps)}"


# One move
def already(move: Move, states: Sequence[State], step: int, chunk: int) -> str:
    """Return what of a move's contributions its target has, and since when; empty where it has none."""
    mine = counts(states[step][move.target][chunk])
    both = set(counts(states[step][move.source][chunk])) & set(mine)
    if not both:
        return ""
    since = step
    while since and both <= set(counts(states[since - 1][move.target][chunk])):
        since -= 1
    return f"it already has {contributions(both)}, {f'from step {since - 1}' if since else 'from the beginning'}"


def lost(move: Move, states: Sequence[State], step: int, chunk: int) -> list[int]:
    """Return whose contributions in the target's chunk a move overwrites by a content that lacks them."""
    sent = counts(states[step][move.source][chunk])
    return [rank for rank in counts(states[step][move.target][chunk]) if rank not in sent]


def _left_out(move: Move, edit: Edit, states: Sequence[State], chunk: int) -> str:
    if move.accumulate:
        has = already(move, states, edit.step, chunk)
        sent = counts(states[edit.step][move.source][chunk])
        why = f" once more: {has}" if has else f": {contributions(sent)} should not be there"
    else:
        gone = lost(move, states, edit.step, chunk)
        why = f": {_overwritten(gone)}" if gone else ", which is not what it should end with"
    return f"{move}{why}; this move should not be there"


def _overwritten(gone: Sequence[int]) -> str:
    return f"{contributions(gone)} in it {'are' if len(gone) > 1 else 'is'} overwritten"


def _other_kind(move: Move, edit: Edit, states: Sequence[State], chunk: int) -> str:
    if move.accumulate:
        has = already(move, states, edit.step, chunk)
        return f"{move}{f' once more: {has}' if has else ' to its own'}; it should replace its own by it"
    gone = lost(move, states, edit.step, chunk)
    return f"{move}: {_overwritten(gone)}; it should add" if gone else f"{move}; it should add"


def _should_be(described: Callable[[Move, Move], str]) -> Callable[[Move, Edit, Sequence[State], int], str]:
    def words(move: Move, edit: Edit, states: Sequence[State], chunk: int) -> str:
        assert edit.instead is not None
        return described(move, edit.instead)

    return words


_OF_MOVES: dict[str, Callable[[Move, Edit, Sequence[State], int], str]] = {
    "turn into the other kind": _other_kind,
    "leave out": _left_out,
    "other chunks": _should_be(lambda move, new: f"{move}; it should be {new.chunks}"),
    "another target": _should_be(
        lambda move, new: f"{move}: rank {move.source} sends to the wrong partner, it should be rank {new.target}"
    ),
    "another source": _should_be(
        lambda move, new: f"{move}: rank {move.target} hears the wrong partner, it should be rank {new.source}"
    ),
    "turn round": _should_be(lambda move, new: f"{move}; it should be the other way round: {new}"),
}


def should(move: Move) -> str:
    """Return what a move's target should do."""
    if move.accumulate:
        return f"rank {move.target} should add {move.chunks} of rank {move.source}"
    return f"rank {move.target} should replace its {move.chunks} by rank {move.source}'s"


def _put_in(edit: Edit, steps: Schedule) -> str:
    assert edit.instead is not None
    if edit.step == len(steps):
        return f"too few steps: step {edit.step} is missing, in which {should(edit.instead)}"
    return f"step {edit.step}: a move is missing: {should(edit.instead)}"


# Steps
def _all_moves(wrong: Callable[[Edit, Schedule], str], described: Callable[[Move, Move], str]) -> Callable[..., str]:
    def words(edit: Edit, steps: Schedule) -> str:
        step = next(number for number in range(edit.step, edit.last + 1) if steps[number])
        example = described(steps[step][0], edit.schedule[step][0])
        return f"{wrong(edit, steps)}; the first, {steps[step][0]}, {example}"

    return words


def _kinds(edit: Edit, steps: Schedule) -> str:
    kinds = {move.accumulate for step in steps[edit.step : edit.last + 1] for move in step}
    if len(kinds) > 1:
        return "moves add that should replace, and replace that should add"
    return f"all moves {'add where they should replace' if kinds.pop() else 'replace where they should add'}"


def _chunk_off(edit: Edit, steps: Schedule) -> str:
    return f"all moves carry a chunk that is one too {'high' if 'less' in edit.kind else 'low'} (mod world size)"


def _target_off(edit: Edit, steps: Schedule) -> str:
    return f"all moves go to a rank that is one too {'high' if 'before' in edit.kind else 'low'} (mod world size)"


def _missing_step(edit: Edit, steps: Schedule) -> str:
    where = "too few steps: this one is missing" if edit.step == len(steps) else "a step is missing before this one"
    step = edit.schedule[edit.step]
    more = f", and so on: {len(step)} moves" if len(step) > 1 else ""
    return f"{where}, in which {should(step[0])}{more}"


_OF_STEPS: dict[str, Callable[..., str]] = {
    "turn all into the other kind": _all_moves(_kinds, lambda move, new: f"should be: {new}"),
    "one chunk less": _all_moves(_chunk_off, lambda move, new: f"should be {new.chunks}"),
    "one chunk more": _all_moves(_chunk_off, lambda move, new: f"should be {new.chunks}"),
    "to the rank before": _all_moves(_target_off, lambda move, new: f"should go to rank {new.target}"),
    "to the rank after": _all_moves(_target_off, lambda move, new: f"should go to rank {new.target}"),
    "turn all round": _all_moves(
        lambda edit, steps: "all moves go the wrong way round", lambda move, new: f"should be: {new}"
    ),
    "leave out the step": lambda edit, steps: "this step should not be there",
    "exchange": lambda edit, steps: "these should change places",
    "a step more": _missing_step,
}
