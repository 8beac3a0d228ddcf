"""Sparse gradients over the ranks: every rank ends with those of one rank that sees the whole batch."""

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_models import COUNT, dataset, linear, word_data, words
from worlds import Parallel, Plain, assert_as_on_one_rank, criterion, left, run, train_on

import npdp
from npdp import nn, optim
from npdp.autograd.rows import RowGradient
from npdp.data import DataLoader, SparseRows
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.world import init

WORLD_SIZES = (1, 2, 3, 4, 5)


def summed(parameters):
    """Have the gradients of these summed over the ranks, and return what does so."""
    strategy = AllReduce()
    strategy.attach(list(parameters), init())
    return strategy


class Apart(Plain):
    """Sparse and dense parameters each with their own strategy, as two models behind one loss would be."""

    def wrap(self, model):
        found = list(model.parameters())
        model.strategies = [summed([p for p in found if not p.lies_flat])]
        if any(p.lies_flat for p in found):
            model.strategies.append(summed([p for p in found if p.lies_flat]))
        return model

    @contextmanager
    def no_sync(self, model):
        for strategy in model.strategies:
            strategy.syncing = False
        yield
        for strategy in model.strategies:
            strategy.syncing = True


WAYS = [Apart, Parallel]


MODELS = {"linear": (linear, dataset), "words": (words, word_data)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch_size", [1, 4, 13])  # with more ranks than samples some parts are empty
def test_training_ends_as_on_one_rank(kind, way, batch_size):
    def program(way):
        make, data = MODELS[kind]
        model = make()
        optimizer = optim.SGD(model.parameters(), lr=0.3)
        wrapped = way.wrap(model)
        for _ in range(2):
            for inputs, labels in DataLoader(data(), batch_size, shuffle=True):
                train_on(wrapped, optimizer, inputs, labels)
        return left(model)

    assert_as_on_one_rank(program, WORLD_SIZES, way(), 1e-10)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("algorithm", ["auto", "ring", "naive"])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_all_ranks_have_the_same_bits_in_any_algorithm_and_twice(way, algorithm, world_size):
    def program(dtype):
        model = linear(dtype)
        wrapped = way().wrap(model)
        for inputs, labels in DataLoader(dataset(), 7):
            criterion(wrapped(inputs), labels).backward()
        assert type(model.weight.grad) is RowGradient
        assert (np.diff(model.weight.grad.rows) > 0).all()
        return model.weight.grad.rows.tobytes() + model.weight.grad.values.tobytes()

    for dtype in (np.float32, np.float64):
        bits = run(world_size, program, dtype, algorithm=algorithm)
        assert len(set(bits)) == 1
        assert bits == run(world_size, program, dtype, algorithm="auto")


def rows_of(rank, number, found):
    """Return a rank's gradient of a parameter, with other values in each of these rows; None for None."""
    if found is None:
        return None
    values = np.array([[rank + 10 * row + 100 * number + 1.0] * 3 for row in sorted(found)]).reshape(-1, 3)
    return RowGradient(np.array(sorted(found), np.int64), values, (9, 3))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.data())
def test_the_sum_is_that_of_arrays_whatever_each_rank_has(world_size, data):
    few = st.none() | st.sets(st.integers(0, 8))
    rows = [[data.draw(few) for _ in range(2)] for _ in range(world_size)]  # None: not used here

    def program():
        parameters = [nn.SparseParameter(np.zeros((9, 3))) for _ in range(2)]
        strategy = summed(parameters)
        for _ in range(2):
            strategy.begin(npdp.Tensor(np.zeros(())), None, True)
            for number, parameter in enumerate(parameters):
                parameter.grad = rows_of(npdp.rank(), number, rows[npdp.rank()][number])
            strategy.finish()
            found = [p.grad for p in parameters]
            for p in parameters:
                p.grad = None
        return found

    for result in run(world_size, program):
        for number, got in enumerate(result):
            each = [rows_of(rank, number, rows[rank][number]) for rank in range(world_size)]
            used = [gradient for gradient in each if gradient is not None]
            assert (got is None) == (not used)
            if used:
                assert got.rows.tolist() == sorted(set().union(*(gradient.rows.tolist() for gradient in used)))
                assert np.array_equal(got.dense(), sum(gradient.dense() for gradient in used))


@pytest.mark.parametrize("way", WAYS)
def test_several_backwards_add_up_with_and_without_no_sync(way):
    def program(way):
        model = linear()
        wrapped = way.wrap(model)
        found = {}
        for synced in ([True, True], [False, True], [True, False, True], [False, False, True, True]):
            model.zero_grad()
            for sync, (inputs, labels) in zip(synced, DataLoader(dataset(), 3)):
                with nullcontext() if sync else way.no_sync(wrapped):
                    (criterion(wrapped(inputs), labels) / len(synced)).backward()
            found[str(synced)] = np.array(model.weight.grad)
        return found

    assert_as_on_one_rank(program, WORLD_SIZES, way(), 1e-10)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["optimizer", "model"])
