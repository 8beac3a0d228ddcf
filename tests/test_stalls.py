"""Who is late, where, for how long: the watchdog in worlds of threads."""

from __future__ import annotations

import re
import threading
import time
from unittest import mock

import numpy as np
import pytest
import worlds
from hypothesis import given
from hypothesis import strategies as st
from servers import served, steps

import npdp
from npdp import nn, optim
from npdp.comm.errors import CommunicationError
from npdp.comm.failures import stalls
from npdp.comm.failures.board import ELSEWHERE, ENDED, RUNNING, STOPPED, Board, Seen, Wait
from npdp.comm.failures.call_log import CallLog
from npdp.comm.failures.chains import late_ranks
from npdp.comm.failures.words import named, where

ALGORITHMS = ["shared_memory", "ring", "naive", "tree"]
WARNING_S = 0.6  # of worlds in which a rank is late on purpose


@pytest.fixture
def said(monkeypatch):
    """The warnings, as they come."""
    warnings: list[str] = []
    monkeypatch.setattr(stalls, "_say", warnings.append)
    return warnings


def model_and_optimizer():
    model = nn.Linear(worlds.FEATURES, worlds.CLASSES)
    return [optim.SGD(model.parameters(), lr=0.1)], model


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
    first, second, third, *stack = warning.splitlines()
    assert re.match(r"npdp: ranks? (0|1|0 and 1) ha(s|ve) waited for rank 2 for \d s in allreduce of 5 float64", first)
    assert second == "npdp: rank 2 is in forward of iteration 17"
    assert third == "npdp: rank 2's program stands at"
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


def test_who_is_late_after_another_in_the_same_wait_is_told_too(said):
    """Rank 0 waits for a message of rank 1, which is late and then waits for rank 2, which is late."""

    def program():
        world, number = npdp.init(stall_warning_s=0.6), np.zeros(1)
        if world.rank:
            until(lambda: len(said) >= world.rank)
        if world.rank < 2:
            world.transport.wait(world.transport.receive(number, world.rank + 1))
        if world.rank:
            world.transport.wait(world.transport.send(number, world.rank - 1))

    worlds.run(3, program)
    assert re.findall(r"npdp: (.*) waited for (.*) for", "\n".join(said)) == [
        ("rank 0 has", "rank 1"), ("ranks 0 and 1 have", "rank 2")]  # fmt: skip


def test_ranks_that_wait_for_each_other_are_told_so(said):
    def program():
        world, number = npdp.init(stall_warning_s=0.2, stall_abort_s=5), np.zeros(1)
        world.transport.wait(world.transport.receive(number, 1 - world.rank))

    with pytest.raises(CommunicationError, match="ranks 0 and 1 have waited for each other for"):
        worlds.run(2, program)
    assert len(said) == 1 and said[0].startswith("npdp: ranks 0 and 1 have waited for each other for")


def test_a_call_that_does_not_ask_is_watched_from_beside(said):
    failed = []

    def program():
        world = npdp.init(stall_warning_s=0.5, stall_abort_s=1)
        if world.rank == 0:
            with world.transport.stalls.beside(lambda: ([1], "a meeting"), failed.append):
                until(lambda: failed)
        else:
            until(lambda: failed)

    worlds.run(2, program)
    assert re.match(r"npdp: rank 0 has waited for rank 1 for \d s in a meeting", "".join(said))
    assert "the limit is 1 s" in str(*failed)


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
    assert said_in_it[1:] == ["rank 1 is in update of iteration 4", "the limit is 0.3 s"]


def with_servers(said, servers, late, memory=True):
    """Train with one of two workers late, and return what is said of it."""

    def program(way):
        npdp.init(stall_warning_s=1)

        def dawdle(number):
            if npdp.rank() == late and number == 3:
                until(lambda: said)

        return steps(way, *model_and_optimizer(), between=dawdle)

    served(program, servers, 2, memory)
    (warning,) = said
    return warning


@pytest.mark.parametrize(("servers", "late"), [(1, 1), (2, 0), (0, 1)])
def test_under_a_parameter_server_the_worker_is_named_for_whom_the_server_and_the_others_wait(said, servers, late):
    warning = with_servers(said, servers, late)
    assert f"rank {1 - late} has waited for rank {late} for" in warning
    assert "in dawdle" in warning and "as a server" not in warning


