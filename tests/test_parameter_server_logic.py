"""A shard's logic without transport or arithmetic: whatever the order in which messages arrive, nothing is lost.

`Play` has pure servers, and workers that keep to worker.py's protocol. Who comes next is drawn: by Hypothesis, a rule a
move, or by a random number. Parameters are the list of the pushes applied, so an answer shows a prefix of it.
"""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from server_play import SCHEMES, play

from npdp.parallel.parameter_server import wire
from npdp.parallel.parameter_server.messages import (
    Fetch,
    Idle,
    Leave,
    Pull,
    Push,
    Request,
    Resume,
    Start,
    Unit,
)
from npdp.parallel.parameter_server.policies import policy_for
from npdp.parallel.parameter_server.server import Server


class Servers(RuleBasedStateMachine):
    """Hypothesis draws who comes next, duplicates, and who breaks off, pulls or leaves early."""

    @initialize(
        scheme=st.sampled_from(SCHEMES), workers=st.integers(1, 5), shards=st.integers(1, 3), units=st.integers(0, 7)
    )
    def begin(self, scheme, workers, shards, units):
        scheme = (scheme[0], min(scheme[1], workers - 1))
        shards = 1 if scheme[1] else shards
        self.backups, self.early = scheme[1], False
        self.play = play(scheme, workers, shards, units=units or (0 if any(scheme) else 1))

    @rule(data=st.data())
    def move(self, data):
        moves = self.play.moves()
        if moves:
            move, what = moves[data.draw(st.integers(0, len(moves) - 1))]
            move(what)

    @rule(data=st.data(), steps=st.integers(1, 30))
    def move_one_worker(self, data, steps):
        """One is fast, the others slow."""
        number = data.draw(st.integers(0, len(self.play.workers) - 1))
        for _ in range(steps):
            mine = [m for m in self.play.moves() if m[1] == number or (isinstance(m[1], tuple) and m[1][0] == number)]
            if not mine:
                break
            move, what = mine[0]
            move(what)

    @rule(data=st.data())
    def a_message_comes_again(self, data):
        if self.play.delivered:
            self.play.deliver_again(*data.draw(st.sampled_from(self.play.delivered)))

    @precondition(lambda self: self.play.hands_out)
    @rule(data=st.data())
    def one_breaks_off(self, data):
        working = [n for n, w in enumerate(self.play.workers) if w.state == "working"]
        if working:
            self.early = True
            self.play.end_pass(data.draw(st.sampled_from(working)))

    @rule(data=st.data())
    def one_looks(self, data):
        out = [n for n, w in enumerate(self.play.workers) if w.state == "out"]
        if out and self.play.hands_out:
            self.play.pull(data.draw(st.sampled_from(out)))

    @rule(data=st.data())
    def one_leaves_early(self, data):
        out = [n for n, w in enumerate(self.play.workers) if w.state == "out"]
        if out and self.play.hands_out:
            self.early = True
            self.play.leave(data.draw(st.sampled_from(out)))

    @invariant()
    def nobody_waits_for_ever(self):
        if hasattr(self, "play"):
            self.play.check_progress()
            for k in self.play.shards:
                self.play.check_shard(k, self.backups)

    def teardown(self):
        if not hasattr(self, "play"):
            return
        choose = random.Random(len(self.play.delivered)).choice
        self.play.breaks = {(-1, -1): 0} if self.early else {}  # no pass need be whole then
        while moves := self.play.moves():
            move, what = choose(moves)
            move(what)
            self.play.check_progress()
        assert all(worker.state == "left" for worker in self.play.workers)
        self.play.check_the_end(self.backups)


Servers.TestCase.settings = settings(
    max_examples=120, stateful_step_count=60, deadline=None, report_multiple_bugs=False
)
TestServers = Servers.TestCase


