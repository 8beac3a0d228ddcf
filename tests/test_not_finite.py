"""One rank's NaN or infinity stops all ranks alike, before a parameter has changed by it; or its update is left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import criterion, loader, mlp, parameters, run

import npdp
from npdp import nn, optim
from npdp.base.errors import Contribution
from npdp.base.partition import part
from npdp.data.sampler import epoch_order

SAMPLES, BATCH, BATCHES = 13, 6, 3
NAMES = [name for name, _ in mlp().named_parameters()]


def rows_of(rank, world_size, iteration):
    """Return the row numbers of a rank's part of a batch."""
    rows = epoch_order(SAMPLES, 0, 0)[iteration * BATCH :][:BATCH]
    return rows[slice(*part(len(rows), world_size, rank))].tolist()


class Bad:
    """Hook of one parameter: on these ranks it puts a value into the gradient of one iteration."""

    def __init__(self, model, ranks, iteration, name, value):
        self.iteration, self.now, self.value = iteration, -1, value
        if npdp.rank() in ranks:
            dict(model.named_parameters())[name].register_hook(self)

    def __call__(self, gradient):
        if self.now != self.iteration:
            return gradient
        gradient = gradient.copy()
        gradient.flat[-1] = self.value
        return gradient


def trained(on_nan, bad, dtype="float64", without=None, **more):
    """Train for a pass; return what was raised, parameters, the optimiser's state, and what the guard has counted.

    Args:
        bad: (ranks, iteration, name, value), what `Bad` takes.
        without: a batch that is left out.
    """
    model = mlp(dtype=np.dtype(dtype))
    optimizer = optim.SGD(model.parameters(), lr=lambda iteration: 0.2 / (1 + iteration), momentum=0.9)
    hook = Bad(model, *bad)
    wrapped = nn.DataParallel(model, on_nan=on_nan, **more)
    error, before = None, None
    for number, (inputs, labels) in enumerate(loader(BATCH)):
        hook.now, before = number, parameters(model)
        if number == without:
            continue
        loss = criterion(wrapped(nn_input(inputs, dtype)), labels)
        optimizer.zero_grad()
        try:
            loss.backward()
        except npdp.NotFiniteError as raised:
            error = raised
            break
        optimizer.step()
    after = parameters(model)
    guard = wrapped.strategy.guard
    return {"error": error, "same": all(np.array_equal(before[name], after[name]) for name in after),
            "parameters": after, "state": optimizer.state_dict(), "iteration": optimizer.iteration,
            "skipped": guard and guard.skipped, "last": guard and guard.last}  # fmt: skip


def nn_input(inputs, dtype):
    return inputs if dtype == "float64" else type(inputs)(inputs.array.astype(dtype), inputs.batch)


worlds = st.integers(1, 5)
algorithms = st.sampled_from(["auto", "shared_memory", "ring", "tree", "naive", "halving_doubling"])
values = st.sampled_from([np.nan, np.inf, -np.inf])
dtypes = st.sampled_from(["float32", "float64"])


@settings(max_examples=40, deadline=None)
@given(worlds, algorithms, values, dtypes, st.sampled_from(NAMES), st.integers(0, BATCHES - 1), st.data())
def test_all_ranks_raise_alike_and_say_whose_it_was_with_all_parameters_as_they_were(
    world_size, algorithm, value, dtype, name, iteration, data
):
    ranks = [r for r in range(world_size) if rows_of(r, world_size, iteration)]  # a part of no samples gives zeros
    ranks = sorted(data.draw(st.sets(st.sampled_from(ranks), min_size=1), "ranks"))
    bad = ranks, iteration, name, value
    if algorithm == "shared_memory" and world_size == 1:
        algorithm = "auto"
    found = run(world_size, trained, "raise", bad, dtype, algorithm=algorithm)
    wanted = [Contribution(rank, name, rows_of(rank, world_size, iteration)) for rank in ranks]
    for each in found:
        assert each["error"].iteration == iteration + 1 and each["error"].contributions == wanted
        assert str(each["error"]) == str(found[0]["error"]) and f"rank {ranks[0]}'s" in str(each["error"])
        assert each["same"] and each["iteration"] == iteration
        np.testing.assert_equal(each["parameters"], found[0]["parameters"])


@settings(max_examples=25, deadline=None)
@given(worlds, algorithms, values, dtypes, st.sampled_from(NAMES), st.integers(0, BATCHES - 1))
def test_an_update_that_is_skipped_leaves_what_a_run_without_that_batch_leaves(
    world_size, algorithm, value, dtype, name, iteration
):
    if algorithm == "shared_memory" and world_size == 1:
        algorithm = "auto"
    got = run(world_size, trained, "skip", ([0], iteration, name, value), dtype, algorithm=algorithm)
    wanted = run(world_size, trained, None, ([0], BATCHES, name, value), dtype, iteration, algorithm=algorithm)
    for each, other in zip(got, wanted):
        assert (each["skipped"], each["iteration"]) == (1, BATCHES - 1) == (1, other["iteration"])
        assert each["last"].contributions == [Contribution(0, name, rows_of(0, world_size, iteration))]
        np.testing.assert_equal(each["state"], other["state"])
        np.testing.assert_equal(each["parameters"], other["parameters"])


def test_without_on_nan_nobody_looks():
    for each in run(2, trained, None, ([1], 0, NAMES[0], np.nan)):
        assert each["error"] is None and each["iteration"] == BATCHES
        assert np.isnan(each["parameters"][NAMES[0]]).any()


def test_a_plain_allreduce_passes_nan_on():
    def program():
        array = np.array([1.0, np.nan if npdp.rank() else 2.0, np.inf])
        for algorithm in ("auto", "ring"):
            npdp.allreduce(array, algorithm=algorithm)
        return array

    for array in run(2, program):
        np.testing.assert_array_equal(np.isfinite(array), [True, False, False])


@pytest.mark.parametrize("algorithm", ["auto", "ring", "naive"])
def test_a_sum_that_overflows_though_each_gradient_is_finite_is_all_ranks(algorithm):
    def program():
        model = nn.DataParallel(nn.Linear(1, 1, bias=False, dtype=np.float64), on_nan="raise")
        with pytest.raises(npdp.NotFiniteError) as raised:
            (model(np.full((2, 1), 1.2)) * np.finfo(np.float64).max).mean().backward()
        return raised.value.contributions

    assert run(2, program, algorithm=algorithm) == [[Contribution(rank, "weight", None) for rank in range(2)]] * 2


def test_what_on_nan_may_be():
    with pytest.raises(ValueError, match="no on_nan 'stop'; there are raise, skip, or None"):
        nn.DataParallel(mlp(), on_nan="stop")
    with pytest.raises(npdp.InputError, match="on_nan"):
        run(2, lambda: nn.DataParallel(mlp(), on_nan=["raise", "skip"][npdp.rank()]))
