"""Local SGD with H = 1 and without momentum is synchronous SGD: it gives on every rank what one plain rank gets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import DIGITS_TRAIN, fit, off, on_one_rank
from worlds import (
    CLASSES,
    FEATURES,
    Plain,
    TwoDtypes,
    assert_close,
    averaging,
    criterion,
    each_batch,
    loader,
    mlp,
    parameters,
    run,
    train,
    train_on,
)

import npdp
from npdp import optim

PLAIN = ("--momentum", "0", "--dtype", "float64", "--epochs", "2")


def assert_synchronous(program, world_sizes=(1, 2, 3, 4), **options):
    """Assert that with H = 1 a program without momentum gives on every rank what one plain rank gets."""
    wanted = run(1, program, Plain())[0]
    for world_size in world_sizes:
        for rank, got in enumerate(run(world_size, program, averaging(**options))):
            assert_close(got, wanted, f"rank {rank} of {world_size}", 1e-10)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("more", [("7",), ("50", "--accumulate", "3"), ("1437",), ("2", "--epochs", "1"),
                                  ("64", "--weight-decay", "0.01")], ids=str)  # fmt: skip
def test_with_h_1_and_plain_sgd_it_is_synchronous_sgd(ranks, more):
    flags = (*PLAIN, "--global-batch-size", *more)
    alone = on_one_rank("--quiet", *(flag for flag in flags if flag not in ("--accumulate", "3")))
    one = fit("--quiet", "--strategy", "local-sgd", "--local-iterations", "1", *flags, ranks=ranks)
    assert off(one, alone) <= 1e-10
    assert one.end["samples_seen"] == one.end["epochs"] * DIGITS_TRAIN


def without_momentum(way, model, batches):
    return {name: p for name, p in train(way, model, batches, momentum=0).items() if not name.startswith("grad")}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 5))
def test_with_h_1_it_is_synchronous_sgd_for_any_sizes(count, batch_size, world_size):
    assert_synchronous(lambda way: without_momentum(way, mlp(), loader(batch_size, count)), [world_size])


@pytest.mark.parametrize("batch_size", [4, 5, 13])
def test_with_two_dtypes_each_averaging_weighs_by_samples(batch_size):
    def program(way):
        return without_momentum(way, TwoDtypes(), loader(batch_size))

    wanted = run(1, program, Plain())[0]
    for world_size in (2, 3):
        for got in run(world_size, program, averaging()):
            assert_close(got, wanted, f"{world_size} ranks", 1e-6)


def test_with_two_optimisers_each_averaging_weighs_by_samples():
    def program(way):
        model = mlp()
        optimizers = [optim.SGD(model[0].parameters(), lr=0.2), optim.SGD(model[2].parameters(), lr=0.1)]
        model = way.wrap(model)
        for inputs, labels in loader(4):
            criterion(model(inputs), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return parameters(model)

    assert_synchronous(program)


def test_batches_without_a_loader_weigh_by_their_samples():
    """Ranks bring what they have, here 1, 4, 7 rows: no law of partition says how many."""

    def program(way):
        x, y = np.random.default_rng(0).standard_normal((12, FEATURES)), np.arange(12) % CLASSES
        rows = slice(0, 12)
        if npdp.world_size() == 3:
            rows = [slice(0, 1), slice(1, 5), slice(5, 12)][npdp.rank()]
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for _ in range(3):
            optimizer.zero_grad()
            criterion(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return parameters(model)

    assert_synchronous(program, [3])


def test_two_losses_of_one_batch_add_up():
    def iteration(model, optimizer, number, inputs, labels):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        (model(inputs) ** 2).mean().backward()
        optimizer.step()

    assert_synchronous(each_batch(iteration, 4))


def test_a_parameter_left_out_of_the_optimiser_stays_as_it_is():
    def program(way):
        model = mlp()
        optimizer = optim.SGD([model[0].weight, model[2].weight, model[2].bias], lr=0.2)
        model = way.wrap(model)
        for inputs, labels in loader(4):
            train_on(model, optimizer, inputs, labels)
        return parameters(model)

    assert_synchronous(program)
    assert np.array_equal(run(3, program, averaging())[1]["0.bias"], parameters(mlp())["0.bias"])


def test_a_gradient_that_is_thrown_away_counts_no_samples():
    """A backward to look at, on one layer or with zero_grad behind it, trains nothing."""

    def iteration(model, optimizer, number, inputs, labels):
        train_on(model, optimizer, inputs, labels)
        optimizer.zero_grad()
        (model(inputs, 1) ** 2).mean().backward()

    assert_synchronous(each_batch(iteration, 4))


def test_without_shared_memory_it_is_the_same():
    for world_size in (2, 3):
        program = lambda way: without_momentum(way, mlp(), loader(4))  # noqa: E731
        got = run(world_size, program, averaging(), hosts=range(world_size))
        assert_close(got[0], run(1, program, Plain())[0], "", 1e-10)
