"""In whichever order messages arrive at a parameter server's shards, nothing is lost and nobody waits for ever.

`Play` has pure servers, and workers that keep to worker.py's protocol. Who comes next is drawn: by Hypothesis, a rule a
move, or by a random number. Parameters are the list of the pushes applied, so an answer shows a prefix of it.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from server_play import STALENESSES, play


class Servers(RuleBasedStateMachine):
    """Hypothesis draws who comes next, and who breaks off, pulls or leaves early."""

    @initialize(
        staleness=st.sampled_from(STALENESSES), workers=st.integers(1, 5), shards=st.integers(1, 3),
        items=st.integers(0, 7),
    )  # fmt: skip
    def begin(self, staleness, workers, shards, items):
        self.early = False
        self.play = play(staleness, workers, shards, items=items or (0 if staleness else 1))

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

    @precondition(lambda self: self.play.assigns)
    @rule(data=st.data())
    def one_breaks_off(self, data):
        working = [n for n, w in enumerate(self.play.workers) if w.state == "working"]
        if working:
            self.early = True
            self.play.end_pass(data.draw(st.sampled_from(working)))

    @rule(data=st.data())
    def one_looks(self, data):
        out = [n for n, w in enumerate(self.play.workers) if w.state == "out"]
        if out and self.play.assigns:
            self.play.pull(data.draw(st.sampled_from(out)))

    @rule(data=st.data())
    def one_leaves_early(self, data):
        out = [n for n, w in enumerate(self.play.workers) if w.state == "out"]
        if out and self.play.assigns:
            self.early = True
            self.play.leave(data.draw(st.sampled_from(out)))

    @invariant()
    def nobody_waits_for_ever(self):
        if hasattr(self, "play"):
            self.play.check_progress()
            for k in self.play.shards:
                self.play.check_shard(k)

    def teardown(self):
        if not hasattr(self, "play"):
            return
        self.play.breaks = {(-1, -1): 0} if self.early else {}  # no pass need be whole then
        self.play.run(random.Random(self.play.delivered).choice)


Servers.TestCase.settings = settings(
    max_examples=120, stateful_step_count=60, deadline=None, report_multiple_bugs=False
)
TestServers = Servers.TestCase


# The same at random, many times
def at_random(seed, staleness, workers, shards):
    """Play one game in which some workers, and the network, are slow."""
    dice = random.Random(seed)
    passes, barrier = dice.randint(1, 12), dice.random() < 0.5
    breaks = {(w, p): dice.randint(1, 3) for w in range(workers) for p in range(passes) if dice.random() < 0.4}
    game = play(staleness, workers, shards, passes=passes, items=dice.randint(1, 8), barrier=barrier,
                breaks=breaks if staleness and dice.random() < 0.5 else {})  # fmt: skip
    pace, net = [dice.choice([1, 1, 1, 20]) for _ in range(workers)], dice.choice([1, 5, 50])

    def choose(moves):
        weights = [net * dice.choice([0.1, 1]) if isinstance(what, tuple) else pace[what] for _, what in moves]
        return dice.choices(moves, weights)[0]

    game.run(choose)


@pytest.mark.parametrize("staleness", STALENESSES)
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_no_order_of_arrival_loses_an_item_or_brings_workers_to_a_stop(staleness, shards):
    for seed in range(300):
        at_random(seed, staleness, 1 + seed % 5, shards)


def test_shards_that_see_an_idle_worker_return_at_different_moments_do_not_wait_crosswise():
    """If each shard raised a returning worker's iterations by itself, shard 0 would, and shard 1, which hears of worker
    0's break first, would not."""
    game = play(1, 2, 2, items=12, passes=4)

    def deliver(*channels):
        for channel in channels:
            while game.under_way[channel]:
                game.deliver(channel)

    def work(number, items):
        for _ in range(items):
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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([1, 2, 3]))
def test_with_one_shard_a_slow_worker_takes_staleness_to_its_bound_at_most(seed, workers, staleness):
    at_random(seed, staleness, workers, 1)
