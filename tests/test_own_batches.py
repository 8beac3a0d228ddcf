"""Batches that no loader of npdp made: the user's own arrays, and losses that the user divides."""

import numpy as np
import pytest
from worlds import (
    FEATURES,
    Parallel,
    Plain,
    assert_as_on_one_rank,
    assert_close,
    criterion,
    dataset,
    gradients,
    loader,
    mlp,
    record,
    run,
)

import npdp
from npdp import nn
from npdp.data import ArrayDataset, DataLoader


@pytest.mark.parametrize("counts", [[3, 1, 2], [0, 5, 1], [6, 0, 0]])
def test_the_users_own_arrays_count_by_their_first_dimension(counts):
    cuts = np.cumsum([0, *counts])
    x, y = dataset(6).take(np.arange(6))

    def mine(start, stop):
        model = nn.DataParallel(mlp(dropout=0.3)) if npdp.world_size() > 1 else mlp(dropout=0.3)
        for _ in range(2):
            criterion(model(x[start:stop]), y[start:stop]).backward()
        return gradients(model)

    wanted = run(1, mine, 0, 6)[0]
    for rank, got in enumerate(run(3, lambda: mine(*cuts[npdp.rank() : npdp.rank() + 2]))):
        assert_close(got, wanted, f"rank {rank}")


def test_the_gradient_of_an_input_still_arrives():
    x, y = dataset(4).take(np.arange(4))

    def program(way):
        inputs = npdp.Tensor(x[npdp.rank() :: npdp.world_size()], requires_grad=True)
        criterion(way.wrap(mlp())(inputs), y[npdp.rank() :: npdp.world_size()]).backward()
        return inputs.grad

    wanted = run(1, program, Plain())[0]
    for rank, got in enumerate(run(2, program, Parallel())):
        np.testing.assert_allclose(got, wanted[rank::2], rtol=1e-12)


def test_a_forward_without_gradients_communicates_nothing():
    def program():
        model = nn.DataParallel(mlp())
        recorder = record()
        with npdp.no_grad():
            model(np.ones((2, FEATURES)))
        model(next(iter(loader(4)))[0])
        return recorder.sent

    assert run(2, program, algorithm="ring") == [[], []]  # by messages, which are seen


@pytest.mark.parametrize("loss", [nn.MSELoss(reduction="sum"), nn.CrossEntropyLoss(reduction="sum")], ids=repr)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_summed_loss_is_refused_with_the_reason(loss, world_size):
    def program():
        model = nn.DataParallel(mlp())
        inputs, labels = next(iter(loader(4)))
        targets = labels if isinstance(loss, nn.CrossEntropyLoss) else np.zeros((len(inputs), 3))
        with pytest.raises(ValueError, match='reduction="sum" cannot be used under DataParallel'):
            loss(model(inputs), targets).backward()

    run(world_size, program)


MEANS = {
    "mean": lambda each, count: each.mean(),
    "divided": lambda each, count: each.sum() / max(1, count),
    "weighted": lambda each, count: (each * 3).sum() / max(1, count),
}


@pytest.mark.parametrize("mean", MEANS)
def test_a_mean_of_losses_each_weighs_by_the_samples_whoever_divides(mean):
    def program(way):
        model = way.wrap(mlp())
        for inputs, labels in loader(4):
            MEANS[mean](nn.CrossEntropyLoss(reduction="none")(model(inputs), labels), len(inputs)).backward()
        return gradients(model)

    assert_as_on_one_rank(program)


def test_one_loss_of_two_batches_of_different_sizes_is_exact_where_they_weigh_alike():
    x = np.arange(10.0).reshape(5, 2)

    def gradient(wrap):
        model = nn.Linear(2, 1, dtype=np.float64, generator=np.random.default_rng(0))
        model = nn.DataParallel(model) if wrap else model
        mine = [[x[:2], x[2:5]], [x[1:3], x[:3]]][npdp.rank()]
        mine = mine if wrap else [np.concatenate([x[:2], x[1:3]]), np.concatenate([x[2:5], x[:3]])]
        (nn.MSELoss()(model(mine[0]), mine[0][:, :1]) + nn.MSELoss()(model(mine[1]), mine[1][:, :1])).backward()
        return next(model.parameters()).grad.copy()

    for got in run(2, gradient, True):
        np.testing.assert_allclose(got, run(1, gradient, False)[0], rtol=1e-12)


def test_a_loader_of_the_users_own_shard_weighs_by_what_each_rank_brings():
    x = np.arange(5.0)[:, None]

    def gradient(way):
        model = nn.Linear(1, 1, dtype=np.float64, generator=np.random.default_rng(0))
        mine = x if way == "whole" else x[:2] if npdp.rank() == 0 else x[2:]
        model = model if way == "whole" else nn.DataParallel(model)
        for inputs, labels in DataLoader(ArrayDataset(mine, 2 * mine), batch_size=8, rank=0, world_size=1):
            nn.MSELoss()(model(inputs), labels).backward()
        return next(model.parameters()).grad.copy()

    wanted = run(1, gradient, "whole")[0]
    for got in run(2, gradient, "shards"):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
