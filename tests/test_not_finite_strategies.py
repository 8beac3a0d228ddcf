"""What becomes of a gradient that is not finite in each way to train together, and in each way to add gradients up."""

import math

import numpy as np
import pytest
from needs import needs_shared_memory
from test_not_finite import BATCH, BATCHES, NAMES, Bad, rows_of, trained
from worlds import Parallel, Plain, criterion, each_batch, loader, mlp, parameters, run, train_on

import npdp
from npdp import nn, optim
from npdp.base.errors import Contribution

ALONE = {
    "local SGD": lambda: npdp.LocalSGD(2),
    "asynchronous servers": lambda: npdp.ParameterServer(0, math.inf),
    "synchronous servers": lambda: npdp.ParameterServer(0),
}


def poisoned(on_nan, iteration, rank, epochs=1, **more):
    """Train with a loss that is NaN on one rank in one of its iterations; return what was raised, or what is left."""
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    strategy = more.pop("strategy", lambda: None)()
    wrapped = nn.DataParallel(model, on_nan=on_nan, strategy=strategy, **more)
    number = 0
    for _ in range(epochs):
        for inputs, labels in loader(BATCH):
            loss = criterion(wrapped(inputs), labels)
            optimizer.zero_grad()
            (loss * math.nan if (number, npdp.rank()) == (iteration, rank) else loss).backward()
            optimizer.step()
            number += 1
    wrapped.synchronize()
    return parameters(model), optimizer.iteration, wrapped.strategy.guard.skipped


def raised(*arguments, **more):
    """Return what `poisoned` raises on this rank."""
    with pytest.raises(npdp.NotFiniteError) as error:
        poisoned(*arguments, **more)
    return error.value.iteration - 1, error.value.contributions


def without_one(model, optimizer, number, inputs, labels):
    """Do an iteration, but not the second one."""
    if number != 1:
        train_on(model, optimizer, inputs, labels)


# ---- fused
@pytest.mark.parametrize("options", [
    pytest.param({}, marks=needs_shared_memory, id="one host"), pytest.param({"algorithm": "ring"}, id="ring"),
    pytest.param({"hosts": (0, 0, 1, 1)}, marks=needs_shared_memory, id="two hosts"),
])  # fmt: skip
def test_a_fused_update_raises_alike_on_all_ranks_in_the_same_step(options):
    found = run(4, lambda: raised("raise", 1, 2, update="fused"), **options)
    assert found == [(1, [Contribution(2, NAMES[0], rows_of(2, 4, 1))])] * 4


@needs_shared_memory
def test_a_fused_update_of_two_parameter_groups_names_samples_and_the_group_that_is_stepped_first():
    def program():
        model = mlp()
        groups = [{"params": list(layer.parameters())} for layer in (model[0], model[2])]
        optimizer = optim.Adam(groups, lr=0.01)
        hook = Bad(model, [1], 2, "2.weight", math.inf)
        wrapped = nn.DataParallel(model, update="fused", on_nan="raise")
        with pytest.raises(npdp.NotFiniteError) as error:
            for number, (inputs, labels) in enumerate(loader(BATCH)):
                hook.now = number
                optimizer.zero_grad()
                criterion(wrapped(inputs), labels).backward()
                optimizer.step()
        return error.value.iteration - 1, error.value.contributions

    assert run(3, program) == [(2, [Contribution(1, "2.weight", rows_of(1, 3, 2))])] * 3


def test_skipping_is_refused_where_it_is_too_late_for_it():
    def program(refused, **options):
        with pytest.raises(ValueError, match=refused):
            nn.DataParallel(mlp(), on_nan="skip", **options)

    run(2, lambda: program('update="fused" sees .* too late: use update="replicated"', update="fused"))
    run(2, lambda: program("use all-reduce, or a staleness above 0", strategy=npdp.ParameterServer(0)))


# ---- ranks that update, or push, by themselves
@pytest.mark.parametrize("strategy", ALONE)
def test_a_rank_that_updates_by_itself_ends_all_before_its_update(strategy):
    with pytest.raises(npdp.NotFiniteError) as error:
        run(2, lambda: poisoned("raise", 1, 1, epochs=50, strategy=ALONE[strategy]))  # some of each rank's, for sure
    assert error.value.alone and error.value.npdp_rank == 1
    (found,) = error.value.contributions
    assert (found.rank, found.parameter) == (1, NAMES[0])


def test_local_sgd_leaves_out_the_update_of_that_rank_alone():
    """Which counts for nothing then: the other's parameters are the mean."""
    skipping = run(2, lambda: poisoned("skip", 1, 1, strategy=lambda: npdp.LocalSGD(1)))
    alone = run(2, lambda: poisoned("skip", 99, 1, strategy=lambda: npdp.LocalSGD(1)))
    for left, iteration, _ in skipping:
        assert iteration == BATCHES and all(np.isfinite(array).all() for array in left.values())
        assert any((left[name] != alone[0][0][name]).any() for name in left)
    assert [skipped for *_, skipped in skipping] == [0, 1]


