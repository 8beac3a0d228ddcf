"""npdp bench checks results while timing: a wrong element is found wherever it is, and contenders take turns."""

import json
import time
from unittest import mock

import numpy as np
import pytest
from bench_tables import COLLECTIVES, THREADS, rows_of
from launching import exit_code
from worlds import run

import npdp
from npdp import kernels
from npdp.bench import flags
from npdp.bench import run as bench
from npdp.bench.cases import BUS_FACTORS, CASES, MEMORY_COPY, Case, buffers, memory_copy
from npdp.bench.inputs import PERIOD, count_wrong, exact_calls, fill, inputs, reduced
from npdp.bench.timing import Contender, time_in_turn
from npdp.collectives import arrays as checks
from npdp.collectives.communicator import Communicator
from npdp.comm.mpi import MpiTransport
from npdp.comm.transport import NoTransport

pytestmark = pytest.mark.usefixtures("own_cache")


# What is timed, and its check
def test_busbw_is_what_each_rank_must_send():
    assert {name: factor(4) for name, factor in BUS_FACTORS.items()} == {
        "allreduce": 1.5, "reduce_scatter": 0.75, "allgather": 0.75, "broadcast": 1.0,
    }  # fmt: skip
    assert BUS_FACTORS["allreduce"](2) == 1 and BUS_FACTORS["allgather"](1) == 0


