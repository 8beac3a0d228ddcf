"""Local SGD: with H = 1 it is synchronous SGD, with H = 8 it sends an eighth, and all ranks end with the same bits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import DIGITS_TRAIN, fit, off, on_one_rank
from worlds import (
    CLASSES,
    FEATURES,
    Parallel,
    Plain,
    TwoDtypes,
    assert_close,
    criterion,
    loader,
    mlp,
    parameters,
    run,
    train,
)

import npdp
from npdp import nn, optim

LOCAL = ("--quiet", "--strategy", "local-sgd", "--local-iterations")
PLAIN = ("--momentum", "0", "--dtype", "float64", "--epochs", "2")


def averaging(local_iterations=1, **options):
    return Parallel(strategy=npdp.LocalSGD(local_iterations, **options))


def assert_synchronous(program, world_sizes=(1, 2, 3, 4), **options):
    """Assert that with H = 1 a program without momentum gives on every rank what one plain rank gets."""
    wanted = run(1, program, Plain())[0]
    for world_size in world_sizes:
        for rank, got in enumerate(run(world_size, program, averaging(**options))):
            assert_close(got, wanted, f"rank {rank} of {world_size}", 1e-10)


# H = 1
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("more", [("7",), ("50", "--accumulate", "3"), ("1437",), ("2", "--epochs", "1"),
                                  ("64", "--weight-decay", "0.01")], ids=str)  # fmt: skip
def test_with_h_1_and_plain_sgd_it_is_synchronous_sgd(ranks, more):
    flags = (*PLAIN, "--global-batch-size", *more)
    alone = on_one_rank("--quiet", *(flag for flag in flags if flag not in ("--accumulate", "3")))
    one = fit(*LOCAL, "1", *flags, ranks=ranks)
    assert off(one, alone) <= 1e-10
    assert one.end["samples_seen"] == one.end["epochs"] * DIGITS_TRAIN


def without_momentum(way, model, batches):
    return {name: p for name, p in train(way, model, batches, momentum=0).items() if not name.startswith("grad")}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 5), st.integers(1, 3))
def test_with_h_1_it_is_synchronous_sgd_for_any_sizes(count, batch_size, world_size, dtypes):
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
    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for inputs, labels in loader(4):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            (model(inputs) ** 2).mean().backward()
            optimizer.step()
        return parameters(model)

    assert_synchronous(program)


def test_two_losses_of_one_batch_count_its_samples_once():
    """Between two averagings some batches have one loss and some two; parts of 3 and 2 samples, and of 2 and 1."""

    def program(way, at_once):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for number, (inputs, labels) in enumerate(loader(5)):
            optimizer.zero_grad()
            loss, other = criterion(model(inputs), labels), (model(inputs) ** 2).mean()
            if number % 2:
                loss.backward()
            elif at_once:
                (loss + other).backward()
            else:
                loss.backward()
                other.backward()
            optimizer.step()
        model.synchronize()
        return parameters(model)

    wanted, got = (run(2, program, averaging(local_iterations=3), at_once)[0] for at_once in (True, False))
    assert_close(got, wanted)


def test_a_parameter_left_out_of_the_optimiser_stays_as_it_is():
    def program(way):
        model = mlp()
        optimizer = optim.SGD([model[0].weight, model[2].weight, model[2].bias], lr=0.2)
        model = way.wrap(model)
        for inputs, labels in loader(4):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
        return parameters(model)

    assert_synchronous(program)
    assert np.array_equal(run(3, program, averaging())[1]["0.bias"], parameters(mlp())["0.bias"])


def test_a_gradient_that_is_thrown_away_counts_no_samples():
    """A backward to look at, on one layer or with zero_grad behind it, trains nothing."""

    def program(way):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = way.wrap(model)
        for inputs, labels in loader(4):
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            (model(inputs, 1) ** 2).mean().backward()
        return parameters(model)

    assert_synchronous(program)


def test_without_shared_memory_it_is_the_same():
    for world_size in (2, 3):
        program = lambda way: without_momentum(way, mlp(), loader(4))  # noqa: E731
        got = run(world_size, program, averaging(), hosts=range(world_size))
        assert_close(got[0], run(1, program, Plain())[0], "", 1e-10)


# H > 1
def test_with_h_8_an_eighth_is_sent_and_the_digits_are_learned():
    every, eighth = (fit(*LOCAL, h, "--learning-rate", "0.1", ranks=4) for h in ("1", "8"))
    iterations = every.end["iterations"]
    assert iterations == eighth.end["iterations"] == 20 * 23
    assert eighth.end["exchanged_bytes"] * iterations == every.end["exchanged_bytes"] * math.ceil(iterations / 8)
    assert eighth.end["test_accuracy"] >= 0.93
    assert eighth.end["samples_seen"] == 20 * DIGITS_TRAIN


@pytest.mark.parametrize("more", [("--momentum", "0.9"), ("--optimizer", "adam", "--learning-rate", "0.01"),
                                  ("--outer-momentum", "0.5"), ("--model", "mlp", "--hidden", "20"),
                                  ("--outer-learning-rate", "0.7")], ids=str)  # fmt: skip
def test_all_ranks_end_with_the_same_bits(more):
    """npdp.train compares the ranks' parameters at the end; the last iterations are averaged too."""
    one = fit(*LOCAL, "7", "--epochs", "1", *more, ranks=3)
    assert one.code == 0 and one.end["train_loss"] < 2.2


