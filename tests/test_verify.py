"""Wrong schedules are refused, each for its reason: a proof that cannot fail proves nothing."""

import random

import pytest

from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.contents import once
from npdp.collectives.keepable import can_be_completed
from npdp.collectives.schedule import add, put
from npdp.collectives.verify import WrongSchedule, prove, prove_each


def ring(world_size=4, collective="allreduce"):
    return list(SCHEDULES[collective]["ring"](world_size))


def refused(steps, collective="allreduce", world_size=4, root=0):
    with pytest.raises(WrongSchedule) as caught:
        prove(steps, collective, world_size, root)
    return str(caught.value)


@pytest.mark.parametrize("world_size", [3, 4, 5, 8])
def test_two_swapped_steps(world_size):
    steps = ring(world_size)
    steps[0], steps[1] = steps[1], steps[0]
    assert "steps 0 to 1: these should change places" in refused(steps, world_size=world_size)


def test_a_repeated_contribution():
    text = refused([*SCHEDULES["allreduce"]["naive"](4), [add(3, 2, 1)]])
    assert text.splitlines() == [
        "allreduce, 4 ranks: step 4: rank 2 adds chunk 1 of rank 3 once more: it already has the contributions of "
        "ranks 0, 1, 2 and 3, from step 3; this move should not be there. So rank 2 ends with the contributions of "
        "ranks 0, 1, 2 and 3 twice in chunk 1",
        "                      before step 4   after it",
        "    rank 3, chunk 1   0 1 2 3         0 1 2 3",
        "    rank 2, chunk 1   0 1 2 3         0 0 1 1 2 2 3 3",
    ]
    assert "step 1: this step should not be there" in refused([ring()[0], *ring()])
    again = [[add(1, 0, 0, 2)], [add(1, 0, 0, 2)], [put(0, 1, 0, 2)]]
    assert "step 1: rank 0 adds chunks 0-1 of rank 1 once more: it already has " in refused(again, world_size=2)


def test_a_contribution_that_was_there_from_the_beginning():
    text = refused([[add(0, 1, 0, 2)], [put(1, 0, 0, 2)], [add(0, 1, 1)]], world_size=2)
    assert "step 2: rank 1 adds chunk 1 of rank 0 once more" in text and "from step 0; this move should not" in text
    text = refused([[put(1, 0, 0, 2)], [add(0, 1, 0)]], "broadcast", 2, root=1)
    assert "rank 1 adds chunk 0 of rank 0 once more: it already has the contribution of rank 1, from the beg" in text


def test_a_missing_contribution():
    text = refused([[move for move in ring()[0] if move.source != 2], *ring()[1:]])
    assert "step 0: a move is missing: rank 3 should add chunk 1 of rank 2. " in text
    assert "So rank 0 ends without the contribution of rank 2 in chunk 1" in text


def test_a_missing_step():
    for missing in range(6):
        assert f"step {missing}: " in refused(ring()[:missing] + ring()[missing + 1 :])


def test_nothing_at_all():
    text = refused([])
    assert "too few steps: there are none, and chunk 0 of rank 1 has come no further than rank 1" in text
    assert "rank 0 ends without the contributions of ranks 1, 2 and 3 in chunk 0" in text


def test_a_chunk_that_is_sent_while_it_is_received():
    text = refused([[put(0, 1, 0, 2), put(1, 0, 1)]], "broadcast", 2)
    assert "step 0: rank 0 sends chunk 1 to rank 1 while it receives it" in text
    text = refused([[add(0, 1, 0), add(1, 0, 0)]], world_size=2)
    assert "rank 0 sends chunk 0 to rank 1 while it receives it" in text


def test_two_puts_into_one_chunk():
    text = refused([[put(0, 2, 0, 4), put(1, 2, 3)]], "broadcast")
    assert "step 0" in text and "writes chunk 3 of rank 2 last is chance" in text


def test_a_put_and_an_add_into_one_chunk():
    assert "writes chunk 0 of rank 2 last is chance" in refused([[put(0, 2, 0), add(1, 2, 0)]])
    assert "writes chunk 0 of rank 2 last is chance" in refused([[add(0, 2, 0), put(1, 2, 0)]])


def test_two_adds_into_one_chunk_are_fine_in_any_order():
    prove([[add(1, 0, 0, 3), add(2, 0, 0, 3)], [put(0, 1, 0, 3), put(0, 2, 0, 3)]], "allreduce", 3)


@pytest.mark.parametrize(
    "move",
    [add(0, 4, 0), add(4, 0, 0), add(-1, 0, 0), add(0, -1, 0), add(1, 1, 0), add(0, 1, 4), add(0, 1, -1, 1),
     add(0, 1, 2, 2), add(0, 1, 3, 2), add(0, 1, 0, 5)],
    ids=str,
)  # fmt: skip
def test_a_move_out_of_range(move):
    text = refused([*ring(), [move]])
    assert text.startswith("step 6: (") and "is no move among 4 ranks: it " in text


def test_a_chunk_of_a_reduce_scatter_that_ends_on_the_wrong_rank():
    shifted = [[move._replace(start=(move.start + 1) % 4, stop=(move.start + 1) % 4 + 1) for move in step]
               for step in ring(collective="reduce_scatter")]  # fmt: skip
    assert "steps 0 to 2: all moves carry a chunk that is one too high" in refused(shifted, "reduce_scatter")


def test_a_reduce_scatter_is_no_allreduce_but_an_allreduce_is_a_reduce_scatter():
    prove(ring(), "reduce_scatter", 4)
    text = refused(ring(collective="reduce_scatter"), "allreduce")
    assert "too few steps: the last one is step 2, and chunk 1, complete on rank 1, has not come to rank 0" in text


