"""With a staleness each sample is used exactly once, however work is handed out, and staleness keeps to its bound."""

import math
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import handed_out, numbers, served, slow, staleness_of, wrapped_for_numbers
from training import DIGITS_TRAIN
from worlds import Parallel, assert_close, criterion, parameters, run, train_on

import npdp
from npdp import nn, optim
from npdp.data import DataLoader


# Staleness, and each sample exactly once
def test_a_slow_worker_makes_gradients_stale_within_the_bound_and_without_one_further():
    seen = {s: staleness_of(slow(s, "--inject", "delay@ms=1")) for s in ("0", "1", "inf")}
    assert set(seen["0"]) == {0}
    assert 0 < max(seen["1"]) <= (3 - 1) * (2 * 1 + 1)
    assert max(seen["inf"]) > max(seen["1"])


@pytest.mark.parametrize("servers", [1, 2, 0])
@pytest.mark.parametrize("staleness", ["1", "2", "inf"])
@pytest.mark.parametrize("more", [(), ("--accumulate", "3"), ("--global-batch-size", "2", "--epochs", "1")], ids=str)
def test_each_sample_is_used_exactly_once_an_epoch_also_with_a_slow_worker(staleness, servers, more):
    one = slow(staleness, *more, servers=servers, factor=1.5 if "2" in more else 10)
    assert one.end["samples_seen"] == one.end["epochs"] * DIGITS_TRAIN
    assert sum(staleness_of(one).values()) == one.end["pushes"] == one.end["iterations"]
    assert one.end["train_loss"] < (2.5 if one.end["epochs"] == 1 else 1)


# The loader with work that is handed out
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 30), st.integers(1, 33), st.integers(1, 4), st.integers(0, 2), st.sampled_from([1, 2, math.inf]),
       st.integers(1, 3), st.booleans())  # fmt: skip
def test_assigned_work_is_each_sample_once_a_pass(count, batch_size, workers, servers, staleness, accumulate, memory):
    program = lambda way: handed_out(way, count, batch_size, 3, accumulate=accumulate)  # noqa: E731
    got = served(program, servers, workers, memory, staleness)
    for number in range(3):
        assert Counter(label for seen in got for label in seen[number]) == Counter(range(count))


@pytest.mark.parametrize("staleness", [1, math.inf])
@pytest.mark.parametrize("at", [(0, 0, 0), (1, 0, 2), (2, 1, 1)])
def test_a_pass_that_a_worker_breaks_off_is_finished_by_the_others_and_the_next_one_is_whole(at, staleness):
    program = lambda way: handed_out(way, 60, 6, 3, breaks=at, wait_s=0.001)  # noqa: E731
    got = served(program, 1, 3, staleness=staleness)
    for number in range(3):
        seen = Counter(label for one in got for label in one[number])
        assert max(seen.values()) == 1
        assert len(seen) >= 60 - 2 * (number == at[1]), "more was lost than what the worker had in hand"


@pytest.mark.parametrize("staleness", [1, math.inf])
def test_what_a_worker_had_in_hand_when_it_left_in_the_midst_of_a_pass_is_done_by_the_others(staleness):
    has_left = threading.Event()

    def program(way):
        model, optimizer, batches = wrapped_for_numbers(way, 60, 6)
        seen = []
        for step, (x, y) in enumerate(batches):
            if npdp.rank() == 1 and step == 2:
                model.strategy.leave()
                has_left.set()
                return seen
            criterion(model(x), y).backward()
            optimizer.step()
            seen += y.data.tolist()
            if npdp.rank() == 0 and len(seen) == 6:  # items of three: one more than the bound lets it go ahead
                assert has_left.wait(20)
        return seen

    got = served(program, 1, 2, staleness=staleness)
    assert Counter(label for seen in got for label in seen) == Counter(range(60))