def test_asynchronous_servers_change_nothing_by_a_push_that_is_left_out():
    ((left, _, skipped),) = run(1, lambda: poisoned("skip", 1, 0, strategy=ALONE["asynchronous servers"]))
    (wanted,) = run(1, each_batch(without_one, BATCH, lr=0.1, momentum=0.9), Plain())
    assert skipped == 1
    np.testing.assert_equal(left, wanted)


# ---- ways to add gradients up
@pytest.mark.parametrize("accumulate", [2, 3])
def test_with_micro_batches_the_samples_of_all_of_them_are_named(accumulate):
    def program():
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        wrapped = nn.DataParallel(model, on_nan="raise")
        micro_batches = loader(BATCH, accumulate=accumulate)
        with pytest.raises(npdp.NotFiniteError) as error:
            for number, (inputs, labels) in enumerate(micro_batches):
                batch, last = divmod(number, accumulate)
                if not last:
                    optimizer.zero_grad()
                with wrapped.syncing(last == accumulate - 1):
                    loss = criterion(wrapped(inputs), labels)
                    (loss * math.nan if (batch, last, npdp.rank()) == (1, 0, 1) else loss).backward()
                if last == accumulate - 1:
                    optimizer.step()
        return error.value.iteration - 1, error.value.contributions

    assert run(2, program) == [(1, [Contribution(1, NAMES[0], rows_of(1, 2, 1))])] * 2


@pytest.mark.parametrize("options", [{}, {"algorithm": "ring"}, {"hosts": (0, 1, 1)}], ids=str)
def test_buckets_that_leave_during_backward_are_looked_at_too(options):
    found = run(3, lambda: trained("raise", ([2], 1, NAMES[1], math.inf), bucket_cap_mb=1e-6), **options)
    for each in found:
        assert each["error"].contributions == [Contribution(2, NAMES[1], rows_of(2, 3, 1))] and each["same"]


def test_the_naive_strategy_looks_around_its_exchange():
    from npdp.parallel.naive import Naive

    found = run(3, lambda: trained("raise", ([1], 1, NAMES[2], math.nan), strategy=Naive()))
    for each in found:
        assert each["error"].contributions == [Contribution(1, NAMES[2], rows_of(1, 3, 1))] and each["same"]


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
def test_rows_of_a_sparse_parameter_are_looked_at(on_nan):
    def program():
        npdp.manual_seed(1)
        table = nn.Embedding(10, 3, sparse=True, dtype=np.float64)
        optimizer = optim.SGD(table.parameters(), lr=0.1)
        wrapped = nn.DataParallel(table, on_nan=on_nan)
        before = parameters(table)
        values = wrapped(np.array([[1, 2], [npdp.rank(), 4]]))
        loss = (values * (math.inf if npdp.rank() == 1 else 1.0)).mean()
        try:
            loss.backward()
        except npdp.NotFiniteError as error:
            found = error.contributions
        else:
            optimizer.step()
            found = wrapped.strategy.guard.last.contributions
        return found, optimizer.iteration, np.array_equal(before["weight"], parameters(table)["weight"])

    assert run(3, program) == [([Contribution(1, "weight", None)], 0, True)] * 3


def test_a_norm_is_clipped_of_no_gradient_that_is_not_finite():
    def program():
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        wrapped = nn.DataParallel(model, on_nan="skip")
        before = parameters(model)
        ((inputs, labels), *_) = loader(BATCH)
        (criterion(wrapped(inputs), labels) * (math.nan if npdp.rank() else 1.0)).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return math.isnan(norm), all(np.array_equal(before[name], array) for name, array in parameters(model).items())

    assert run(2, program) == [(True, True)] * 2


def test_training_goes_on_after_an_error_that_was_caught_as_if_that_batch_had_not_been():
    def iteration(model, optimizer, number, inputs, labels):
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        bad = number == 1 and npdp.rank() == npdp.world_size() - 1
        try:
            (loss * math.nan if bad else loss).backward()
            optimizer.step()
        except npdp.NotFiniteError:
            assert number == 1

    for world_size in (1, 3):
        got = run(world_size, each_batch(iteration, BATCH, momentum=0.9), Parallel(on_nan="raise"))
        wanted = run(world_size, each_batch(without_one, BATCH, momentum=0.9), Parallel())
        np.testing.assert_equal(got, wanted)


def test_a_distributed_optimizers_exchange_is_looked_at_once_the_model_is_wrapped():
    def program():
        model = mlp()
        optimizer = npdp.DistributedOptimizer(optim.SGD(model.parameters(), lr=0.1))
        wrapped = nn.DataParallel(model, on_nan="raise")
        ((inputs, labels), *_) = loader(BATCH)
        loss = criterion(wrapped(inputs), labels)
        with pytest.raises(npdp.NotFiniteError, match="rank 1's has NaN"):
            (loss * math.nan if npdp.rank() else loss).backward()
        return optimizer.iteration

    assert run(2, program) == [0, 0]