@pytest.mark.parametrize("count", [0, 1, PERIOD - 1, PERIOD, PERIOD + 1, 3 * PERIOD + 5])
@pytest.mark.parametrize("start", [0, 1, PERIOD, PERIOD + 7])
def test_a_wrong_element_is_found_wherever_it_is(count, start):
    pattern = inputs(1, 3, "sum", np.dtype(np.float32))
    whole, buffer = np.empty(start + count, np.float32), np.empty(count, np.float32)
    fill(whole, pattern)
    fill(buffer, pattern, start)
    assert np.array_equal(buffer, whole[start:]) and count_wrong(buffer, pattern, start) == 0
    for place in {0, count // 2, count - 1} if count else ():
        spoilt = buffer.copy()
        spoilt[place] = np.nan
        assert count_wrong(spoilt, pattern, start) == 1


def test_inputs_differ_between_ranks_and_along_the_buffer():
    first, second = (inputs(rank, 2, "sum", np.dtype(np.int32)) for rank in range(2))
    for other in (second, np.roll(first, 1), np.roll(first, 4096)):
        assert 0.8 < np.count_nonzero(first != other) / PERIOD < 0.99


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("world_size", [2, 3, 4, 7, 33, 1000])
def test_sums_in_a_row_are_exact_as_long_as_they_are_checked(world_size, dtype):
    calls = exact_calls(world_size, "sum", dtype, 1000)
    largest = 5 * world_size * world_size ** (calls - 1)
    assert 2 <= calls <= 62
    if dtype.kind == "i":
        assert largest <= np.iinfo(dtype).max
    else:
        assert largest <= 2 ** (np.finfo(dtype).nmant + 1)


@pytest.mark.parametrize("op", flags.OPS)
def test_a_reduction_is_numpys(op):
    stack = np.stack([inputs(rank, 5, op, np.dtype(np.float64)) for rank in range(5)])
    assert np.array_equal(reduced(5, op, np.dtype(np.float64)), getattr(stack, op)(axis=0))
    assert exact_calls(5, op, np.dtype(np.float64), 9) == (1 if op == "prod" else 9)


@pytest.mark.parametrize("what", COLLECTIVES)
def test_each_collective_is_right_after_as_many_calls_as_are_checked(what):
    def program(op, count):
        memory, other = npdp.shared_empty(count + 3), np.empty(count, np.float32)
        case = Case(memory[:count], memory[count:], other, npdp.rank(), npdp.world_size(), op, "auto")
        contender = CASES[what](case)
        wrong = []
        for calls in (1, min(2, contender.most_calls), min(5, contender.most_calls)):
            contender.fill()
            npdp.barrier()
            contender.warm()
            for _ in range(calls):
                contender.call()
            wrong.append(contender.wrong(calls))
        return wrong

    for op in flags.OPS if what in flags.REDUCTIONS else ("sum",):
        for count in (1, 2, 20000):
            assert run(3, program, op, count) == [[0, 0, 0]] * 3, (op, count)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("nbytes", [4, 4096, 100_000])
def test_a_memory_copy_goes_from_what_is_measured_to_memory_of_its_kind(nbytes, shared):
    def program():
        memory = buffers(nbytes, np.dtype(np.float32), shared)
        case = Case(memory[0], memory[0, -1:], memory[1], npdp.rank(), npdp.world_size(), "sum", "auto")
        contender = memory_copy(case)
        contender.fill()
        before = contender.wrong(1)
        contender.call()
        wanted = inputs(npdp.rank(), npdp.world_size(), "sum", memory.dtype)
        host = npdp.init().memory.host
        return before, contender.wrong(1), count_wrong(memory[1], wanted), [
            host is not None and host.arena.everyones(row) is not None for row in memory], memory.nbytes

    for before, after, elsewhere, of_host, size in run(2, program):
        assert before > 0 and after == elsewhere == 0 and size >= 2 * nbytes
        assert of_host == [shared and kernels.backend() == "c"] * 2


@pytest.mark.parametrize(("count", "parts"), [(3, [3]), (4, [4]), (10, [4, 4, 2])])
def test_mpi_counts_in_32_bits_so_it_gets_long_buffers_in_parts(count, parts, monkeypatch):
    monkeypatch.setattr("npdp.comm.mpi.MOST_ELEMENTS", 4)
    transport = object.__new__(MpiTransport)
    transport._mpi, transport._data, transport._ops = mock.Mock(IN_PLACE="in place"), mock.Mock(), {"max": "MAX"}
    buffer = np.arange(count)
    transport.blocking_allreduce(buffer, "max")()
    calls = [call.args for call in transport._data.Allreduce.call_args_list]
    assert [(how, part.size, op) for how, part, op in calls] == [("in place", size, "MAX") for size in parts]
    assert all(np.shares_memory(part, buffer) for _, part, _ in calls)
    assert np.array_equal(np.concatenate([part for _, part, _ in calls]), buffer)


def nothing(*arguments, **options):
    """A collective that does not do its work."""


def off_by_one_on_the_last_rank(collective):
    def spoilt(*arguments, **options):
        collective(*arguments, **options)
        array = arguments[1] if collective is npdp.parallel.arrays.allgather else arguments[0]
        if npdp.rank() == npdp.world_size() - 1:
            array[-1] += 1

    return spoilt


@pytest.mark.parametrize("what", COLLECTIVES)
@pytest.mark.parametrize("fault", ["does nothing", "is off by one in one place"])
def test_a_collective_that_is_wrong_is_found(what, fault, capsys, monkeypatch, tmp_path):
    wrong = nothing if fault == "does nothing" else off_by_one_on_the_last_rank(getattr(npdp, what))
    monkeypatch.setattr(npdp, what, wrong)
    path = tmp_path / "o.json"
    arguments = ("--sizes", "64,100K", "--algorithm", "naive,auto", "--json", str(path))
    assert exit_code(bench.main, what, *THREADS, "3", *arguments) == 1
    out = capsys.readouterr().out
    assert "WRONG: " in out.splitlines()[-1]
    assert all((row.errors > 0) == (row.contender != MEMORY_COPY) for row in rows_of(out))
    rows = json.loads(path.read_text())["rows"]
    assert [row["errors"] for row in rows] == [row.errors for row in rows_of(out)]


# How it is timed
def test_contenders_take_turns_and_the_slowest_rank_counts():
    def program():
        order = []

        def made(name, seconds):
            def call():
                order.append(name)
                time.sleep(seconds if npdp.rank() == 1 else 0)

            return Contender(name, nothing, lambda: order.append("warm"), call, lambda calls: npdp.rank(), 1)

        timings = time_in_turn(npdp.init(), [made("a", 0.03), made("b", 0.02)], 6)
        return order, timings

    for order, (a, b) in run(3, program):
        tries, rounds = order[:8], order[8:]
        assert tries == ["warm", "a", "warm", "a", "warm", "b", "warm", "b"]
        assert rounds == 6 * ["warm", "a", "warm", "b"]
        assert a.median_s > 0.03 and b.median_s > 0.02
        assert len(a.rounds_s) == 6 and a.calls == 1
        assert a.errors == b.errors == 8 * (0 + 1 + 2)


@pytest.mark.parametrize(("seconds", "most_calls", "calls", "rounds"), [
    (1e-5, 10, 10, 50),  # no more in a row than can be checked, and no more rounds than 50
    (1.9e-3, 1000, 5, 26),  # 10 ms a round, a quarter of a second in all
    (1.0, 1000, 1, 5),  # at least as many rounds as are wanted
])  # fmt: skip
def test_what_is_quick_is_called_more_often(seconds, most_calls, calls, rounds, monkeypatch):
    clock = mock.Mock(perf_counter=lambda: clock.now, now=0.0)
    monkeypatch.setattr("npdp.bench.timing.time", clock)

    def call():
        clock.now += seconds

    contender = Contender("it", nothing, nothing, call, lambda calls: 0, most_calls)
    (timing,) = time_in_turn(Communicator(NoTransport()), [contender], 5)
    assert (timing.calls, len(timing.rounds_s)) == (calls, rounds)
    assert timing.median_s == pytest.approx(seconds)


def test_a_machine_that_grows_busy_gets_no_more_rounds_than_must_be(monkeypatch):
    clock = mock.Mock(perf_counter=lambda: clock.now, now=0.0)
    monkeypatch.setattr("npdp.bench.timing.time", clock)
    calls = iter(range(1000))

    def call():
        clock.now += 1e-3 if next(calls) < 2 else 1.0  # quick when it is tried

    contender = Contender("it", nothing, nothing, call, lambda calls: 0, 3)
    (timing,) = time_in_turn(Communicator(NoTransport()), [contender], 4)
    assert (timing.calls, len(timing.rounds_s)) == (3, 4)
