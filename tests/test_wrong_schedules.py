"""Forty wrong schedules of eight kinds: the sentence names the planted step and move, and what it should have been.

Each is a right schedule, of the ring, the tree or halving-doubling on 2 to 7 ranks, with one mistake in it.
"""

import random
import re

import pytest

from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.schedule import Move
from npdp.collectives.verify import WrongSchedule, prove, prove_each

ALGORITHMS = ("ring", "tree", "halving_doubling")
LATE = "too few steps"


def said(steps, world_size):
    """Return the error of a schedule; None where it is right."""
    try:
        prove(steps, "allreduce", world_size)
    except WrongSchedule as error:
        return error
    return None


def with_step(steps, number, step):
    return [*steps[:number], step, *steps[number + 1 :]]


def a_move(draw, steps):
    number = draw.choice([number for number, step in enumerate(steps) if step])
    return number, draw.randrange(len(steps[number]))


def changed(draw, steps, world_size, change):
    """Return the steps with one move changed, its step, and what the sentence must name: both moves' words."""
    number, at = a_move(draw, steps)
    step = steps[number]
    new = change(step[at])
    moves = [*step[:at], *([new] if new else []), *step[at + 1 :]]
    return with_step(steps, number, moves), number, new or step[at]


# Each returns a wrong schedule, the step of the mistake, and its move
def missing(draw, steps, world_size):
    return changed(draw, steps, world_size, lambda move: None)


def twice(draw, steps, world_size):
    adds = [(number, move) for number, step in enumerate(steps) for move in step if move.accumulate]
    number, move = draw.choice(adds)
    later = draw.randrange(number, len(steps))
    return with_step(steps, later, [*steps[later], move]), later, move


def wrong_chunk(draw, steps, world_size):
    def shift(move):
        length = move.stop - move.start
        start = draw.choice([start for start in range(world_size - length + 1) if start != move.start] or [None])
        return move if start is None else move._replace(start=start, stop=start + length)

    return changed(draw, steps, world_size, shift)


def wrong_partner(draw, steps, world_size):
    def elsewhere(move):
        others = [rank for rank in range(world_size) if rank not in (move.source, move.target)]
        return move._replace(**{draw.choice(["source", "target"]): draw.choice(others)}) if others else move

    return changed(draw, steps, world_size, elsewhere)


def overwritten(draw, steps, world_size):
    adds = [(number, at) for number, step in enumerate(steps) for at, move in enumerate(step) if move.accumulate]
    number, at = draw.choice(adds)
    move = steps[number][at]._replace(accumulate=False)
    return with_step(steps, number, [*steps[number][:at], move, *steps[number][at + 1 :]]), number, move


def race(draw, steps, world_size):
    """A second writer of a chunk in a step, or one that sends what it is receiving."""
    number, at = a_move(draw, steps)
    move = steps[number][at]
    others = [rank for rank in range(world_size) if rank not in (move.source, move.target)] or [move.source]
    new = draw.choice([
        Move(draw.choice(others), move.target, move.start, move.start + 1, False),
        Move(move.target, draw.choice(others), move.start, move.start + 1, True),
    ])  # fmt: skip
    return with_step(steps, number, [*steps[number], new]), number, new


PLANTED = {
    "missing": missing, "twice": twice, "wrong chunk": wrong_chunk, "wrong partner": wrong_partner,
    "overwritten": overwritten, "race": race,
}  # fmt: skip


def drawn(draw):
    world_size, name = draw.randint(2, 7), draw.choice(ALGORITHMS)
    return world_size, list(SCHEDULES["allreduce"][name](world_size))


def wrong_schedules(kind, count, seed=26):
    """Yield wrong schedules: what is planted may be right all the same, and is drawn again then."""
    draw = random.Random(f"{seed} {kind}")
    found = 0
    while found < count:
        world_size, right = drawn(draw)
        steps, number, move = PLANTED[kind](draw, right, world_size)
        error = said(steps, world_size)
        if error is not None and steps != right:
            found += 1
            yield world_size, right, steps, number, move, error


def names(error, number, move):
    """Return whether a sentence has the step, the ranks and the chunks of a move."""
    words = (f"step {number}", f"rank {move.source}", f"rank {move.target}", move.chunks)
    return all(word in error.sentence for word in words)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_sentence_names_the_planted_step_and_move(kind):
    for world_size, _, steps, number, move, error in wrong_schedules(kind, 5):
        assert names(error, number, move), (world_size, steps, number, move, error.sentence)