# The same at random, many times
def at_random(seed, scheme, workers, shards):
    """Play one game in which some workers, and the network, are slow."""
    dice = random.Random(seed)
    passes, barrier = dice.randint(1, 12), dice.random() < 0.5
    breaks = {(w, p): dice.randint(1, 3) for w in range(workers) for p in range(passes) if dice.random() < 0.4}
    hands_out = any(scheme)
    game = play(scheme, workers, shards, passes=passes, units=dice.randint(1, 8), barrier=barrier,
                breaks=breaks if hands_out and dice.random() < 0.5 else {})  # fmt: skip
    pace, net = [dice.choice([1, 1, 1, 20]) for _ in range(workers)], dice.choice([1, 5, 50])

    def choose(moves):
        weights = [net * dice.choice([0.1, 1]) if isinstance(what, tuple) else pace[what] for _, what in moves]
        return dice.choices(moves, weights)[0]

    while moves := game.moves():
        move, what = choose(moves)
        move(what)
        game.check_progress()
    assert all(worker.state == "left" for worker in game.workers)
    game.check_the_end(scheme[1])


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_order_of_arrival_loses_a_unit_or_brings_workers_to_a_stop(scheme, shards):
    shards = 1 if scheme[1] else shards  # with backups there is but one
    for seed in range(300):
        workers = max(scheme[1] + 1, 1 + seed % 5)
        at_random(seed, scheme, workers, shards)


def test_shards_that_see_an_idle_worker_return_at_different_moments_do_not_wait_crosswise():
    """If each shard raised a returning worker's iterations by itself, shard 0 would, and shard 1, which hears of worker
    0's break first, would not."""
    game = play((1, 0), 2, 2, units=12, passes=4)

    def deliver(*channels):
        for channel in channels:
            while game.under_way[channel]:
                game.deliver(channel)

    def work(number, units):
        for _ in range(units):
            if game.workers[number].state == "working":
                game.push(number)
            deliver((number, 0), (number, 1))

    game.begin(0)
    deliver((0, 0), (0, 1))
    work(0, 6)
    game.end_pass(0)
    game.begin(1)
    deliver((1, 0), (0, 1), (1, 1), (1, 1), (0, 0))
    work(1, 2)
    game.begin(0)
    deliver((0, 0), (0, 1))
    work(1, 5)
    game.check_progress()


# One thing at a time
def server(staleness=0, workers=2, backups=0, **options):
    applied = []
    return Server(workers, policy_for(workers, staleness, backups), applied.append, **options), applied


def push(worker, sequence, number=0, version=0, request=None, loader=-1):
    """A push whose worker has sent one message before its first."""
    return Push(worker, sequence, Unit(loader, 0, number), version, 1, 2, request=request, completed=sequence - 1)


def test_synchronous_pushes_are_added_in_worker_order_whatever_the_order_in_which_they_come():
    logic, applied = server(workers=3)
    assert list(logic.handle(push(2, 1))) == list(logic.handle(push(0, 1))) == []
    replies = list(logic.handle(push(1, 1)))
    assert [[p.worker for p in update] for update in applied] == [[0, 1, 2]]
    assert sorted(reply.worker for reply in replies) == [0, 1, 2] and {r.version for r in replies} == {1}


@pytest.mark.parametrize("leaves_last", [True, False])
def test_a_worker_that_leaves_while_another_goes_on_is_an_error_that_names_it(leaves_last):
    logic, _ = server()
    messages = [push(0, 1), Leave(1, 1)] if leaves_last else [Leave(1, 1), push(0, 1)]
    with pytest.raises(RuntimeError, match="worker 1 has left while worker 0 goes on"):
        for message in messages:
            list(logic.handle(message))


@pytest.mark.parametrize("idle_last", [True, False])
def test_a_worker_in_a_collective_that_another_has_not_come_to_is_an_error_that_names_both(idle_last):
    logic, _ = server()
    messages = [push(0, 1)._replace(collectives=2), Idle(1, 1, 3)]
    with pytest.raises(RuntimeError, match="worker 1 is in a collective.* while worker 0 takes a step"):
        for message in messages if idle_last else reversed(messages):
            list(logic.handle(message))


