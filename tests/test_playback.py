"""The playback of a schedule: what a page will play is what the prover sees, step by step, also of a wrong one."""

import json
from collections import Counter
from itertools import pairwise

import pytest

from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.auto import price
from npdp.collectives.hierarchical import by_messages, phases_of
from npdp.collectives.machine import built_in
from npdp.collectives.playback import playback
from npdp.collectives.schedule import add, put
from npdp.collectives.verify import WrongSchedule, bytes_sent, prove

NBYTES = 10_007
EVERY = [(collective, name) for collective, makers in SCHEDULES.items() for name in makers]


def played(steps, collective, world_size, root=0):
    found = playback(steps, collective, world_size, built_in("threads", world_size), root, NBYTES)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def kept(found):
    """Return whether the last contents are those that were promised."""
    last = found["steps"][-1]["contents"] if found["steps"] else found["beginning"]
    return all(wanted is None or got == wanted for wants, chunks in zip(found["promised"], last)
               for wanted, got in zip(wants, chunks))  # fmt: skip


def assert_follows_its_moves(found):
    """Each step's contents come from the last ones by its moves alone."""
    before = [[Counter(chunk) for chunk in chunks] for chunks in found["beginning"]]
    for step in found["steps"]:
        after = [[Counter(chunk) for chunk in chunks] for chunks in before]
        for move in step["moves"]:
            for chunk in range(move["start"], move["stop"]):
                if not move["accumulate"]:
                    after[move["target"]][chunk] = Counter()
                after[move["target"]][chunk] += before[move["source"]][chunk]
        assert after == step["contents"]
        before = after


@pytest.mark.parametrize("world_size", range(1, 10))
@pytest.mark.parametrize(("collective", "algorithm"), EVERY)
def test_the_last_contents_are_those_that_the_prover_wants(collective, algorithm, world_size):
    root = world_size - 1 if collective == "broadcast" else 0
    arguments = (world_size, root) if collective == "broadcast" else (world_size,)
    steps = list(SCHEDULES[collective][algorithm](*arguments))
    found = played(steps, collective, world_size, root)
    assert found["proven"] and found["sentence"] == "" and kept(found)
    assert_follows_its_moves(found)
    if world_size > 1:
        sent = [step["bytes"] for step in found["steps"]]
        assert sent[-1] == bytes_sent(steps, NBYTES, 1, world_size) and max(sent[-1]) >= found["least_bytes"] - 2
        assert all(old <= new for earlier, later in pairwise(sent) for old, new in zip(earlier, later))


def test_a_hierarchical_schedule_plays_too():
    for hosts in [(0, 0), (0, 0, 1), (0, 0, 1, 1), (0, 0, 0, 1, 1, 1, 2, 2, 2)]:
        steps = list(by_messages(hosts, phases_of(1 << 20, hosts, shares_memory=False)))
        found = played(steps, "allreduce", len(hosts))
        assert found["proven"] and kept(found)
        assert_follows_its_moves(found)


@pytest.mark.parametrize("algorithm", SCHEDULES["allreduce"])
def test_its_seconds_end_at_the_price_of_the_algorithm(algorithm):
    for world_size in (2, 3, 5, 8):
        found = played(list(SCHEDULES["allreduce"][algorithm](world_size)), "allreduce", world_size)
        seconds = [step["seconds"] for step in found["steps"]]
        machine = built_in("threads", world_size)
        whole = price("allreduce", algorithm, NBYTES, (0,) * world_size, machine, shares_memory=False)
        assert seconds == sorted(seconds) and seconds[-1] == pytest.approx(whole)


RING = list(SCHEDULES["allreduce"]["ring"](4))
BROKEN = {
    "missing": [RING[0][1:], *RING[1:]],
    "twice": [*RING, [add(3, 2, 1)]],
    "overwritten": [RING[0], [put(*move[:3]) for move in RING[1]], *RING[2:]],
    "race": [[*RING[0], put(2, 1, 3)], *RING[1:]],
    "too few steps": [*RING[:4], []],
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_wrong_one_plays_as_it_is_with_the_provers_sentence(mistake):
    found = played(BROKEN[mistake], "allreduce", 4)
    with pytest.raises(WrongSchedule) as caught:
        prove(BROKEN[mistake], "allreduce", 4)
    error = caught.value
    assert (found["proven"], found["sentence"], found["picture"]) == (False, error.sentence, error.picture)
    assert found["step"] == error.step
    assert_follows_its_moves(found)
    assert not kept(found)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match=r"playback: \(0, 4, 0, 1\) names a rank or chunk that is not among 4"):
        played([[add(0, 4, 0)]], "allreduce", 4)
    with pytest.raises(ValueError, match="did you mean allreduce"):
        played(RING, "all_reduce", 4)
