"""What is new is one function: a collective algorithm with a line of a table, and a layer with its gradient."""

import numpy as np
import pytest
from bench_tables import THREADS, rows_of
from launching import exit_code
from worlds import run

import npdp
from npdp import nn, optim
from npdp.autograd.gradcheck import gradcheck
from npdp.autograd.operation import FIRST, OPERATIONS, operation
from npdp.bench import run as bench
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.auto import price
from npdp.collectives.machine import built_in
from npdp.collectives.schedule import add, put
from npdp.collectives.verify import prove


# An algorithm
def star(world_size):
    """Rank 0 adds up what all others send it, and sends them the sum."""
    yield [add(rank, 0, 0, world_size) for rank in range(1, world_size)]
    yield [put(0, rank, 0, world_size) for rank in range(1, world_size)]


@pytest.fixture
def with_star(monkeypatch):
    monkeypatch.setitem(SCHEDULES["allreduce"], "star", star)


def test_a_new_algorithm_is_proven():
    for world_size in range(1, 65):
        prove(list(star(world_size)), "allreduce", world_size)


@pytest.mark.usefixtures("with_star")
@pytest.mark.parametrize("world_size", range(1, 6))
def test_a_new_algorithm_is_carried_out_with_the_bits_of_the_naive_one(world_size):
    def program(algorithm):
        numbers = np.random.default_rng(npdp.rank()).normal(size=1001)
        npdp.allreduce(numbers, algorithm=algorithm)
        return numbers

    for star_sum, naive_sum in zip(run(world_size, program, "star"), run(world_size, program, "naive"), strict=True):
        np.testing.assert_array_equal(star_sum, naive_sum)


@pytest.mark.usefixtures("with_star")
def test_a_new_algorithm_is_priced():
    def seconds(algorithm, nbytes):
        return price("allreduce", algorithm, nbytes, ("host",) * 4, built_in("mpi", 4), shares_memory=False)

    assert seconds("star", 2**20) > seconds("ring", 2**20)  # rank 0 has all the bytes to carry


@pytest.mark.usefixtures("with_star", "own_cache")
def test_a_new_algorithm_is_timed_and_its_sums_checked(capsys):
    assert exit_code(bench.main, "allreduce", *THREADS, "3", "--sizes", "4K", "--algorithm", "star,ring") == 0
    rows = {row.contender: row for row in rows_of(capsys.readouterr().out)}
    assert rows["star"].errors == 0 and rows["star"].nbytes == 4096


# A layer
def test_a_new_layer_is_one_function_with_its_gradient_and_trains_the_same_on_any_number_of_ranks():
    @operation(keeps=FIRST)
    def softplus(x):
        return np.logaddexp(x, 0), (lambda g: g / (1 + np.exp(-x)),)

    del OPERATIONS["softplus"]  # the table is of npdp's own
    gradcheck(softplus, npdp.Tensor(np.linspace(-3, 3, 7), requires_grad=True))

    class Soft(nn.Module):
        def __init__(self):
            self.first, self.last = nn.Linear(4, 6, dtype=np.float64), nn.Linear(6, 1, dtype=np.float64)

        def forward(self, x):
            return self.last(softplus(self.first(x)))

    def program():
        npdp.manual_seed(3)
        model = nn.DataParallel(Soft())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        samples = npdp.data.ArrayDataset(*np.split(np.random.default_rng(1).normal(size=(13, 5)), [4], axis=1))
        for x, y in npdp.data.DataLoader(samples, batch_size=5, shuffle=True):
            optimizer.zero_grad()
            nn.MSELoss()(model(x), y).backward()
            optimizer.step()
        return np.concatenate([parameter.data.ravel() for parameter in model.parameters()])

    (alone,) = run(1, program)
    for together in run(3, program):
        np.testing.assert_allclose(together, alone, rtol=1e-12)
