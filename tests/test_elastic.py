"""Elastic training on threads: whoever dies when, the result is that of one undisturbed rank."""

from unittest import mock

import numpy as np
from deaths import run_mortal
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import CLASSES, FEATURES, assert_close, criterion, dataset, parameters

import npdp
from npdp import nn, optim
from npdp.base.random import default_generator
from npdp.comm.thread_deaths import Death
from npdp.data import DataLoader
from npdp.data.sampler import shard
from npdp.elastic import State, checkpoint, run
from npdp.elastic.ledger import expected_checksum
from npdp.parallel.world import init

SAMPLES, BATCH, EPOCHS = 29, 5, 3
ALGORITHMS = ["auto", "ring"]
EVENTS = 500  # about as many as a rank of these worlds has


def of_dropout():
    return nn.Sequential(nn.Linear(FEATURES, 6, dtype=np.float64), nn.Tanh(), nn.Dropout(0.3),
                         nn.Linear(6, CLASSES, dtype=np.float64))  # fmt: skip


def of_batch_norm():
    return nn.Sequential(nn.Linear(FEATURES, 6, bias=False, dtype=np.float64), nn.BatchNorm1d(6, dtype=np.float64),
                         nn.Linear(6, CLASSES, dtype=np.float64))  # fmt: skip


MODELS = {"dropout": of_dropout, "batch norm": of_batch_norm}
OPTIMIZERS = {"momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9), "adam": lambda p: optim.Adam(p, lr=0.01)}


def training(model, optimizer, spares=None):
    """Return a program that trains through deaths, and returns all that is to be the same."""

    def program():
        npdp.manual_seed(3)
        workers = None if spares is None else max(1, init().world_size - spares)
        made = MODELS[model]()
        updates = OPTIMIZERS[optimizer](made.parameters())
        state = State(nn.DataParallel(made), updates, DataLoader(dataset(SAMPLES), BATCH, shuffle=True), workers)
        losses = {}

        def step(inputs, labels):
            default_generator().random()
            updates.zero_grad()
            loss = criterion(state.model(inputs), labels)
            loss.backward()
            updates.step()
            npdp.global_mean(loss.item(), len(labels))  # a rank may die in it, when the update is done

        run(step, state, EPOCHS, after_epoch=losses.__setitem__)
        ledger = state.ledger
        assert (ledger.samples, ledger.checksum) == (SAMPLES * EPOCHS, expected_checksum(SAMPLES, EPOCHS))
        assert updates.iteration == ledger.done == EPOCHS * -(-SAMPLES // BATCH)
        buffers = {f"buffer {name}": np.array(buffer.data, np.float64) for name, buffer in made.named_buffers()}
        told = {f"loss {epoch}": np.array(loss) for epoch, loss in losses.items()}
        return {**parameters(made), **buffers, **told, "next draw": default_generator().random(1)}

    return program


@st.composite
def worlds(draw):
    """A world with hosts, and who dies at which event; one rank lives."""
    size = draw(st.integers(2, 5))
    hosts = draw(st.sampled_from([[0] * size, list(range(size)), [rank // 2 for rank in range(size)]]))
    dead = draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1, max_size=size - 1))
    return size, hosts, {rank: draw(st.integers(1, EVENTS)) for rank in dead}


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(worlds(), st.sampled_from(ALGORITHMS), st.sampled_from(sorted(MODELS)), st.sampled_from(sorted(OPTIMIZERS)))
def test_whoever_dies_when_the_result_is_that_of_one_undisturbed_rank(world, algorithm, model, optimizer):
    size, hosts, deaths = world
    program = training(model, optimizer)
    wanted = npdp.run_ranks(1, program)[0]
    found = run_mortal(size, deaths, program, hosts, algorithm)
    assert found.keys() >= set(range(size)) - deaths.keys()
    for number, got in found.items():
        assert_close(got, wanted, f"rank {number}", 1e-10)


def test_survivors_that_differ_by_an_update_are_made_the_same():
    program = training("dropout", "adam")
    wanted = npdp.run_ranks(1, program)[0]
    with mock.patch.object(checkpoint, "restore", wraps=checkpoint.restore) as restore:
        for event in range(105, 130):  # each event of an iteration is among them
            for got in run_mortal(3, {1: event}, program, hosts=(0, 1, 2), algorithm="ring").values():
                assert_close(got, wanted, f"rank 1 dies at event {event}", 1e-10)
    assert restore.called


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.integers(3, 5), st.sampled_from(ALGORITHMS), st.data())
def test_spares_take_the_places_of_the_dead(size, algorithm, data):
    spares = data.draw(st.integers(1, size - 2))
    keeps = data.draw(st.integers(0, size - spares - 1))  # a worker that lives: someone must know the state
    mortal = [rank for rank in range(size) if rank != keeps]
    dead = {*data.draw(st.sets(st.sampled_from(mortal))), min(mortal)}
    deaths = {rank: data.draw(st.integers(100, EVENTS)) for rank in dead}
    hosts = data.draw(st.sampled_from([[0] * size, list(range(size))]))
    wanted = npdp.run_ranks(1, training("dropout", "momentum"))[0]
    for got in run_mortal(size, deaths, training("dropout", "momentum", spares), hosts, algorithm).values():
        later = {name for name in wanted.keys() - got.keys() if name.startswith("loss")}  # who joins late knows no more
        assert_close(got, {name: value for name, value in wanted.items() if name not in later}, "", 1e-10)


def test_where_some_have_not_begun_all_begin_again():
    program = training("dropout", "adam")
    wanted = npdp.run_ranks(1, program)[0]
    for event in range(60, 76):  # among them the last of what makes a state
        for got in run_mortal(3, {1: event}, program, hosts=(0, 1, 2), algorithm="ring").values():
            assert_close(got, wanted, f"rank 1 dies at event {event}", 1e-10)


def test_an_update_that_is_left_out_is_counted_once_where_a_rank_dies_after_the_decision():
    def program():
        model = nn.DataParallel(nn.Linear(FEATURES, CLASSES, dtype=np.float64), on_nan="skip")
        updates = optim.SGD(model.parameters(), lr=0.1)
        state = State(model, updates, DataLoader(dataset(SAMPLES), BATCH))
        sum_line = model.strategy._sum_line

        def sum_or_die():
            if state.ledger.done == 2:
                raise Death
            sum_line()

        if shard().begun[0] == 1:
            model.strategy._sum_line = sum_or_die

        def step(inputs, labels):
            updates.zero_grad()
            spoilt = np.nan if state.ledger.done == 2 else 1.0
            (criterion(model(inputs), labels) * spoilt).backward()
            updates.step()

        run(step, state, epochs=1)
        return model.strategy.guard.skipped, updates.iteration, state.ledger.done

    assert run_mortal(3, {}, program) == {0: (1, 5, 6), 2: (1, 5, 6)}
