"""Ranks that do not train alike are told so: in a backward soon after, or, with the fused update, in the step."""

from itertools import pairwise

import numpy as np
import pytest
from worlds import run

import npdp
from npdp import nn, optim
from npdp.nn.parameter import lay_flat
from npdp.parallel.buckets import MARKED_EVERY, cut_buckets

ODD_RANK = 1  # does something else than the others; of three ranks there is one before it and one behind


def trains(differs, update: str = "replicated") -> None:
    """Train until parameters have been compared again; in the third iteration one rank does `differs`, not its step."""
    world = npdp.init()
    npdp.manual_seed(0)
    model = nn.DataParallel(nn.Linear(3, 2), update=update)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = np.random.default_rng(world.rank).standard_normal((2, 4, 3), dtype=np.float32)
    for iteration in range(2 * MARKED_EVERY):
        optimizer.zero_grad()
        nn.MSELoss()(model(x), y[:, :2]).backward()
        if iteration == 2 and world.rank == ODD_RANK:
            differs(model, optimizer)
        else:
            optimizer.step()


def skips_the_step(model, optimizer) -> None:
    pass


def has_another_learning_rate(model, optimizer) -> None:
    optimizer.lr *= 1.25
    optimizer.step()


def sets_a_value(model, optimizer) -> None:
    optimizer.step()
    with npdp.no_grad():
        for parameter in model.parameters():
            parameter += 1


@pytest.mark.parametrize("differs", [skips_the_step, has_another_learning_rate, sets_a_value])
@pytest.mark.parametrize("algorithm", ["auto", "ring"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_whose_parameters_differ_are_told_so(world_size, algorithm, differs):
    with pytest.raises(RuntimeError, match="parameters are not the same any more: of late a rank has skipped"):
        run(world_size, trains, differs, algorithm=algorithm)


def trains_with_values_of_its_own(layers: list[int], which: int) -> None:
    """One rank has set other values in one parameter, which nobody changes since."""
    world = npdp.init()
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in pairwise(layers)))
    wrapped = nn.DataParallel(model)
    with npdp.no_grad():
        parameter = list(model.parameters())[which]
        parameter += float(world.rank == ODD_RANK)
    for _ in range(10 * MARKED_EVERY):
        wrapped(np.ones((4, layers[0]), np.float32)).mean().backward()


@pytest.mark.parametrize("sizes", [[1], [2, 2], [4, 8, 2, 16], [8] * 8, [3, 0, 5]], ids=str)
def test_marks_look_at_all_values_of_all_parameters(sizes):
    parameters = [nn.Parameter(np.zeros(size, np.float32)) for size in sizes]
    (flat,) = lay_flat(parameters)
    (bucket,) = cut_buckets(flat, list(range(len(sizes))))
    flat.data.view(np.int32)[:] = np.arange(flat.data.size)  # marks are a value's last 8 bits
    values = {at for start, size in zip(flat.starts, sizes) for at in range(start, start + size)}
    assert values <= {bucket.marked(turn) for turn in range(len(sizes) * max(sizes))}


@pytest.mark.parametrize(("layers", "which"), [*(([3, 2, 2], which) for which in range(4)), ([1, 1], 1)], ids=str)
def test_marks_look_at_all_parameters_in_turn(layers, which):
    with pytest.raises(RuntimeError, match="parameters are not the same any more"):
        run(2, trains_with_values_of_its_own, layers, which)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_of_which_one_would_update_its_part_with_another_learning_rate_are_told_so(world_size):
    """Fused, in the step itself: parameters are there once, so that their hash would be the same on all ranks."""
    with pytest.raises(RuntimeError, match=r"SGD.step: the learning rate of rank \d is 0.1(25)?, and of another rank"):
        run(world_size, trains, has_another_learning_rate, "fused")
