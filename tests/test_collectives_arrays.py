"""Which arrays collectives take: of any contiguous layout, in place; others are refused, with the reason."""

import numpy as np
import pytest
from worlds import folded, run, values

import npdp
from npdp.base.partition import part
from npdp.collectives.algorithms import SCHEDULES


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
