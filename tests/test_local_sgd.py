"""Local SGD: with H = 8 it sends an eighth, each averaging weighs by samples, and all ranks end with the same bits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import DIGITS_TRAIN, fit
from worlds import assert_close, averaging, criterion, loader, mlp, parameters, run, train_on

import npdp
from npdp import nn, optim

LOCAL = ("--quiet", "--strategy", "local-sgd", "--local-iterations")


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
            train_on(model, optimizer, inputs, labels)
    model.strategy.synchronize()
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
        model.strategy.synchronize()
        for inputs, labels in loader(4):
            criterion(model(inputs), labels).backward()
            optimizer.step()
        model.strategy.synchronize()
        before = parameters(model)
        model.strategy.synchronize()
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
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 1))
    with pytest.raises(ValueError, match='passes over whole parameters, .* use all-reduce with update="replicated"'):
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
        with pytest.raises(ValueError, match="is wrapped already"):
            nn.DataParallel(model, strategy=npdp.LocalSGD())
        with pytest.raises(ValueError, match="is wrapped already"):
            nn.DataParallel(model.module)

    run(2, program)


def test_a_loss_that_is_a_sum_is_refused_as_under_all_reduce():
    def program():
        model = nn.DataParallel(mlp(), strategy=npdp.LocalSGD())
        for inputs, labels in loader(4):
            with pytest.raises(ValueError, match='reduction="sum"'):
                nn.CrossEntropyLoss(reduction="sum")(model(inputs), labels).backward()

    run(2, program)
