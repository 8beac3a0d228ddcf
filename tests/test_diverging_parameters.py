"""Ranks whose parameters are not the same any more are told so in a backward soon after: checksums travel along."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from diverging import ODD_RANK, goes_on, has_another_learning_rate, sets_a_value, skips_the_step, trains
from worlds import run

import npdp
from npdp import nn, optim
from npdp.nn.parameter import lay_flat
from npdp.parallel.buckets import BUCKET_CAP_MB, FIRST_BUCKET_MB, cut_buckets
from npdp.parallel.consistency import REPLICAS_EVERY, checksum


def trains_rows(differs) -> None:
    """As `trains`, of a large weight the few rows that a batch touches."""
    npdp.manual_seed(0)
    model = nn.DataParallel(nn.Embedding(10_000, 3, sparse=True))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    numbers = np.random.default_rng(npdp.rank()).integers(0, 10_000, 4)
    goes_on(differs, model, optimizer, lambda model: (model(numbers) ** 2).mean())


@pytest.mark.parametrize("kind", [trains, trains_rows])
@pytest.mark.parametrize("differs", [skips_the_step, has_another_learning_rate, sets_a_value])
@pytest.mark.parametrize("algorithm", ["auto", "ring"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_whose_parameters_differ_are_told_so(world_size, algorithm, differs, kind):
    with pytest.raises(RuntimeError, match="parameters are not the same any more: of late a rank has skipped"):
        run(world_size, kind, differs, algorithm=algorithm)


def trains_with_values_of_its_own(layers: list[int], which: int) -> None:
    """One rank has set other values in one parameter, which nobody changes since."""
    world = npdp.init()
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in pairwise(layers)))
    wrapped = nn.DataParallel(model)
    with npdp.no_grad():
        parameter = list(model.parameters())[which]
        parameter += float(world.rank == ODD_RANK)
    for _ in range(10 * REPLICAS_EVERY):
        wrapped(np.ones((4, layers[0]), np.float32)).mean().backward()


@pytest.mark.parametrize("sizes", [[1], [2, 2], [4, 8, 2, 16], [8] * 8, [3, 0, 5]], ids=str)
def test_checksums_look_at_all_values_of_all_parameters(sizes):
    parameters = [nn.Parameter(np.zeros(size, np.float32)) for size in sizes]
    (flat,) = lay_flat(parameters)
    (bucket,) = cut_buckets(flat, list(range(len(sizes))), BUCKET_CAP_MB, FIRST_BUCKET_MB)
    flat.data.view(np.int32)[:] = np.arange(flat.data.size)  # a checksum is a value's last 8 bits
    values = {at for start, size in zip(flat.starts, sizes) for at in range(start, start + size)}
    assert values <= {checksum(bucket, turn) for turn in range(len(sizes) * max(sizes))}


def looks_at_rows_of_which_one_is_its_own(count: int, which: int) -> None:
    """One rank has set other values in one of the rows that each exchange touches, and that nobody changes since."""
    world = npdp.init()
    npdp.manual_seed(0)
    first, second = nn.Embedding(50, 2, sparse=True), nn.Embedding(20, 1, sparse=True)
    model = nn.DataParallel(nn.ModuleList([first, second]))
    with npdp.no_grad():
        first.weight.data[3 * which] += float(world.rank == ODD_RANK)
    for _ in range((count + 1) * REPLICAS_EVERY):
        model.zero_grad()
        (first(np.arange(count) * 3).mean() + second(np.arange(world.rank)).sum()).backward()


@pytest.mark.parametrize(("count", "which"), [(count, which) for count in (1, 2, 5, 8) for which in {0, 1, count - 1}
                                              if which < count])  # fmt: skip
def test_checksums_look_at_all_rows_that_are_touched_in_turn(count, which):
    with pytest.raises(RuntimeError, match="parameters are not the same any more"):
        run(2, looks_at_rows_of_which_one_is_its_own, count, which)


@pytest.mark.parametrize(("layers", "which"), [*(([3, 2, 2], which) for which in range(4)), ([1, 1], 1)], ids=str)
def test_checksums_look_at_all_parameters_in_turn(layers, which):
    with pytest.raises(RuntimeError, match="parameters are not the same any more"):
        run(2, trains_with_values_of_its_own, layers, which)


class Weighted(nn.Module):
    """A criterion that has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(2, np.float32))

    def forward(self, outputs, labels):
        return ((outputs - labels) ** 2 * self.weight).mean()


def trains_with_a_criterion(update: str, wrap: bool) -> np.ndarray:
    """Train a model, and a criterion that is wrapped or not; return the criterion's parameter."""
    world = npdp.init()
    npdp.manual_seed(0)
    model, criterion = nn.DataParallel(nn.Linear(3, 2), update=update), Weighted()
    weight = criterion.weight
    if wrap:
        criterion = nn.DataParallel(criterion, update=update)
    optimizer = optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
    x, y = np.random.default_rng(world.rank).standard_normal((2, 4, 3), dtype=np.float32)
    for _ in range(3):
        optimizer.zero_grad()
        criterion(model(x), y[:, :2]).backward()
        optimizer.step()
    return weight.data.copy()


@pytest.mark.parametrize("update", ["replicated", "fused"])
def test_parameters_that_nobody_exchanges_are_warned_of(update):
    with pytest.warns(UserWarning, match=r"in no DataParallel \(1, the first of shape \(2,\)\): each rank") as said:
        run(3, trains_with_a_criterion, update, False)
    assert len(said) == 1


@pytest.mark.parametrize("update", ["replicated", "fused"])
def test_a_criterion_may_be_wrapped_as_well(update):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, *others = run(3, trains_with_a_criterion, update, True)
    assert not np.array_equal(first, np.ones(2))
    assert all(np.array_equal(first, other) for other in others)