@pytest.mark.parametrize("kind", PLANTED)
def test_what_it_should_have_been_is_right(kind):
    """Also where two changes do as well, and the other one is named: with the one named the schedule is proven."""
    named = []
    for world_size, _, steps, number, move, error in wrong_schedules(kind, 60, seed=1):
        named.append(names(error, number, move))
        if error.mended is None:
            assert "is chance" in error.sentence, (world_size, steps, error.sentence)
        else:
            prove(error.mended, "allreduce", world_size)
            assert sum(old != new for old, new in zip(steps, error.mended)) <= 1
    assert sum(named) >= 0.95 * len(named)


def test_too_few_steps_are_told_by_what_is_missing_and_where_it_was_last():
    draw = random.Random(26)
    for _ in range(5):
        world_size, right = drawn(draw)
        left = draw.randrange(len(right))
        error = said(right[:left], world_size)
        assert "too few steps" in error.sentence and " ends without the contribution" in error.sentence
        if error.mended is None:
            where = f"the last one is step {left - 1}, and chunk " if left else "there are none, and chunk "
            what = r"\d(, complete on ranks? .*, has not come to rank| of rank \d has come no further than rank)"
            assert re.search(where + what, error.sentence), error.sentence
        else:
            assert f"step {left} is missing" in error.sentence or f"step {left}: too few" in error.sentence
            prove(error.mended, "allreduce", world_size)


def test_a_step_that_is_missing_before_others_is_named():
    ring = list(SCHEDULES["allreduce"]["ring"](5))
    for number in range(len(ring)):
        text = said(ring[:number] + ring[number + 1 :], 5).sentence
        assert f"step {number}: " in text and ("a step is missing before this one" in text or number == len(ring) - 1)


def waiting(schedules):
    """Return the circle of a deadlock: (rank, its step, whom it waits for, to do what with which chunks)."""
    with pytest.raises(WrongSchedule) as caught:
        prove_each(schedules, "allreduce")
    text = str(caught.value)
    found = re.findall(r"rank (\d) in step (\d+) waits for rank (\d) to (take|send) (chunks? [\d-]+)", text)
    return text, [(int(rank), int(step), int(peer), do, what) for rank, step, peer, do, what in found]


@pytest.mark.parametrize("seed", range(5))
def test_ranks_that_wait_for_each_other_are_named_as_a_circle(seed):
    """One rank has two of its steps in another order."""
    draw = random.Random(seed)
    circle = []
    while not circle:
        world_size, steps = drawn(draw)
        schedules = [list(steps) for _ in range(world_size)]
        rank = draw.randrange(world_size)
        mine = [number for number, step in enumerate(steps) if any(rank in move[:2] for move in step)]
        if len(mine) > 1:
            first, second = sorted(draw.sample(mine, 2))
            schedules[rank][first], schedules[rank][second] = steps[second], steps[first]
            text, circle = waiting(schedules)  # messages may meet the wrong receive before
    assert "in a circle" in text
    assert [peer for _, _, peer, _, _ in circle] == [rank for rank, *_ in [*circle[1:], circle[0]]]
    assert any(waits == rank and step >= first for waits, step, *_ in circle)
    for waits, step, peer, do, what in circle:
        ends = (waits, peer) if do == "take" else (peer, waits)
        assert any(move[:2] == ends and move.chunks == what for move in schedules[waits][step])


def test_ranks_that_all_send_first_and_then_receive_wait_in_a_circle():
    """With nothing buffered no send ends before it is received."""
    ring = list(SCHEDULES["allreduce"]["ring"](3))
    schedules = [
        [[move for move in step if move[end] == rank] for step in ring for end in (0, 1)] for rank in range(3)
    ]
    text, circle = waiting(schedules)
    assert [(rank, step, peer, do) for rank, step, peer, do, _ in circle] == [
        (0, 0, 1, "take"), (1, 0, 2, "take"), (2, 0, 0, "take")]  # fmt: skip
    assert text.startswith("ranks wait for each other for ever, in a circle: rank 0 in step 0 waits for rank 1 to take")


def test_ranks_that_wait_for_one_that_has_ended_are_named():
    tree = list(SCHEDULES["allreduce"]["tree"](2))
    text, _ = waiting([tree, tree[:1]])
    assert text == (
        "ranks wait for ever: rank 0 in step 1 waits for rank 1 to take chunks 0-1; rank 1 has nothing left to do"
    )


def test_ranks_with_one_schedule_each_that_fit_together_are_proven():
    ring = list(SCHEDULES["allreduce"]["ring"](4))
    own = [[[move for move in step if rank in move[:2]] for step in ring] for rank in range(4)]
    prove_each(own, "allreduce")
    with pytest.raises(WrongSchedule, match="each message is a step"):
        prove_each([steps[:3] for steps in own], "allreduce")
