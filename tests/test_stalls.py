"""Who is late, where, for how long: the watchdog in worlds of threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import worlds
from hypothesis import given
from hypothesis import strategies as st

import npdp
from npdp.comm.errors import CommunicationError
from npdp.comm.failures import stalls
from npdp.comm.failures.board import ENDED, RUNNING, STOPPED, Seen, Wait
from npdp.comm.failures.stalls import late_ranks, named, where

ALGORITHMS = ["shared_memory", "ring", "naive", "tree"]
WARNING_S = 0.2  # of worlds in which a rank is late on purpose


@pytest.fixture
def said(monkeypatch):
    """The warnings, as they come."""
    warnings: list[str] = []
    monkeypatch.setattr(stalls, "_say", warnings.append)
    return warnings


def until(done, limit_s=10):
    """Return when it is done: a rank that is late on purpose."""
    before = time.monotonic()
    while not done() and time.monotonic() - before < limit_s:
        time.sleep(0.01)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_late_rank_is_named_once_with_its_place_and_stack_and_all_goes_on(said, algorithm):
    def program():
        world = npdp.init(stall_warning_s=WARNING_S)
        npdp.allreduce(np.ones(3), algorithm=algorithm)  # what makes memory is behind them
        if world.rank == 2:
            world.place.iteration, world.place.part = 16, "forward"
            until(lambda: said)
            time.sleep(3 * WARNING_S)  # in which nobody says it again
        total = np.full(5, world.rank + 1.0)
        npdp.allreduce(total, algorithm=algorithm)
        return total.tolist()

    assert worlds.run(3, program) == [[6.0] * 5] * 3
    (warning,) = said
    first, second, *stack = warning.splitlines()
    assert first.startswith("npdp: ranks 0 and 1 have waited for rank 2 for 0 s in allreduce of 5 float64 (sum)")
    assert second == "npdp: rank 2 is in iteration 17, forward; its program stands at"
    assert any("in until" in line for line in stack) and any("in program" in line for line in stack)


def test_each_stall_is_told(said):
    def program():
        world = npdp.init(stall_warning_s=WARNING_S)
        for turn in range(3):
            if world.rank == turn:
                until(lambda: len(said) > world.rank)
            npdp.allreduce(np.ones(3), algorithm="ring")

    worlds.run(3, program)
    assert [warning.split(" for rank ")[1][0] for warning in said] == ["0", "1", "2"]


def test_a_limit_of_0_says_nothing_and_ends_nothing(said):
    def program():
        world = npdp.init(stall_warning_s=0, stall_abort_s=0)
        if world.rank == 1:
            time.sleep(0.5)
        npdp.barrier()

    worlds.run(2, program)
    assert not said


@pytest.mark.parametrize("algorithm", ["shared_memory", "ring"])
def test_after_the_second_limit_all_ranks_end_with_an_error_that_names_the_late_one(said, algorithm):
    ended = threading.Event()

    def program():
        world = npdp.init(stall_warning_s=0, stall_abort_s=0.3)
        world.place.iteration, world.place.part = 3, "update"
        npdp.barrier()
        try:
            if world.rank == 1:
                ended.wait(10)
            npdp.allreduce(np.ones(3), algorithm=algorithm)
        finally:
            ended.set()

    with pytest.raises(CommunicationError) as caught:
        worlds.run(3, program)
    said_in_it = str(caught.value).split("; ")
    assert "waited for rank 1" in said_in_it[0] and "allreduce of 3 float64" in said_in_it[0]
    assert said_in_it[1:] == ["rank 1 is in iteration 4, update", "the limit is 0.3 s"]


@pytest.mark.parametrize("limits", [{"stall_warning_s": "ten"}, {"stall_abort_s": [1]}])
def test_a_limit_that_is_no_number_is_refused(limits):
    with pytest.raises(TypeError, match=r"stall_\w+_s must be a number of seconds"):
        npdp.init(**limits)


class Drawn:
    """A board on which ranks wait as it is drawn."""

    def __init__(self, waits: dict[int, list[int]], states: dict[int, str] | None = None) -> None:
        self.waits, self.states = waits, states or {}

    def look(self, rank):
        waits = Wait(0.0, self.waits[rank], False, "", False) if rank in self.waits else None
        return Seen(self.states.get(rank, RUNNING), waits=(waits, None))


RANKS = st.integers(0, 7)


@given(st.dictionaries(RANKS, st.lists(RANKS, min_size=1, max_size=3)), st.lists(RANKS, min_size=1))
def test_late_are_those_whom_one_waits_for_over_others_and_who_wait_for_nobody(waits, first):
    reached, ahead = set(first), list(first)
    while ahead:
        new = set(waits.get(ahead.pop(), [])) - reached
        reached |= new
        ahead += new
    late = late_ranks(Drawn(waits), Wait(0.0, first, False, "", False))
    assert late == [(rank, False) for rank in sorted(reached) if rank not in waits]


@pytest.mark.parametrize("state", [STOPPED, ENDED])
def test_a_rank_that_was_stopped_or_ended_while_it_waited_is_the_late_one(state):
    board = Drawn({0: [1], 1: [2], 2: [0]}, {1: state})
    assert late_ranks(board, Wait(0.0, [1], False, "", False)) == [(1, False)]


def test_words_for_ranks_and_places():
    assert named([3]) == "rank 3"
    assert named([0, 1]) == "ranks 0 and 1"
    assert named(range(20)) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    assert where(Seen(RUNNING), False) == "is before its first iteration"
