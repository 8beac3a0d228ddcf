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
from npdp.comm.calls import Call
from npdp.parallel.checks import OPS
from npdp.parallel.world import init
from npdp.partition import part

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
def test_a_collective_twice_in_a_row_and_then_of_another_size(world_size, call, count):
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


def test_allgather_takes_a_column_of_an_array_in_fortran_order():
    def program():
        out = np.zeros((4, 2), order="F")
        column = out[:, npdp.rank() : npdp.rank() + 1]
        column[:] = 1 + npdp.rank()
        npdp.allgather(column, out)
        return out.tolist()

    assert run(2, program) == [[[1, 2]] * 4] * 2


def test_arrays_of_any_contiguous_shape_and_order_are_taken_in_place():
    def program():
        rank = npdp.rank()
        arrays = [
            values(rank, 24, "float64").reshape(2, 3, 4),
            np.asfortranarray(values(rank, 24, "float64").reshape(4, 6)),
            np.array(float(rank)),
            values(rank, 40, "float32")[8:32],
            np.empty((0, 3)),
        ]
        for array in arrays:
            npdp.allreduce(array)
        return arrays

    for got in run(3, program):
        total = folded(3, 24, "float64", "sum")
        assert np.array_equal(got[0], total.reshape(2, 3, 4)) and np.array_equal(got[1], total.reshape(4, 6))
        assert got[1].flags.f_contiguous and got[2] == 3.0
        assert np.array_equal(got[3], folded(3, 40, "float32", "sum")[8:32])


def test_a_matrix_or_a_map_is_taken_as_the_plain_array_that_it_is(tmp_path):
    def program():
        matrix = values(npdp.rank(), 10, "float64").reshape(1, 10).view(np.matrix)
        mapped = np.memmap(tmp_path / f"{npdp.rank()}", np.float32, "w+", shape=10)
        mapped[:] = values(npdp.rank(), 10, "float32")
        npdp.allreduce(mapped, "mean")
        return npdp.reduce_scatter(matrix), mapped

    for rank, (chunk, mapped) in enumerate(run(3, program)):
        assert type(chunk) is np.ndarray and chunk.shape == (4 if rank == 0 else 3,)
        assert np.array_equal(chunk, folded(3, 10, "float64", "sum")[slice(*part(10, 3, rank))])
        assert np.array_equal(mapped, folded(3, 10, "float32", "sum") / np.float32(3))


def test_reduce_scatter_leaves_rank_r_with_chunk_r():
    chunks = run(4, lambda: npdp.reduce_scatter(values(npdp.rank(), 10, "float64")))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2, 2]
    assert np.array_equal(np.concatenate(chunks), folded(4, 10, "float64", "sum"))


@pytest.mark.parametrize("algorithm", SCHEDULES["allgather"])
def test_the_chunk_of_an_allgather_may_be_its_place_in_out(algorithm):
    def program():
        out = np.full(11, -1.0)
        mine = out[slice(*part(11, 3, npdp.rank()))]
        mine[...] = npdp.rank()
        npdp.allgather(mine, out, algorithm)
        return out

    for got in run(3, program):
        assert got.tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 3


def test_an_allgather_takes_a_read_only_chunk_and_leaves_it_alone():
    def program():
        chunk = np.full(2, npdp.rank(), np.int32)
        chunk.flags.writeable = False
        out = np.empty(4, np.int32)
        npdp.allgather(chunk, out)
        return out.tolist(), chunk.tolist()

    assert run(2, program) == [([0, 0, 1, 1], [0, 0]), ([0, 0, 1, 1], [1, 1])]