def a_model_of_it(world_size, local_iterations, momentum, outer_lr, lr=0.2, epochs=2, batch_size=5):
    """Train each rank's own copy with NumPy's arithmetic between averagings, and step from mean to mean."""
    loaders = [loader(batch_size, rank=r, world_size=world_size) for r in range(world_size)]
    models = [mlp() for _ in range(world_size)]
    before, velocity, steps = parameters(models[0]), None, 0
    samples = np.zeros(world_size)

    def average():
        nonlocal before, velocity
        share = samples / samples.sum()
        everyones = [parameters(model) for model in models]
        mean = {name: sum(w * p[name] for w, p in zip(share, everyones)) for name in before}
        step = {name: before[name] - mean[name] for name in before}
        if momentum:
            velocity = step if velocity is None else {n: momentum * velocity[n] + step[n] for n in step}
            step = {n: step[n] + momentum * velocity[n] for n in step}
        before = {name: before[name] - outer_lr * step[name] for name in before}
        for model in models:
            for name, p in model.named_parameters():
                p.data[...] = before[name]
        samples[:] = 0

    for _ in range(epochs):
        for batches in zip(*loaders):
            for rank, (inputs, labels) in enumerate(batches):
                models[rank].zero_grad()
                if len(labels):
                    criterion(models[rank](inputs), labels).backward()
                    for p in models[rank].parameters():
                        p.data -= lr * p.grad
                samples[rank] += len(labels)
            steps += 1
            if steps % local_iterations == 0:
                average()
    if steps % local_iterations:
        average()
    return before


def averaged(way, epochs=2, batch_size=5, lr=0.2):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    model = way.wrap(model)
    batches = loader(batch_size)
    for _ in range(epochs):
        for inputs, labels in batches:
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
    model.exchange.synchronize()
    return parameters(model)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.sampled_from([0, 0.5, 0.9]), st.sampled_from([1.0, 0.7]))
def test_it_is_what_a_small_model_of_it_says(world_size, local_iterations, momentum, outer_lr):
    wanted = a_model_of_it(world_size, local_iterations, momentum, outer_lr)
    ranks = run(world_size, averaged, averaging(local_iterations, outer_momentum=momentum, outer_lr=outer_lr))
    for rank, got in enumerate(ranks):
        assert_close(got, wanted, f"rank {rank}", 1e-10)
        assert all(np.array_equal(got[name], ranks[0][name]) for name in got)


def test_synchronise_without_a_step_since_the_last_time_changes_nothing():
    def program():
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        model = nn.DataParallel(model, strategy=npdp.LocalSGD(3, outer_momentum=0.9))
        model.exchange.synchronize()
        for inputs, labels in loader(4):
            criterion(model(inputs), labels).backward()
            optimizer.step()
        model.exchange.synchronize()
        before = parameters(model)
        model.exchange.synchronize()
        return all(np.array_equal(before[name], p) for name, p in parameters(model).items())

    assert all(run(3, program))


# What does not go
@pytest.mark.parametrize(
    "options",
    [{"local_iterations": 0}, {"local_iterations": -1}, {"local_iterations": 1.5}, {"outer_momentum": 1},
     {"outer_momentum": -0.1}, {"outer_momentum": math.nan}, {"outer_lr": 0}, {"outer_lr": math.nan},
     {"outer_lr": math.inf}, {"local_iterations": "8"}, {"outer_momentum": "0.9"}, {"outer_lr": None}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(options):
    with pytest.raises((ValueError, TypeError), match="LocalSGD"):
        npdp.LocalSGD(**options)


def test_sparse_parameters_are_refused():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match='passes over whole parameters .* use all-reduce with update="replicated"'):
        nn.DataParallel(model, strategy=npdp.LocalSGD(1))


def test_an_optimiser_with_parameters_of_another_model_is_refused():
    """They lie in the same arrays, and would be averaged with these."""
    mine, other = nn.Linear(3, 1), nn.Linear(2, 1)
    optim.SGD([*mine.parameters(), *other.parameters()])
    with pytest.raises(ValueError, match="also has 2 parameters of another model"):
        nn.DataParallel(mine, strategy=npdp.LocalSGD(1))


def test_a_model_is_wrapped_once():
    def program():
        model = nn.DataParallel(mlp(), strategy=npdp.LocalSGD())
        with pytest.raises(ValueError, match="exchanged already"):
            nn.DataParallel(model, strategy=npdp.LocalSGD())
        with pytest.raises(ValueError, match="exchanged already"):
            nn.DataParallel(model.module)

    run(2, program)


def test_a_loss_that_is_a_sum_is_refused_as_under_all_reduce():
    def program():
        model = nn.DataParallel(mlp(), strategy=npdp.LocalSGD())
        for inputs, labels in loader(4):
            with pytest.raises(ValueError, match='reduction="sum"'):
                nn.CrossEntropyLoss(reduction="sum")(model(inputs), labels).backward()

    run(2, program)