def test_a_step_on_gradients_that_were_not_exchanged_is_refused_until_they_are_zeroed(way, who):
    def program():
        mine = way()
        model = linear()
        optimizer, wrapped = optim.SGD([model.weight], lr=0.1), mine.wrap(model)
        inputs, labels = next(iter(DataLoader(dataset(), 5)))
        with mine.no_sync(wrapped):
            criterion(wrapped(inputs), labels).backward()
        before = model.weight.data.copy()
        with pytest.raises(RuntimeError, match="accumulated under no_sync"):
            optimizer.step()
        assert np.array_equal(model.weight.data, before)
        (optimizer if who == "optimizer" else model).zero_grad()
        optimizer.step()
        with mine.no_sync(wrapped):
            criterion(wrapped(inputs), labels).backward()
        criterion(wrapped(inputs), labels).backward()
        optimizer.step()

    run(2, program)


def test_a_parameter_that_one_rank_alone_uses_has_a_gradient_everywhere():
    class Some(nn.Module):
        def __init__(self):
            self.used, self.unused, self.first = (
                nn.Embedding(5, 2, sparse=True, dtype=np.float64) for _ in range(3)
            )

        def forward(self, x):
            y = self.used(x)
            return y + self.first(x) if npdp.rank() == 0 else y

    def program():
        model = Some()
        strategy = summed(model.parameters())
        assert model.used.weight.reducer is strategy
        model(np.array([npdp.rank(), 4])).sum().backward()
        return [None if p.grad is None else p.grad.dense() for p in (model.used.weight, model.first.weight,
                                                                      model.unused.weight)]  # fmt: skip

    for used, first, unused in run(3, program):
        third = np.full(2, 1 / 3)
        np.testing.assert_allclose(used, [third, third, third, 0 * third, third * 3])
        np.testing.assert_allclose(first, [third, 0 * third, 0 * third, 0 * third, third])
        assert unused is None


def test_a_backward_that_fails_leaves_no_gradients():
    def program():
        model = linear()
        summed(model.parameters())
        inputs, labels = next(iter(DataLoader(dataset(), 5)))
        criterion(model(inputs), labels).backward()
        loss = criterion(model(inputs), labels)

        def fail(gradient):
            raise ArithmeticError("in a hook")

        model.bias.register_hook(fail)
        with pytest.raises(ArithmeticError):
            loss.backward()
        assert model.weight.grad is model.bias.grad is None

    run(2, program)


def test_a_sparse_parameter_with_an_array_as_gradient_is_refused():
    def program():
        model = words()
        wrapped = nn.DataParallel(model)
        inputs, labels = next(iter(DataLoader(word_data(), 5)))
        criterion(wrapped(inputs), labels).backward()
        model.embedding.weight.grad = np.zeros(model.embedding.weight.shape)
        with pytest.raises(TypeError, match="an operation that is not sparse read all of it"):
            criterion(wrapped(inputs), labels).backward()

    run(2, program)


@pytest.mark.parametrize("rows_first", [False, True])
def test_a_sparse_parameter_of_which_an_operation_reads_all_is_refused_in_the_step(rows_first):
    layer = nn.Embedding(4, 2, sparse=True)
    losses = [layer(np.array([1, 3])).sum(), (layer.weight * 2.0).sum()]
    for loss in losses if rows_first else reversed(losses):
        loss.backward()
    with pytest.raises(TypeError, match="an operation that is not sparse read all of it"):
        optim.SGD(layer.parameters()).step()


def test_clipping_sees_the_global_gradient():
    def program():
        model = linear()
        summed(model.parameters())
        inputs, labels = next(iter(DataLoader(dataset(), COUNT)))
        criterion(model(inputs), labels).backward()
        return optim.clip_grad_norm_([model.weight], 0.01), np.linalg.norm(np.array(model.weight.grad))

    alone = run(1, program)[0]
    for norm, after in run(3, program):
        assert norm == pytest.approx(alone[0], rel=1e-12) and after == pytest.approx(0.01, rel=1e-3)


def test_data_parallel_takes_rows_that_no_loader_made():
    def program():
        model = linear()
        wrapped = nn.DataParallel(model)
        x, y = dataset().take(slice(npdp.rank(), None, npdp.world_size()))
        assert type(x) is SparseRows
        criterion(wrapped(x), y).backward()
        return np.array(model.weight.grad)

    wanted = run(1, program)[0]
    for got in run(3, program):
        np.testing.assert_allclose(got, wanted, atol=1e-14)


def test_data_parallel_refuses_to_fuse_a_sparse_update():
    with pytest.raises(ValueError, match='sparse ones: use all-reduce with update="replicated"'):
        run(2, lambda: nn.DataParallel(linear(), update="fused"))