READ_ONLY = np.zeros(3)
READ_ONLY.flags.writeable = False
REFUSED = [
    (lambda: npdp.allreduce(np.zeros(8)[::2]), ValueError, r"contiguous array, got strides \(16,\) for shape \(4,\)"),
    (lambda: npdp.allreduce(np.zeros((3, 4))[:, :2]), ValueError, "contiguous array, got strides"),
    (lambda: npdp.allreduce(READ_ONLY), ValueError, "works in place, but this array is read-only"),
    (lambda: npdp.allgather(np.zeros(3), READ_ONLY), ValueError, "works in place, but this array is read-only"),
    (lambda: npdp.allreduce(np.zeros(3, np.float16)), TypeError, "float32, float64, int32 or int64, got float16"),
    (lambda: npdp.allreduce(np.zeros(3, complex)), TypeError, "got complex128"),
    (lambda: npdp.allreduce(np.zeros(3, ">f4")), TypeError, "float32, float64, int32 or int64, got >f4"),
    (lambda: npdp.allreduce(np.zeros(3, bool)), TypeError, "got bool"),
    (lambda: npdp.broadcast([1.0, 2.0]), TypeError, "takes a NumPy array, got list"),
    (lambda: npdp.allreduce(np.ma.array([1.0, 2.0], mask=[0, 1])), TypeError, "got a masked one, .*: pass .data"),
    (lambda: npdp.allreduce(npdp.Tensor(np.zeros(3))), TypeError, "takes a NumPy array, got Tensor"),
    (lambda: npdp.allreduce(np.zeros(3), "avg"), ValueError, "no op 'avg'; there are sum, mean, min, max, prod; the"),
    (lambda: npdp.allreduce(np.zeros(3), op="average"), ValueError, "no op 'average'; .*; the average is 'mean'"),
    (lambda: npdp.allreduce(np.zeros(3), "xor"), ValueError, "no op 'xor'; there are sum, mean, min, max, prod$"),
    (lambda: npdp.allreduce(np.zeros(3, int), "mean"), TypeError, "the mean of int64 is no int64: convert to float"),
    (lambda: npdp.reduce_scatter(np.zeros(3, "i4"), "mean"), TypeError, "the mean of int32 is no int32"),
    (lambda: npdp.allreduce(np.zeros(3), algorithm="magic"), ValueError, "allreduce: no algorithm 'magic'"),
    (lambda: npdp.reduce_scatter(np.zeros(3), algorithm="tree"), ValueError, "reduce_scatter: no algorithm 'tree'"),
    (lambda: npdp.broadcast(np.zeros(3), root=2), ValueError, "root must be a rank of this world of 2, got 2"),
    (lambda: npdp.broadcast(np.zeros(3), root=-1), ValueError, "root must be a rank of this world of 2, got -1"),
    (lambda: npdp.broadcast(np.zeros(3), root="0"), TypeError, "root must be a rank of this world of 2, got '0'"),
    (lambda: npdp.broadcast(np.zeros(3), root=None), TypeError, "root must be a rank of this world of 2, got None"),
    (lambda: npdp.broadcast(np.zeros(3), root=1.0), TypeError, "root must be a rank of this world of 2, got 1.0"),
    (lambda: npdp.broadcast(np.zeros(3), root=np.int64(2)), ValueError, "a rank of this world of 2, got 2"),
    (lambda: npdp.allgather(np.zeros(3), np.zeros(4)), ValueError, r"chunk of 4 float64 has 2 elements, got 3"),
    (lambda: npdp.allgather(np.zeros(2, "f4"), np.zeros(4)), ValueError, "has 2 elements, got 2 float32"),
    (lambda: npdp.allgather(np.ones((2, 2), order="F"), np.ones((2, 4))), ValueError, "lie in different orders"),
    (lambda: npdp.global_mean(1.0, np.inf), ValueError, "rank .'s count must be finite and at least 0, got inf"),
    (lambda: npdp.global_mean(1.0, np.nan), ValueError, "finite and at least 0, got nan"),
    (lambda: npdp.global_mean(1.0, -2 * npdp.rank()), ValueError, "rank 1's count must .* at least 0, got -2"),
    (lambda: npdp.global_mean(np.ones(2), 1), TypeError, "can be converted to Python scalars"),
    (lambda: npdp.init("magic"), ValueError, "no algorithm 'magic'"),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED)
def test_what_cannot_be_right_is_refused_with_the_reason(call, error, text):
    with pytest.raises(error, match=text):
        run(2, call)


@pytest.mark.parametrize("algorithm", ["tree", "mpi", "naive", "ring"])
def test_the_worlds_algorithm_is_taken_by_the_collectives_that_have_it(algorithm):
    def program():
        npdp.init(algorithm)
        chunk = npdp.reduce_scatter(np.arange(4.0))
        out = np.empty(4)
        npdp.allgather(chunk, out)
        npdp.broadcast(out, 1)
        return out.tolist()

    assert run(2, program) == [[0.0, 2.0, 4.0, 6.0]] * 2


def test_the_worlds_algorithm_is_what_an_allreduce_uses():
    def program(algorithm):
        recorder = record()
        npdp.init(algorithm)
        npdp.allreduce(np.zeros(8))
        return len(recorder.sent)

    assert run(4, program, "naive") == [3, 1, 1, 1]
    assert run(4, program, "ring") == [6, 6, 6, 6]


def test_global_mean_weighs_by_count_and_is_0_over_nothing():
    assert run(3, lambda: npdp.global_mean(npdp.rank(), npdp.rank())) == [(0 + 1 + 4) / 3] * 3
    assert run(2, lambda: npdp.global_mean(float("nan"), 0)) == [0.0] * 2
    assert run(2, lambda: npdp.global_mean(float("nan") if npdp.rank() else 7.0, 1 - npdp.rank())) == [7.0] * 2
    assert run(1, lambda: npdp.global_mean(2.5, 3)) == [2.5]


@pytest.mark.parametrize(
    "texts", [["", "", ""], ["a", "", "Größe → ≥ 1\n"], ["x" * 8, "y" * 9, "z" * 100], ["\0a\0"] * 3]
)
def test_texts_of_any_length_and_alphabet_are_gathered_in_rank_order(texts):
    assert run(3, lambda: init().gather_texts(texts[npdp.rank()])) == [texts] * 3


def test_nobody_leaves_a_barrier_before_all_have_come():
    arrived, early = [], []

    def program():
        time.sleep(0.01 * npdp.rank())
        for turn in range(3):
            arrived.append(turn)
            npdp.barrier()
            if arrived.count(turn) < 4:
                early.append((turn, npdp.rank()))

    run(4, program)
    assert early == []
