"""Wrong schedules are refused, each for its reason: a proof that cannot fail proves nothing."""

import random

import pytest

from npdp.collectives import verify
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.schedule import add, of_rank, put
from npdp.collectives.verify import WrongSchedule, prove


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
    assert "times in chunk" in refused(steps, world_size=world_size)


def test_a_repeated_contribution():
    text = refused([*SCHEDULES["allreduce"]["naive"](4), [add(3, 2, 1)]])
    assert text == "allreduce, 4 ranks: rank 2 ends with the contribution of rank 0 2 times in chunk 1, wanted 1"
    assert "2 times in chunk" in refused([ring()[0], *ring()])


def test_a_missing_contribution():
    text = refused([[move for move in ring()[0] if move.source != 2], *ring()[1:]])
    assert "allreduce, 4 ranks: rank 0 ends with the contribution of rank 2 0 times in chunk 1, wanted 1" in text


def test_a_missing_step():
    for missing in range(6):
        assert "times in chunk" in refused(ring()[:missing] + ring()[missing + 1 :])


def test_nothing_at_all():
    assert "0 times in chunk 0" in refused([])


def test_a_chunk_that_is_sent_while_it_is_received():
    text = refused([[put(0, 1, 0, 2), put(1, 0, 1)]], "broadcast", 2)
    assert "step 0: rank 0 sends chunk 1 while it receives it" in text
    assert "rank 0 sends chunk 0 while it receives it" in refused([[add(0, 1, 0), add(1, 0, 0)]], world_size=2)


def test_two_puts_into_one_chunk():
    text = refused([[put(0, 2, 0, 4), put(1, 2, 3)]], "broadcast")
    assert "step 0" in text and "both write chunk 3 of rank 2" in text


def test_a_put_and_an_add_into_one_chunk():
    assert "both write chunk 0 of rank 2" in refused([[put(0, 2, 0), add(1, 2, 0)]])
    assert "both write chunk 0 of rank 2" in refused([[add(0, 2, 0), put(1, 2, 0)]])


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
    assert text.startswith("step 6: Move(source=") and "is no move among 4 ranks and as many chunks" in text


def test_a_chunk_of_a_reduce_scatter_that_ends_on_the_wrong_rank():
    shifted = [[move._replace(start=(move.start + 1) % 4, stop=(move.start + 1) % 4 + 1) for move in step]
               for step in ring(collective="reduce_scatter")]  # fmt: skip
    assert "reduce_scatter, 4 ranks: rank 0 ends with" in refused(shifted, "reduce_scatter")


def test_a_reduce_scatter_is_no_allreduce_but_an_allreduce_is_a_reduce_scatter():
    prove(ring(), "reduce_scatter", 4)
    assert "times in chunk" in refused(ring(collective="reduce_scatter"), "allreduce")


def test_an_allgather_that_adds():
    adding = [[move._replace(accumulate=True) for move in step] for step in ring(collective="allgather")]
    assert "rank 0 ends with the contribution of rank 0 1 times in chunk 1, wanted 0" in refused(adding, "allgather")


def test_a_broadcast_from_another_root():
    steps = list(SCHEDULES["broadcast"]["tree"](4, 1))
    text = refused(steps, "broadcast", root=0)
    assert "rank 0 ends with the contribution of rank 0 0 times in chunk 0, wanted 1" in text


def test_adds_that_are_puts_lose_contributions():
    steps = ring()
    steps[2] = [move._replace(accumulate=False) for move in steps[2]]
    assert "0 times in chunk" in refused(steps)


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


# A schedule is one value over all ranks, so its ranks cannot disagree; a wrong projection onto a rank could make them.
def projected(change):
    """Return an `of_rank` in which rank 1 sees its steps through `change`."""
    return lambda steps, rank: iter(change(list(of_rank(steps, rank))) if rank == 1 else of_rank(steps, rank))


def test_ranks_that_wait_for_each_other_for_ever(monkeypatch):
    monkeypatch.setattr(verify, "of_rank", projected(lambda mine: mine[:-1]))
    assert refused(ring()) == "ranks [0, 2] wait for each other for ever"
    monkeypatch.setattr(verify, "of_rank", projected(lambda mine: [([], receives) for _, receives in mine]))
    assert refused(ring()) == "ranks [0, 1, 2, 3] wait for each other for ever"


def test_sends_that_only_buffering_would_get_along_with(monkeypatch):
    """Both ranks send, and receive in a step of its own: with nothing buffered neither send ever ends."""
    split = lambda steps, rank: (  # noqa: E731
        half for sends, receives in of_rank(steps, rank) for half in ((sends, []), ([], receives))
    )
    monkeypatch.setattr(verify, "of_rank", split)
    assert refused(ring(2), world_size=2) == "ranks [0, 1] wait for each other for ever"


def test_messages_that_cross(monkeypatch):
    """Rank 1 receives the two messages of rank 0 in the other order: each meets the other's receive."""
    steps = [[put(0, 1, 0), put(0, 1, 1)]]
    prove(steps, "broadcast", 2)
    monkeypatch.setattr(verify, "of_rank", projected(lambda mine: [(s, r[::-1]) for s, r in mine]))
    assert "meets the receive that Move(source=0, target=1, start=1" in refused(steps, "broadcast", 2)


def test_steps_in_another_order_on_one_rank(monkeypatch):
    monkeypatch.setattr(verify, "of_rank", projected(lambda mine: mine[::-1]))
    refused(ring())


def test_the_proof_itself_sees_each_promise():
    """What the collectives promise, checked on schedules that promise less."""
    gathered = ring(collective="allgather")
    prove(gathered, "allgather", 4)
    refused(gathered[:-1], "allgather")
    refused(gathered, "broadcast")
    refused(gathered, "reduce_scatter")


def test_a_name_of_no_collective_is_refused_with_those_that_there_are():
    said = "prove: no collective 'all_reduce'; there are allreduce, reduce_scatter, allgather, broadcast"
    with pytest.raises(ValueError, match=said):
        prove(list(SCHEDULES["allreduce"]["ring"](4)), "all_reduce", 4)