@pytest.mark.parametrize("idle_last", [True, False])
def test_a_worker_that_may_still_be_in_a_collective_that_another_has_left_is_waited_for(idle_last):
    logic, applied = server()
    messages = [push(0, 1)._replace(collectives=3), Idle(1, 1, 3)]
    for message in messages if idle_last else reversed(messages):
        assert not list(logic.handle(message))
    assert len(list(logic.handle(push(1, 2)._replace(collectives=3)))) == 2 and len(applied) == 1


def test_with_staleness_1_others_go_on_when_one_leaves():
    logic, applied = server(1)
    for worker in (0, 1):
        list(logic.handle(Start(worker, 1, 0, Request(0, 0, 9, 2))))
    list(logic.handle(Leave(1, 2)))
    for number in range(5):
        assert len(list(logic.handle(push(0, 2 + number, number, number)))) == 1
    assert len(applied) == 5


def test_a_worker_may_be_as_far_ahead_as_the_bound_says_and_no_further():
    for staleness in (1, 2, 5):
        logic, _ = server(staleness)
        for worker in (0, 1):
            list(logic.handle(Start(worker, 1, 0, Request(0, 0, 99, 2))))
        answered = [len(list(logic.handle(push(0, 2 + n, n, n)))) for n in range(staleness + 1)]
        assert answered == [1] * staleness + [0]
        assert [reply.worker for reply in logic.handle(push(1, 2, 77))] == [0, 1]


def test_what_has_not_changed_need_not_be_sent_again():
    logic, _ = server(1)
    (reply,) = logic.handle(Pull(0, 1, 0))
    assert not reply.changed
    list(logic.handle(push(0, 2)))
    (reply,) = logic.handle(Pull(1, 1, 0))
    assert reply.changed and reply.version == 1


def test_a_unit_that_was_applied_is_not_applied_again_whoever_brings_it():
    logic, applied = server(math.inf)
    list(logic.handle(push(0, 1, 3, loader=0)))
    replies = list(logic.handle(push(1, 1, 3, loader=0)))
    assert len(applied) == 1 and [reply.worker for reply in replies] == [1]
    list(logic.handle(push(0, 2, 8)))
    list(logic.handle(push(1, 2, 8)))  # a worker's own units are its own
    assert len(applied) == 3


def test_a_worker_without_a_start_is_not_staler_than_the_bound():
    """Without npdp's loader nobody announces a start: the first push is the first that a server hears of a worker."""
    logic, _ = server(1)
    pushed = 0
    while list(logic.handle(push(0, 2 + pushed, pushed, pushed))):  # as long as it is answered
        pushed += 1
    list(logic.handle(push(1, 2, 0, 0)))
    assert pushed == 1 and max(logic.statistics.staleness) <= 3


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([1, 2, 3]))
def test_with_one_shard_a_slow_worker_takes_staleness_to_its_bound_at_most(seed, workers, staleness):
    at_random(seed, (staleness, 0), workers, 1)


# As numbers
MESSAGES = [
    Push(3, 7, Unit(1, 2, 5), 11, 8, 13, 0.1, (0, 61, 62, 130), Request(1, 2, 9, 4), 6, 10, 4),
    Push(3, 7, Unit(-1, 0, 5), 11, 0, 13, None, (), None, 0, 10),
    Start(3, 7, 11, Request(0, 2, 9, 4), None),
    Start(3, 7, 11, None, 0),
    Idle(3, 7, 4),
    Resume(3, 7, 10),
    Pull(3, 7, 11),
    Fetch(3, 7, 11, 6, True),
    Fetch(3, 7, 11, 0, False),
    Leave(3, 7),
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_header_brings_a_message_as_it_was_whatever_it_held_before(message):
    header = np.full(wire.header_length(131), 5)
    wire.encode(message, 2, header)
    got, shard = wire.decode(3, header)
    assert (repr(got), shard) == (repr(message), 2)
