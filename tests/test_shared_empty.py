"""Memory that ranks share: what `shared_empty` gives, of which shapes and dtypes, and what it refuses."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import address
from needs import needs_shared_memory
from worlds import DTYPES, run, values

import npdp
from npdp.parallel.world import init

pytestmark = needs_shared_memory


# What it gives
@pytest.mark.parametrize("count", [0, 1, 5000, 300_000])
def test_arrays_of_two_ranks_lie_far_enough_apart_that_nobody_fetches_anothers_by_mistake(count):
    """Products fetch up to 50 KB behind what they write, which would take lines from the rank that works there."""

    def program():
        array = npdp.shared_empty(count, np.float32)
        return sorted(other.ctypes.data for other in init().memory.everyones(array))

    for starts in run(3, program):
        assert (np.diff(starts) >= 4 * count + 50_000).all()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [0, 1, 7, (), (3, 4), (2, 0, 5), [2, 3], (np.int32(2), 3), 1_000_003], ids=str)
def test_it_is_an_array_of_the_shape_and_dtype_asked_for(shape, dtype, world_size):
    def program():
        array = npdp.shared_empty(shape, dtype)
        plain = np.empty(shape, dtype)
        assert (array.shape, array.dtype) == (plain.shape, plain.dtype)
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
        assert array.size == 0 or world_size == 1 or array.ctypes.data % 64 == 0
        array[...] = npdp.rank() + 1
        npdp.allreduce(array)
        return bool((array == world_size * (world_size + 1) // 2).all())

    assert run(world_size, program) == [True] * world_size


def test_a_count_may_be_numpys_whole_number_as_it_may_for_numpy():
    assert run(2, lambda: npdp.shared_empty(np.int64(5)).shape) == [(5,), (5,)]


@pytest.mark.parametrize("shape", [-1, (3, -2), (-1, -1)], ids=str)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_negative_extent_is_refused(shape, world_size):
    with pytest.raises(ValueError, match="negative"):
        run(world_size, lambda: npdp.shared_empty(shape))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("shape", "error", "said"), [
    (2**70, ValueError, r"at most 9223372036854775807 bytes, got shape \(1180591620717411303424,\) of float32: 47"),
    (2**61, ValueError, r"of float32: 9223372036854775808$"),
    ((2**40, 2**40), ValueError, r"got shape \(1099511627776, 1099511627776\)"),
    ((0, 2**70), ValueError, "wanted at most"),
    (2.0, TypeError, "wanted a shape of whole numbers, got 2.0"),
    (None, TypeError, "wanted a shape of whole numbers, got None"),
    ((3, "4"), TypeError, "wanted a shape of whole numbers, got '4'"),
])  # fmt: skip
def test_what_no_array_can_have_is_no_shape(shape, error, said, world_size):
    with pytest.raises(error, match=f"shared_empty: .*{said}"):
        run(world_size, lambda: npdp.shared_empty(shape))


@pytest.mark.parametrize("dtype", ["float16", "bool", "complex128", ">f4", "U3"])
def test_a_dtype_that_collectives_do_not_take_is_refused(dtype):
    with pytest.raises(TypeError, match="float32, float64, int32 or int64"):
        run(2, lambda: npdp.shared_empty(3, dtype))


def test_each_rank_has_an_array_of_its_own_that_the_others_can_see():
    def program():
        array = npdp.shared_empty(1000, np.int64)
        array[:] = values(npdp.rank(), 1000, np.int64)
        npdp.barrier()
        theirs = init().memory.everyones(array[10:30])
        same = [np.array_equal(other, values(rank, 1000, np.int64)[10:30]) for rank, other in enumerate(theirs)]
        npdp.barrier()
        return same, init().memory.everyones(np.empty(3)), address(array)

    for rank, (same, of_ordinary, at) in enumerate(run(3, program)):
        assert same == [True] * 3 and of_ordinary is None and at > 0, rank


def test_what_is_one_for_all_is_seen_by_all():
    def program():
        array = init().shared_once(50, np.dtype(np.float64))
        if npdp.rank() == 1:
            array[:] = np.arange(50)
        npdp.barrier()
        return array.tolist(), address(array)

    outcomes = run(3, program)
    assert all(outcome == outcomes[0] for outcome in outcomes) and outcomes[0][0] == list(range(50))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 5000), st.booleans(), st.integers(0, 9)), max_size=12))
def test_arrays_that_live_at_the_same_time_never_share_a_byte(world_size, plan):
    """Each step makes an array, and may drop one; at the end every value is still there."""

    def program():
        living = []
        for number, (count, drop, which) in enumerate(plan):
            if drop and living:
                living.pop(which % len(living))
            living.append((number, npdp.shared_empty(count, np.int64)))
            living[-1][1][:] = 1000 * number + npdp.rank()
        npdp.barrier()
        return [number for number, array in living if (array != 1000 * number + npdp.rank()).any()]

    assert run(world_size, program) == [[]] * world_size


def test_more_than_a_thousand_living_arrays_keep_their_values():
    """What each rank has released is said in one all-reduce, which is no small one any more then."""

    def program():
        living = [npdp.shared_empty(3, np.int32) for _ in range(1100)]
        for number, array in enumerate(living):
            array[:] = number + npdp.rank()
        npdp.allreduce(living[600])
        return all((array == (1201 if n == 600 else n + npdp.rank())).all() for n, array in enumerate(living))

    assert run(2, program) == [True, True]


def test_an_array_outlives_the_world_that_gave_it():
    def program():
        array = npdp.shared_empty(5, np.int64)
        array[:] = np.arange(5) + 10 * npdp.rank()
        return array

    arrays = run(2, program)
    gc.collect()
    assert [array.tolist() for array in arrays] == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]


# What it refuses, and what it does without
def test_ranks_that_ask_for_different_sizes_are_all_told_so_and_may_go_on():
    def program():
        before = npdp.shared_empty(10)
        try:
            npdp.shared_empty(10 + 5 * (npdp.rank() == 1))
        except ValueError as error:
            text = str(error)
        after = npdp.shared_empty(10)
        after[:] = before[:] = 1
        npdp.allreduce(after)
        return text, after.tolist()

    for rank, (text, after) in enumerate(run(3, program)):
        asked = 60 if rank == 1 else 40
        assert text == f"rank {rank} asks for {asked} bytes of shared memory, others of its host for 40 to 60"
        assert after == [3.0] * 10


def test_ranks_of_each_host_share_memory_where_there_are_several_hosts():
    def program():
        world = init()
        array = npdp.shared_empty(5000)
        array[:] = npdp.rank() + np.arange(5000)
        npdp.barrier()
        theirs = [int(other[1]) for other in world.memory.host.arena.everyones(array)]
        npdp.barrier()
        npdp.allreduce(array)
        return world.memory.host.ranks, theirs, bool((array == 10 + 5 * np.arange(5000)).all()), world.memory.is_of_all

    assert run(5, program, hosts=(7, 7, 0, 0, 3)) == [
        ([0, 1], [1, 2], True, False), ([0, 1], [1, 2], True, False),
        ([2, 3], [3, 4], True, False), ([2, 3], [3, 4], True, False), ([4], [5], True, False),
    ]  # fmt: skip
