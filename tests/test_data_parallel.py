"""Data parallel training is exact: every rank ends up with what one plain rank gets that sees the whole batch.

Each program runs once on one unwrapped rank and then on 1 to 5 ranks (worlds.py), in float64, to 1e-12.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    CLASSES,
    HorovodStyle,
    Parallel,
    Plain,
    assert_as_on_one_rank,
    assert_close,
    criterion,
    dataset,
    gradients,
    loader,
    mlp,
    parameters,
    run,
    train,
)

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader


@pytest.mark.parametrize("batch_size", [1, 4, 7, 13])
def test_training_gives_what_one_rank_gets(batch_size):
    """Parts are uneven, and with batch 1 all ranks but one have none."""
    assert_as_on_one_rank(lambda way: train(way, mlp(), loader(batch_size)))


def test_an_empty_part_is_laid_out_by_its_rows_as_others_are():
    class Rows(nn.Module):
        def __init__(self):
            self.inside = mlp()

        def forward(self, x):
            return self.inside(x.view(len(x), -1, 1).view(len(x), -1))

    assert_as_on_one_rank(lambda way: train(way, Rows(), loader(1), epochs=1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 6), st.sampled_from([1e-5, 2e-4, 25]))
def test_training_gives_what_one_rank_gets_for_any_sizes(count, batch_size, world_size, bucket_cap_mb):
    program = lambda way: train(way, mlp(), loader(batch_size, count), epochs=1)  # noqa: E731
    assert_as_on_one_rank(program, [world_size], Parallel(bucket_cap_mb=bucket_cap_mb))


@pytest.mark.parametrize("algorithm", ["naive", "ring", "halving_doubling", "tree"])
def test_the_algorithm_makes_no_difference_but_rounding(algorithm):
    def program(way):
        npdp.init(algorithm)
        return train(way, mlp(), loader(4))

    assert_as_on_one_rank(program, [3, 4])


def test_the_users_loop_gives_what_one_rank_gets():
    """The README's; the model is wrapped after the optimiser has been made."""

    def program(way):
        npdp.init()
        model = nn.Linear(10, 1, dtype=np.float64, generator=np.random.default_rng(0))
        criterion = nn.MSELoss()
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        x = np.random.default_rng(1).standard_normal((100, 10))
        dataloader = DataLoader(ArrayDataset(x, x.sum(axis=1, keepdims=True)), batch_size=32, shuffle=True)
        model = way.wrap(model)
        losses = []
        for _epoch in range(10):
            for inputs, labels in dataloader:
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(npdp.global_mean(loss.item(), len(inputs)))
        return parameters(model) | {"losses": np.array(losses)}

    assert_as_on_one_rank(program)


def test_wrapping_before_the_optimiser_is_made_is_the_same():
    def program(way):
        model = way.wrap(mlp())
        return train(Plain(), model, loader(4))

    assert_as_on_one_rank(program, [1, 3])


SERVER = {"strategy": npdp.ParameterServer(0)}
EMPTY_PARTS = [(options, False) for options in ({}, {"update": "fused"}, {"strategy": npdp.LocalSGD(1)}, SERVER)]
EMPTY_PARTS += [(options, True) for options in ({}, {"bucket_cap_mb": 1e-6}, SERVER)]  # others take nothing sparse


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
@pytest.mark.parametrize(("options", "sparse"), EMPTY_PARTS, ids=str)
def test_an_empty_part_counts_for_nothing_also_where_its_loss_is_no_number(options, sparse):
    """A sum over no samples, divided by their number, is NaN, and so is the gradient of what scales it."""

    class Scaled(nn.Module):
        def __init__(self):
            self.embedding = nn.Embedding(4, CLASSES, sparse=sparse, dtype=np.float64)
            self.scale, self.shift = nn.Parameter(np.array(0.5)), nn.Parameter(np.ones(CLASSES))
            self.shift.register_hook(lambda g: 2 * g)

        def forward(self, x, labels):
            each = nn.CrossEntropyLoss(reduction="none")(self.embedding(labels) + self.shift, labels)
            return each.sum() / len(x) * self.scale

    def program(way):
        npdp.manual_seed(0)
        model = Scaled()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        wrapped = way.wrap(model)
        for inputs, labels in loader(2, count=5):
            optimizer.zero_grad()
            wrapped(inputs, labels).backward()
            optimizer.step()
        if isinstance(wrapped, nn.DataParallel):
            wrapped.synchronize()
        return parameters(model)

    assert_as_on_one_rank(program, (2, 5), Parallel(**options))


def test_a_penalty_on_the_parameters_counts_once():
    def program(way):
        model = way.wrap(mlp())
        for x, y in loader(4):
            penalty = sum((p * p).sum() for p in model.parameters())
            (criterion(model(x), y) + 0.01 * penalty).backward()
        return gradients(model)

    assert_as_on_one_rank(program)


@pytest.mark.parametrize("way", [Parallel(), HorovodStyle()], ids=["the model wrapped", "the optimiser wrapped"])
def test_dropout_masks_the_same_rows_however_many_ranks_share_them(way):
    assert_as_on_one_rank(lambda way: train(way, mlp(dropout=0.4), loader(5)), way=way)


@pytest.mark.parametrize(("batch_size", "pieces"), [(3, 1), (4, 1), (4, 2)])
def test_dropout_masks_alike_where_two_loaders_take_turns(batch_size, pieces):
    """Of 4 and of 3 samples rank 0 of two has the same rows; a batch in pieces ends with others than a whole one."""

    def program(way):
        model = way.wrap(mlp(dropout=0.4))
        accumulate = pieces if isinstance(way, Parallel) else 1
        others = iter(loader(4))
        for number, (x, y) in enumerate(loader(batch_size, 8, accumulate=accumulate), 1):
            criterion(model(x), y).backward()
            if number % accumulate == 0:
                x, y = next(others)
                criterion(model(x), y).backward()
        return gradients(model)

    assert_as_on_one_rank(program)


def test_clipping_sees_the_global_gradient():
    def program(way):
        model = way.wrap(mlp())
        optimizer = optim.SGD(model.parameters(), lr=1.0)
        norms = []
        for x, y in loader(4):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            norms.append(optim.clip_grad_norm_(model.parameters(), 0.05))
            optimizer.step()
        return parameters(model) | {"norms": np.array(norms)}

    assert_as_on_one_rank(program)


def test_a_hook_sees_the_local_gradient_before_the_exchange_and_may_replace_it():
    """Local means: of the mean over this rank's own samples, as if there were no other rank."""
    x, y = dataset(6).take(np.arange(6))

    def alone(rows):
        model = mlp()
        criterion(model(npdp.Tensor(x[rows])), y[rows]).backward()
        return gradients(model)["2.weight"]

    def program():
        model = nn.DataParallel(mlp())
        seen = []
        weight = dict(model.named_parameters())["2.weight"]

        def hook(gradient):
            seen.append(np.array(gradient))
            return gradient * 2

        weight.register_hook(hook)
        inputs, labels = next(iter(DataLoader(dataset(6), 6)))
        criterion(model(inputs), labels).backward()
        return seen, np.array(weight.grad)

    parts = [slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6)]
    for rank, (seen, global_gradient) in enumerate(run(4, program)):
        assert len(seen) == 1
        assert_close({"local": seen[0]}, {"local": alone(parts[rank])}, f"rank {rank}")
        assert_close({"global": global_gradient}, {"global": 2 * alone(slice(0, 6))}, f"rank {rank}")