def short_passes(way, seed):
    """Go from pass to pass without a barrier, with pauses, and break some off."""
    dice = random.Random(seed * 10 + npdp.rank())
    model, optimizer, batches = wrapped_for_numbers(way, 20, 4)
    for _ in range(40):
        stop = dice.randint(1, 3) if dice.random() < 0.3 else None
        for step, (x, y) in enumerate(batches):
            if step == stop:
                break
            criterion(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            time.sleep(dice.random() * 0.002 * (dice.random() < 0.3))


def test_many_short_passes_end():
    """Workers are idle, return and hold each other up all the time."""
    way = Parallel(strategy=npdp.ParameterServer(2, staleness=1))
    for seed in range(6):
        run(5, short_passes, way, seed)


@pytest.mark.parametrize("staleness", [0, 1, math.inf])
@pytest.mark.parametrize("where", ["after", "within"])
def test_another_loader_may_be_gone_through_after_a_pass_or_within_one(where, staleness):
    """An evaluation now and then, as everybody has it."""

    def program(way):
        model = nn.Linear(2, 61, dtype=np.float64)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        batches, held_out = DataLoader(numbers(60), 6, shuffle=True), DataLoader(numbers(20), 5)
        model = way.wrap(model)
        trained, evaluated = [], []
        for _ in range(2):
            for step, (x, y) in enumerate(batches):
                trained += y.data.tolist()
                optimizer.zero_grad()
                criterion(model(x * 0.01), y).backward()
                optimizer.step()
                if where == "within" and step == 3:
                    evaluated += [label for _, labels in held_out for label in labels.data.tolist()]
            if where == "after":
                evaluated += [label for _, labels in held_out for label in labels.data.tolist()]
        return trained, evaluated

    got = served(program, 1, 2, staleness=staleness)
    assert Counter(label for trained, _ in got for label in trained) == Counter(list(range(60)) * 2)
    assert Counter(label for _, evaluated in got for label in evaluated) == Counter(list(range(20)) * 2)


def test_a_loader_that_only_one_worker_has_does_not_make_others_train_twice():
    """Rank 0 looks at how it is doing, on its own."""

    def program(way):
        if npdp.rank() == 0:
            DataLoader(numbers(5), 5, rank=0, world_size=1)
        return handed_out(way, 40, 4, 1)

    got = served(program, 1, 2, staleness=1)
    assert Counter(label for seen in got for label in seen[0]) == Counter(range(40))


def test_two_steps_on_one_batch_are_both_applied_and_no_work_is_lost():
    def program(way):
        model, optimizer, batches = wrapped_for_numbers(way, 60, 6, shuffle=True)
        seen = []
        for x, y in batches:
            seen += y.data.tolist()
            for _ in range(2):
                train_on(model, optimizer, x, y)
        model.strategy.synchronize()
        return seen, model.strategy.end_training()["pushes"], len(seen)

    got = served(program, 1, 2, staleness=1)
    assert Counter(label for seen, *_ in got for label in seen) == Counter(range(60))
    assert got[0][1] == 2 * 2 * 10


def test_arrays_in_place_of_the_loaders_tensors_do_not_make_workers_wait_for_each_other():
    """A user's transformation may give plain arrays; workers then make different numbers of steps."""

    def program(way):
        model, optimizer, batches = wrapped_for_numbers(way, 60, 6, shuffle=True)
        seen = []
        for x, y in batches:
            optimizer.zero_grad()
            criterion(model(np.array(x.data) * 0.1), y.data).backward()
            optimizer.step()
            seen += y.data.tolist()
            time.sleep(0.003 * npdp.rank())
        return seen

    got = served(program, 1, 2, staleness=math.inf)
    assert Counter(label for seen in got for label in seen) == Counter(range(60))


def test_after_a_collective_a_worker_is_waited_for_again():
    """Worker 1 has a gradient in hand, and worker 0 would take six steps before it is pushed."""
    has_stepped = threading.Event()

    def train(way):
        model = nn.Linear(2, 1, dtype=np.float64)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        model(np.ones((2, 2))).mean().backward()
        npdp.barrier()
        if npdp.rank():
            has_stepped.wait(0.3)
        for _ in range(1 if npdp.rank() else 6):
            optimizer.step()
        has_stepped.set()
        return model.strategy.end_training()["staleness_histogram"]

    for histogram in served(train, 1, 2, staleness=1):
        assert max(map(int, histogram)) <= 3


@pytest.mark.parametrize("staleness", [1, math.inf])
def test_without_a_loader_the_mean_gradient_of_a_workers_own_rows_is_applied(staleness):
    def program(way):
        model = nn.Linear(2, 1, dtype=np.float64, generator=np.random.default_rng(0))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model = way.wrap(model)
        x = np.array([[1.0, 2.0]] * (1 + 3 * npdp.rank()))
        for _ in range(npdp.rank() * 2 + 1):
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
        model.strategy.synchronize()
        return parameters(model)

    before = parameters(nn.Linear(2, 1, dtype=np.float64, generator=np.random.default_rng(0)))
    for got in served(program, 1, 2, staleness=staleness):
        assert_close({"bias": got["bias"]}, {"bias": before["bias"] - 0.4})
