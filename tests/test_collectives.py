"""Collectives over threads, every algorithm, against NumPy: with whole numbers, so that routing is tested with ==.

Segments are 64 bytes here, two under way, so that buffers of some dozens of elements travel in several.
"""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import DTYPES, FOLD, PAIRS, do, folded, record, run, segments_of, values

import npdp
from npdp.collectives import execute
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.arrays import OPS
from npdp.comm.failures.call_log import LoggedCall as Call

SEGMENT_BYTES = 64
EVERY = [(collective, algorithm) for collective, makers in SCHEDULES.items() for algorithm in (*makers, "auto")]


@pytest.fixture(scope="module", autouse=True)
def small_segments():
    with segments_of(SEGMENT_BYTES):
        yield


def edges(world_size, itemsize):
    """Return the counts at which something changes: chunks become empty, a chunk takes one more segment."""
    segment = SEGMENT_BYTES // itemsize
    several = world_size * 3 * segment
    few = {0, 1, world_size - 1, world_size, world_size + 1}
    return sorted(few | {world_size * segment + 1, several - 1, several, several + 1})


def wrong(world_size, calls):
    """Carry out `calls`, one after the other, in one world; return what went wrong."""
    return [text for texts in run(world_size, lambda: [do(*call) for call in calls]) for text in texts if text]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("collective", "algorithm"), EVERY, ids=["-".join(pair) for pair in EVERY])
def test_every_algorithm_dtype_op_and_edge_gives_what_numpy_gives(collective, algorithm, world_size):
    reduces = collective in ("allreduce", "reduce_scatter")
    calls = [
        (collective, algorithm, dtype, op, count, count + salt, salt)
        for salt, (dtype, op) in enumerate(PAIRS if reduces else [(dtype, "sum") for dtype in DTYPES])
        for count in edges(world_size, np.dtype(dtype).itemsize)
    ]
    assert wrong(world_size, calls) == []


calls = st.builds(
    lambda pair, dtype_op, count, root, salt: (*pair, *dtype_op, count, root, salt),
    st.sampled_from(EVERY),
    st.sampled_from(PAIRS),
    st.integers(0, 150),
    st.integers(0, 8),
    st.integers(0, 10),
)


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 9), st.lists(calls, min_size=1, max_size=6))
def test_any_sequence_of_collectives_gives_what_numpy_gives(world_size, sequence):
    assert wrong(world_size, sequence) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), calls, st.integers(0, 150))
def test_a_collective_twice_in_a_row_and_then_of_another_size_gives_what_numpy_gives(world_size, call, count):
    assert wrong(world_size, [call, call, (*call[:4], count, *call[5:]), call]) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.sampled_from(EVERY), st.sampled_from(PAIRS), st.integers(0, 99), st.integers(0, 5))
def test_whoever_comes_late_finds_the_same(world_size, pair, dtype_op, count, late):
    def program():
        if npdp.rank() == late % world_size:
            time.sleep(0.005)
            record(delay_s=0.0005)
        return [do(*pair, *dtype_op, count, late, salt) for salt in range(2)]

    assert [text for texts in run(world_size, program) for text in texts if text] == []


@pytest.mark.parametrize(("collective", "algorithm"), EVERY, ids=["-".join(pair) for pair in EVERY])
def test_an_array_may_be_changed_as_soon_as_the_collective_has_returned(collective, algorithm):
    """Nothing may still be under way from it: the slow rank would get what is written there afterwards."""

    def program(late):
        if npdp.rank() == late:
            record(delay_s=0.004)
        array = np.full(24, npdp.rank() + 1.0)
        if collective == "allgather":
            npdp.allgather(array[:8], array, algorithm)
        elif collective == "broadcast":
            npdp.broadcast(array, 0, algorithm)
        else:
            got = getattr(npdp, collective)(array, "sum", algorithm)
            array = array if got is None else got
        outcome = array.copy()
        array[...] = -1000
        time.sleep(0.02)
        return outcome

    for late in range(3):
        outcomes = run(3, program, late)
        wanted = {"allgather": np.repeat([1.0, 2, 3], 8), "broadcast": 1.0}.get(collective, 6.0)
        assert all((got == wanted).all() for got in outcomes), outcomes