def test_an_allgather_that_adds():
    adding = [[move._replace(accumulate=True) for move in step] for step in ring(collective="allgather")]
    text = refused(adding, "allgather")
    assert "steps 0 to 2: all moves add where they should replace; the first, rank 1 adds chunk 0 of rank 0, " in text
    assert "with the contributions of ranks 0, 2 and 3, which should not be there, in chunk 1" in text


def test_a_broadcast_from_another_root():
    steps = list(SCHEDULES["broadcast"]["tree"](4, 1))
    text = refused(steps, "broadcast", root=0)
    assert "rank 0 ends without the contribution of rank 0 and with the contribution of rank 1, which should" in text


def test_adds_that_are_puts_lose_contributions():
    steps = ring()
    steps[2] = [move._replace(accumulate=False) for move in steps[2]]
    assert "step 2: all moves replace where they should add" in refused(steps)


def test_every_single_move_matters():
    """Take out, double or turn round any one move of any schedule: the proof sees it."""
    generator = random.Random(0)
    for makers in (SCHEDULES["allreduce"], SCHEDULES["reduce_scatter"], SCHEDULES["broadcast"]):
        collective = next(name for name, value in SCHEDULES.items() if value is makers)
        for maker in makers.values():
            steps = list(maker(5))
            for number, step in enumerate(steps):
                at = generator.randrange(len(step))
                without = [*steps[:number], step[:at] + step[at + 1 :], *steps[number + 1 :]]
                turned = step[at]._replace(source=step[at].target, target=step[at].source)
                refused(without, collective, 5)
                refused([*steps[:number], [*step[:at], turned, *step[at + 1 :]], *steps[number + 1 :]], collective, 5)


def test_messages_that_cross():
    """Rank 1 receives the two messages of rank 0 in the other order: each meets the other's receive."""
    steps = [[put(0, 1, 0), put(0, 1, 1)]]
    prove(steps, "broadcast", 2)
    with pytest.raises(WrongSchedule, match="chunk 0, meets the receive of its step 0, by which rank 1 replaces its"):
        prove_each([steps, [steps[0][::-1]]], "broadcast")


def test_the_proof_itself_sees_each_promise():
    """What the collectives promise, checked on schedules that promise less."""
    gathered = ring(collective="allgather")
    prove(gathered, "allgather", 4)
    refused(gathered[:-1], "allgather")
    refused(gathered, "broadcast")
    refused(gathered, "reduce_scatter")


def test_a_name_of_no_collective_is_refused_with_those_that_there_are():
    known = "there are allreduce, reduce_scatter, allgather, broadcast"
    for name, hint in (("all_reduce", "allreduce"), ("AllGather", "allgather"), ("reduce-scatter", "reduce_scatter")):
        with pytest.raises(ValueError, match=rf"no collective '{name}'; {known} \(did you mean {hint}\?\)"):
            prove(ring(), name, 4)
    with pytest.raises(ValueError, match=rf"no collective 'sort'; {known}$"):
        prove(ring(), "sort", 4)
    with pytest.raises(ValueError, match="root must be a rank of 4, got 4"):
        prove(ring(), "broadcast", 4, root=4)


def test_what_is_no_schedule_is_refused_in_words_and_steps_may_come_from_a_generator():
    maker = SCHEDULES["allreduce"]["ring"]
    prove(maker(4), "allreduce", 4)
    with pytest.raises(TypeError, match="wanted a schedule, which is a list of steps, got the function .*: call it"):
        prove(maker, "allreduce", 4)
    with pytest.raises(TypeError, match="each a list of moves, got 7"):
        prove(7, "allreduce", 4)
    with pytest.raises(TypeError, match=r"step 1: wanted a move, made by add\(...\) or put\(...\), got 3"):
        prove([[], [3]], "allreduce", 4)


def test_a_schedule_that_no_single_change_mends_is_told_by_the_first_move_after_which_all_is_lost():
    steps = ring()
    steps[0] = [move._replace(accumulate=False) if move.source == 1 else move for move in steps[0]]
    steps[2] = [move._replace(accumulate=False) if move.source == 3 else move for move in steps[2]]
    text = refused(steps)
    assert "step 0: rank 2 replaces its chunk 0 by rank 1's, by which the contribution of rank 2 in it is over" in text
    assert "after that chunk 0 of the result cannot be had any more" in text
    doubled = [*ring()[:1], [add(0, 1, 3)], *ring()[1:], [add(0, 2, 2)]]
    text = refused(doubled)
    assert "step 1: rank 1 adds chunk 3 of rank 0 once more: it already has the contribution of rank 0, from" in text


def test_a_sum_can_be_completed_from_parts_that_do_not_overlap_alone():
    both, ends, middle = once([0, 1]), once([0, 2]), once([1])
    assert can_be_completed([both, once([2]), both], once(range(3)))
    assert can_be_completed([both, ends, middle], once(range(3)))
    assert not can_be_completed([both, once([1, 2]), both], once(range(3)))
    assert not can_be_completed([once([0]) + both, once([2]), middle], once(range(3)))


def test_many_ranks_are_told_without_a_search():
    world_size = 40
    steps = ring(world_size)
    steps[3] = [move._replace(accumulate=False) if move.source == 7 else move for move in steps[3]]
    assert "step 3: rank 8 replaces its chunk" in refused(steps, world_size=world_size)
    text = refused(ring(world_size)[:60], world_size=world_size)
    assert "40 ranks: the last one is step 59, and chunk 1, complete on ranks " in text and "too few" not in text
