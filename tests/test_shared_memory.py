"""Collectives through shared memory, over threads: every way that the C kernel has, against NumPy and `naive`.

Slots are small here, so that buffers of some thousand elements travel in many segments. What the kernel does with
the ranks at any moment of each other is in test_shared_memory_kernel.py.
"""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import MEMORIES, SMALL_BYTES, Arrays, do_in, edges, slots_of
from needs import needs_shared_memory
from worlds import DTYPES, PAIRS, run

import npdp
from npdp.base.partition import part
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.arrays import OPS
from npdp.parallel.world import init

pytestmark = needs_shared_memory

SLOT_BYTES = 2048
EVERY = [(collective, algorithm) for collective in SCHEDULES for algorithm in (*SCHEDULES[collective], "shared_memory")]
LONGEST = 2 * 5 * SLOT_BYTES // 4 + 100


@pytest.fixture(scope="module", autouse=True)
def _small_slots():
    with slots_of(SLOT_BYTES):
        yield


def wrong(world_size, calls, count=LONGEST, late=None):
    """Carry out `calls`, one after the other, in one world; return what went wrong."""

    def program():
        arrays = Arrays(count, DTYPES)
        found = []
        for call in calls:
            if npdp.rank() == late:
                time.sleep(0.002)
            found.append(do_in(arrays, *call))
        return found

    return [text for texts in run(world_size, program) for text in texts if text]


# What comes out
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("collective", SCHEDULES)
def test_every_memory_dtype_op_and_edge_gives_what_numpy_gives(collective, world_size):
    reduces = collective in ("allreduce", "reduce_scatter")
    calls = [
        (memory, collective, "shared_memory", dtype, op, count, count + salt, salt)
        for salt, (dtype, op) in enumerate(PAIRS if reduces else [(dtype, "sum") for dtype in DTYPES])
        for count in edges(world_size, np.dtype(dtype).itemsize, SLOT_BYTES)
        for memory in MEMORIES
    ]
    assert wrong(world_size, calls) == []


calls = st.builds(
    lambda memory, pair, dtype_op, count, root, salt: (memory, *pair, *dtype_op, count, root, salt),
    st.sampled_from(MEMORIES),
    st.sampled_from([*EVERY, *[("allreduce", "auto"), ("broadcast", "auto")] * 3]),
    st.sampled_from(PAIRS),
    st.one_of(st.integers(0, 40), st.integers(0, LONGEST)),
    st.integers(0, 8),
    st.integers(0, 10),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.lists(calls, min_size=1, max_size=8), st.integers(0, 9))
def test_any_sequence_of_collectives_and_algorithms_gives_what_numpy_gives(world_size, sequence, late):
    assert wrong(world_size, sequence, late=late) == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from(["allreduce", "reduce_scatter"]), st.sampled_from(MEMORIES),
    st.sampled_from(["float32", "float64"]), st.sampled_from(["sum", "prod", "mean"]), st.integers(0, LONGEST),
    st.integers(0, 99),
)  # fmt: skip
def test_it_adds_in_rank_order_and_gives_the_bits_of_naive(world_size, collective, memory, dtype, op, count, seed):
    inputs = [np.random.default_rng([seed, rank]).standard_normal(count).astype(dtype) for rank in range(world_size)]

    def program():
        arrays = Arrays(count, [dtype])
        chunk = slice(*part(count, world_size, npdp.rank())) if collective == "reduce_scatter" else slice(None)
        bits = []
        for algorithm in ("shared_memory", "naive"):
            array = arrays.lay(memory, inputs[npdp.rank()])
            getattr(npdp, collective)(array, op, algorithm)
            bits.append(array[chunk].tobytes())
        return bits

    for mine, naives in run(world_size, program):
        assert mine == naives


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("op", OPS)
def test_nan_inf_and_zeros_of_either_sign_pass_as_with_naive(op, memory):
    special = np.array([np.nan, 1, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1e308])
    inputs = [np.resize(np.roll(special, 3 * rank + rank // 2), 3000) for rank in range(3)]

    def program():
        arrays, bits = Arrays(3000, ["float64"]), []
        for algorithm in ("shared_memory", "naive"):
            array = arrays.lay(memory, inputs[npdp.rank()])
            with np.errstate(all="ignore"):
                npdp.allreduce(array, op, algorithm)
            bits.append(np.where(np.isnan(array), 7.0, array).tobytes())
        return bits

    for mine, naives in run(3, program):
        assert mine == naives


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("count", [50, 1000, 3000])
def test_an_array_may_be_changed_as_soon_as_the_collective_has_returned(count, memory):
    """Many times, with ranks that dawdle in turn: nobody may still read from it, or write to it."""

    def program():
        rank, faults = npdp.rank(), 0
        arrays = Arrays(count, ["float64"])
        for turn in range(120):
            array = arrays.lay(memory, np.full(count, rank + 1.0 + turn))
            if turn % 7 == rank:
                time.sleep(0.0003)
            npdp.allreduce(array)
            faults += bool((array != 6 + 3 * turn).any())
            array[...] = -1000
            npdp.broadcast(array, turn % 3)
            faults += bool((array != -1000).any())
        return faults

    assert run(3, program) == [0, 0, 0]


def test_no_collective_of_thousands_of_small_ones_is_mistaken_for_another():
    def program():
        array, faults = np.empty(3, np.int64), 0
        for turn in range(3000):
            array[:] = turn + npdp.rank()
            npdp.allreduce(array, "max" if turn % 3 else "sum")
            faults += bool((array != (turn + 1 if turn % 3 else 2 * turn + 1)).any())
        return faults

    assert run(2, program) == [0, 0]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("memory", ["ordinary", "mixed"])
def test_both_ways_to_write_a_slot_give_what_numpy_gives(world_size, memory):
    def program():
        arrays = Arrays(200_003, ["float32"])
        calls = [(memory, "allreduce", "shared_memory", "float32", "sum", 200_003, 0, salt) for salt in range(20)]
        found = [do_in(arrays, *call) for call in calls]
        host = init().memory.host.kernel._host
        return [text for text in found if text], [*host.writes.byte_s, *host.sums.byte_s]

    with slots_of(1 << 17):
        outcomes = run(world_size, program)
    for found, byte_s in outcomes:
        assert found == []
        assert all(each > 0 for each in byte_s)


def test_an_int64_by_its_other_name_is_one_too():
    def program():
        array = np.arange(4, dtype=np.longlong)
        npdp.allreduce(array)
        return array.tolist()

    assert run(2, program) == [[0, 2, 4, 6]] * 2


@pytest.mark.parametrize("algorithm", ["naive", "shared_memory"])
def test_an_array_that_is_not_aligned_to_its_elements_is_refused(algorithm):
    def program():
        array = np.zeros(8 * 2000 + 1, np.uint8)[1:].view(np.float64)
        npdp.allreduce(array, algorithm=algorithm)

    with pytest.raises(ValueError, match="aligned"):
        run(2, program)


def test_auto_takes_shared_memory_where_all_ranks_share_it():
    sizes = (0, SMALL_BYTES, 1 << 22)
    assert run(3, lambda: [init().chosen("allreduce", nbytes) for nbytes in sizes]) == [["shared_memory"] * 3] * 3