@pytest.mark.parametrize("received", [0, 50])
def test_of_a_long_row_of_sends_only_so_many_are_under_way(received):
    class Counting:
        begun = 0

        def send(self, *message):
            self.begun += 1

        def receive(self, *message):
            pass

    transport, done = Counting(), 0
    row = [execute.Segment(1, at, at + 1, False) for at in range(50)]
    for _ in execute.messages([execute.RankStep(row, row[:received])], transport, np.zeros(50), "sum", Call(1, "", 0)):
        assert transport.begun <= execute.SENDS_AHEAD + done
        done += 1
    assert transport.begun == 50 and done == 50 + received


def test_naive_adds_in_rank_order_to_the_last_bit():
    inputs = [np.random.default_rng(rank).standard_normal(101).astype(np.float32) for rank in range(7)]
    in_order = inputs[0].copy()
    for other in inputs[1:]:
        in_order += other
    assert any((inputs[6 - rank] != in_order).all() for rank in range(7))

    def program():
        array = inputs[npdp.rank()].copy()
        npdp.allreduce(array, algorithm="naive")
        return array.tobytes()

    assert set(run(7, program)) == {in_order.tobytes()}


@pytest.mark.parametrize("algorithm", SCHEDULES["allreduce"])
@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
def test_every_rank_gets_the_same_bits_and_the_rounding_is_bounded(algorithm, world_size):
    inputs = [np.random.default_rng(rank).standard_normal(203) for rank in range(world_size)]

    def program():
        array = inputs[npdp.rank()].copy()
        npdp.allreduce(array, algorithm=algorithm)
        return array.tobytes()

    results = run(world_size, program)
    assert len(set(results)) == 1
    off = np.abs(np.frombuffer(results[0]) - np.sum(inputs, axis=0))
    # each of P-1 additions rounds by at most half a unit of what is summed; NumPy's own sum as well
    assert (off <= 2 * (world_size - 1) * np.finfo(float).eps / 2 * np.sum(np.abs(inputs), axis=0)).all()


@pytest.mark.parametrize("algorithm", SCHEDULES["allreduce"])
@pytest.mark.parametrize("op", OPS)
def test_nan_and_inf_pass_through(op, algorithm):
    special = np.array(
        [[np.nan, 1, np.inf, np.inf, -np.inf, 0], [1, 2, 3, -np.inf, -np.inf, 1], [1, 2, 3, 4, 5, np.nan]]
    )

    def program():
        array = special[npdp.rank()].copy()
        with np.errstate(all="ignore"):
            npdp.allreduce(array, op, algorithm)
        return array

    with np.errstate(all="ignore"):
        wanted = FOLD[op].reduce(special) / (3 if op == "mean" else 1)
    for got in run(3, program):
        np.testing.assert_allclose(got, wanted, rtol=1e-15)


@pytest.mark.parametrize("algorithm", SCHEDULES["allreduce"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_sums_and_products_wrap(dtype, algorithm):
    largest = np.iinfo(dtype).max

    def program():
        total, product = np.full(5, largest, dtype), np.full(5, largest, dtype)
        npdp.allreduce(total, "sum", algorithm)
        npdp.allreduce(product, "prod", algorithm)
        return total, product

    for total, product in run(3, program):
        assert (total == largest - 2).all()  # 3 (2^k - 1) = 2^k - 3 modulo 2^(k + 1), read as signed
        assert (product == largest).all()  # (2^k - 1)^3 = 3 2^k - 1 = 2^k - 1, likewise


def test_reduce_scatter_leaves_rank_r_with_chunk_r():
    chunks = run(4, lambda: npdp.reduce_scatter(values(npdp.rank(), 10, "float64")))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2, 2]
    assert np.array_equal(np.concatenate(chunks), folded(4, 10, "float64", "sum"))