def test_of_a_server_on_another_host_it_is_said_that_it_is_one(said):
    warning = with_servers(said, 1, 1, memory=False)
    assert "rank 0 has waited for rank 2 for" in warning
    assert "rank 2 is a server on host 2: only its host can tell for whom it waits" in warning


@pytest.mark.parametrize(("hosts", "late", "algorithm"), [
    ((0, 0, 1, 1), 0, "ring"), ((0, 0, 1, 1), 3, "hierarchical"),
    ((0, 1, 1, 1), 0, "hierarchical"), ((0, 1, 1, 1), 2, "ring"),
])  # fmt: skip
def test_over_hosts_that_of_the_late_rank_says_where_it_is_if_another_of_its_ranks_waits(
    said, hosts, late, algorithm
):
    def program():
        world = npdp.init(stall_warning_s=1)
        npdp.allreduce(np.ones(3), algorithm=algorithm)
        world.place.part = "data"
        if world.rank == late:
            until(lambda: said)
            time.sleep(1.5)
        npdp.allreduce(np.ones(3), algorithm=algorithm)

    worlds.run(4, program, hosts=hosts)
    (warning,) = said
    assert f"waited for rank {late} for" in warning
    if hosts.count(hosts[late]) > 1:
        assert f"npdp: rank {late} is in data" in warning
    else:
        assert f"npdp: rank {late} is on host {hosts[late]}: only its host can tell where its program is" in warning


@pytest.mark.parametrize("limits", [{"stall_warning_s": "ten"}, {"stall_abort_s": [1]}])
def test_a_limit_that_is_no_number_is_refused(limits):
    with pytest.raises(TypeError, match=r"stall_\w+_s must be a number of seconds"):
        npdp.init(**limits)


def drawn(waits: dict[int, list[int]], states: dict[int, str] | None = None):
    """Return what is seen of each rank where they wait as it is drawn."""

    def look(rank):
        wait = Wait(0.0, waits[rank], False, "") if rank in waits else None
        return Seen((states or {}).get(rank, RUNNING), waits=(wait, None))

    return look


RANKS = st.integers(0, 7)


@given(st.dictionaries(RANKS, st.lists(RANKS, min_size=1, max_size=3)), st.lists(RANKS, min_size=1))
def test_late_are_those_whom_one_waits_for_over_others_and_who_wait_for_nobody(waits, first):
    reached, ahead = set(first), list(first)
    while ahead:
        new = set(waits.get(ahead.pop(), [])) - reached
        reached |= new
        ahead += new
    late = late_ranks(drawn(waits), Wait(0.0, first, False, ""))
    assert late == [(rank, False) for rank in sorted(reached) if rank not in waits]


@pytest.mark.parametrize("state", [STOPPED, ENDED])
def test_a_rank_that_was_stopped_or_ended_while_it_waited_is_the_late_one(state):
    look = drawn({0: [1], 1: [2], 2: [0]}, {1: state})
    assert late_ranks(look, Wait(0.0, [1], False, "")) == [(1, False)]


def test_of_other_hosts_those_are_late_who_have_not_told_that_they_wait():
    waits = drawn({2: [1]}, {0: ELSEWHERE, 1: ELSEWHERE})
    assert late_ranks(waits, Wait(0.0, [1], False, ""), {1}, range(3)) == [(0, False)]
    assert late_ranks(waits, Wait(0.0, [1], False, ""), {}, range(3)) == [(1, False)]


def test_words_for_ranks_and_places():
    assert named([3]) == "rank 3"
    assert named([0, 1]) == "ranks 0 and 1"
    assert named(range(20)) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    assert where(Seen(RUNNING), False) == "is before its first iteration"


def test_time_in_which_the_rank_that_waits_was_itself_stopped_does_not_count(said):
    watchdog = stalls.Stalls(Board(), [0, 1], 0, CallLog(0))
    watchdog.limit(10, 600)
    now = time.perf_counter()
    assert watchdog.too_long(now - 1000, lambda: ([1], "a call")) is None and not said
    watchdog.limit(None, 2)
    with mock.patch("time.perf_counter", lambda: now + 2.5):
        assert "waited for rank 1 for 2 s in a call" in str(watchdog.too_long(now - 1000, lambda: ([1], "a call")))
