"""A schedule of one's own: proven for this world before its first use, then as good as one that is built in."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from worlds import run, values

import npdp
from npdp import nn, optim
from npdp.collectives import WrongSchedule, add, put
from npdp.collectives.algorithms import SCHEDULES
from npdp.comm.errors import CommunicationError
from npdp.data import ArrayDataset, DataLoader

SIZES = (1, 2, 3, 5)
DOCS = Path(npdp.__file__).parents[1] / "docs"


def my_ring(world_size):
    """The ring to the left: other sums than the built-in one's."""
    ranks = range(world_size)
    for step in range(world_size - 1):
        yield [add(rank, (rank - 1) % world_size, (rank + step + 1) % world_size) for rank in ranks]
    for step in range(world_size - 1):
        yield [put(rank, (rank - 1) % world_size, (rank + step) % world_size) for rank in ranks]


def the_ring(world_size):
    return list(SCHEDULES["allreduce"]["ring"](world_size))


def broken_ring(world_size):
    steps = the_ring(world_size)
    steps[1] = [move._replace(accumulate=False) if move.source == 1 else move for move in steps[1]]
    return steps


def scatter(world_size):
    return [[add(rank, other, other) for rank in range(world_size) for other in range(world_size) if rank != other]]


def gather(world_size):
    return [[put(rank, other, rank) for rank in range(world_size) for other in range(world_size) if rank != other]]


def chain(world_size, root):
    ranks = [(root + number) % world_size for number in range(world_size)]
    return [[put(source, target, 0, world_size)] for source, target in pairwise(ranks)]


@pytest.mark.parametrize("world_size", SIZES)
def test_each_collective_takes_a_function_of_the_world_size(world_size):
    def program():
        rank, everyone = npdp.rank(), [values(r, 17, "float64") for r in range(world_size)]
        summed = everyone[rank].copy()
        npdp.allreduce(summed, algorithm=my_ring)
        scattered = npdp.reduce_scatter(everyone[rank].copy(), algorithm=scatter)
        gathered = np.zeros(17)
        npdp.allgather(scattered.copy(), gathered, algorithm=gather)
        sent = everyone[rank].copy()
        npdp.broadcast(sent, root=world_size - 1, algorithm=chain)
        total = sum(everyone)
        return [np.array_equal(got, wanted) for got, wanted in
                ((summed, total), (gathered, total), (sent, everyone[-1]))]  # fmt: skip

    assert run(world_size, program) == [[True] * 3] * world_size


def test_a_wrong_one_is_refused_on_all_ranks_alike_and_they_go_on():
    def program():
        with pytest.raises(WrongSchedule) as caught:
            npdp.allreduce(np.ones(8), algorithm=broken_ring)
        buffer = np.ones(8)
        npdp.allreduce(buffer, algorithm=my_ring)
        return caught.value.sentence, buffer[0]

    for sentence, total in run(4, program):
        assert "step 1: rank 2 replaces its chunk 3 by rank 1's: the contribution of rank 2 in it is ov" in sentence
        assert "it should add" in sentence and total == 4


def test_what_the_function_does_wrong_itself_is_its_own_error():
    def program(function):
        npdp.allreduce(np.ones(8), algorithm=function)

    with pytest.raises(ZeroDivisionError):
        run(2, program, lambda world_size: 1 / 0)
    with pytest.raises(TypeError, match="wanted a schedule, which is a list of steps, each a list of moves, got None"):
        run(2, program, lambda world_size: None)


def test_ranks_with_other_schedules_are_told_so_and_nobody_waits_for_ever():
    def program():
        npdp.allreduce(np.ones(8), algorithm=my_ring if npdp.rank() else the_ring)

    with pytest.raises(CommunicationError, match=r"by (my_ring|the_ring)#[0-9a-f]{8}"):
        run(3, program)


def test_one_that_changes_from_call_to_call_is_carried_out_as_it_was_proven():
    calls = []

    def moody(world_size):
        calls.append(world_size)
        return the_ring(world_size) if len(calls) <= 2 else []

    def program():
        sums = []
        for count in (5, 6, 7):
            buffer = np.ones(count)
            npdp.allreduce(buffer, algorithm=moody)
            sums.append(buffer.min())
        return sums

    assert run(2, program) == [[2.0] * 3] * 2 and 1 <= len(calls) <= 2


def test_functions_of_the_same_name_do_not_take_each_others_place():
    def named(maker):
        def mine(world_size):
            return maker(world_size)

        return mine

    def program():
        numbers = np.random.default_rng(npdp.rank()).normal(size=(2, 1001))
        for row, maker in zip(numbers, (my_ring, the_ring)):
            npdp.allreduce(row, algorithm=named(maker))
        return numbers

    def built_in():
        numbers = np.random.default_rng(npdp.rank()).normal(size=(2, 1001))[1]
        npdp.allreduce(numbers, algorithm="ring")
        return numbers

    for mine, its in zip(run(4, program), run(4, built_in)):
        np.testing.assert_array_equal(mine[1], its)


def trained(algorithm):
    """Train with `npdp.init(algorithm=...)`; return the parameters."""
    npdp.init(algorithm=algorithm)
    npdp.manual_seed(3)
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    samples = ArrayDataset(*np.split(np.random.default_rng(1).normal(size=(29, 5)).astype(np.float32), [4], axis=1))
    for x, y in DataLoader(samples, batch_size=7, shuffle=True):
        optimizer.zero_grad()
        nn.MSELoss()(model(x), y).backward()
        optimizer.step()
    return np.concatenate([parameter.data.ravel() for parameter in model.parameters()])


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_training_on_ones_own_ring_gives_the_bits_of_the_built_in_one(world_size):
    for mine, its in zip(run(world_size, trained, the_ring), run(world_size, trained, "ring"), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_init_and_run_ranks_take_one_for_all_reduces_and_other_collectives_choose_themselves():
    def program():
        world = npdp.init()
        buffer, chunk = np.ones(6), np.ones(2)
        npdp.allreduce(buffer)
        npdp.allgather(chunk, np.ones(6))
        return world.chosen("allreduce", 48).split("#")[0], "#" in world.chosen("allgather", 48), buffer[0]

    assert run(3, program, algorithm=my_ring) == [("my_ring", False, 3.0)] * 3

    def refused():
        with pytest.raises(WrongSchedule):
            npdp.init(algorithm=broken_ring)
        return npdp.init().algorithm

    assert run(4, refused) == ["auto"] * 4


def test_the_program_of_the_docs_runs_as_it_stands():
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "schedules.md").read_text(), re.S)
    names = {}
    exec(program, names)
    assert [total.tolist() for total in names["sums"]] == [[4.0] * 6] * 4 and "step 5   " in names["picture"]
