"""The C kernel's ranks, moved by hand: one thread plays all of them, in any order, each as far as it can go alone.

So it is not left to luck whether a slow rank still reads what a quick one writes again: a rank that is done with a
collective spoils its array at once, and begins the next one.
"""

import itertools
import mmap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_play import (
    CROSSED,
    INSIDE,
    LONGEST,
    MIXED,
    SLOT_BYTES,
    SMALL,
    SMALL_DIRECT,
    call,
    memory_and_ranks,
    play,
    short_sleeps,
    start,
)

from npdp import kernels
from npdp.collectives.host import call_of
from npdp.kernels.shared_memory import DIFFERENT, DONE, KINDS, UNFINISHED, WAITING, HostRank, header_bytes, words_of

ROWS = {
    "direct": [call(where=INSIDE)] * 3,
    "direct reduce_scatter": [call("reduce_scatter", where=INSIDE), call("reduce_scatter", where=INSIDE, op="max")],
    "direct allgather and broadcast": [call("allgather", 700, INSIDE), call("broadcast", 700, INSIDE)] * 2,
    "staged": [call()] * 2,
    "staged, one segment each": [call("reduce_scatter", 100), call("broadcast", 200), call("allgather", 100)] * 3,
    "staged broadcast and allgather": [call("broadcast", 1000), call("allgather", 1000), call("reduce_scatter", 1000)],
    "small": [call(count=10), call(count=SMALL, op="min"), call(count=3, where=INSIDE)] * 2,
    "barriers": [call("barrier", 1), call("barrier", 1), call(count=5), call("barrier", 1)],
    "some inside": [call(where=MIXED), call(where=CROSSED), call(count=SMALL_DIRECT + 1, where=MIXED), call(count=9)],
    "some inside, others": [
        call("broadcast", 300, CROSSED), call("allgather", 300, MIXED), call("reduce_scatter", 1000, MIXED),
    ],
    "one after the other": [call(), call(count=2), call(where=INSIDE), call(count=2), call("broadcast", 9), call()],
    "nothing": [
        call(count=0), call("broadcast", 0), call("allgather", 0), call("reduce_scatter", 1), call("allgather", 1),
    ],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _short_sleeps():
    with short_sleeps():
        yield


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("order", [*itertools.permutations(range(2)), (2, 0, 1), (1, 2, 0)], ids=str)
def test_a_rank_that_is_always_last_finds_all_as_it_must_be(row, order):
    """And one that is always first leaves nothing that the others still need."""
    first = lambda able: min(able, key=lambda player: order.index(player.rank))  # noqa: E731
    assert play(len(order), ROWS[row], first) == []


calls = st.builds(
    call,
    st.sampled_from([kind for kind in KINDS if kind != "barrier"]),
    st.one_of(st.integers(0, 9), st.integers(SMALL_DIRECT - 2, SMALL_DIRECT + 40), st.integers(SMALL - 2, LONGEST)),
    st.integers(INSIDE, CROSSED),
    st.sampled_from(kernels.OPS),
    st.sampled_from(["float32", "int32"]),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(calls, min_size=1, max_size=4), st.data())
def test_whoever_moves_when_the_outcome_is_the_same(ranks, row, data):
    ring_at = 64 * data.draw(st.integers(0, 4 * SLOT_BYTES[ranks] // 64), "ring_at")
    assert play(ranks, row, lambda able: data.draw(st.sampled_from(able), "moves"), ring_at) == []


def test_the_first_rank_that_called_something_else_is_named():
    _, (first, second, third) = memory_and_ranks(3)
    assert start(first, "allreduce", np.ones(3), "sum") == WAITING
    assert start(second, "broadcast", np.ones(3, np.int32), "sum", 2) == WAITING
    assert start(third, "allreduce", np.ones(3), "sum") == DIFFERENT
    assert (first.test(), second.test()) == (DIFFERENT, DIFFERENT)
    assert [rank.different for rank in (first, second, third)] == [1, 0, 1]
    assert str(call_of(*first.call_of(1))) == "broadcast of 3 int32 from rank 2"
    assert str(call_of(*second.call_of(0))) == str(call_of(*third.call_of(2))) == "allreduce of 3 float64 (sum)"


def test_nothing_is_begun_before_the_last_one_is_done():
    _, (first, second) = memory_and_ranks(2)
    array = np.full(3, 1.0)
    assert start(first, "allreduce", array, "sum") == WAITING
    assert start(first, "broadcast", np.ones(9), "sum") == UNFINISHED
    assert first.persistent(words_of("allreduce", np.dtype("float64"), "sum", False, 0), np.ones(9))() == UNFINISHED
    assert str(call_of(*first.call_of(0))) == "allreduce of 3 float64 (sum)"
    assert start(second, "allreduce", np.full(3, 2.0), "sum") == first.test() == DONE
    assert array.tolist() == [3, 3, 3]


def test_nothing_is_begun_in_another_thread_while_the_last_phase_is_worked_on():
    count = 16 << 20  # copied in milliseconds
    memory = mmap.mmap(-1, header_bytes(2, count))
    first, second = (HostRank(memory, rank, 2, count, spins=0, yields=0) for rank in range(2))
    array, root = np.empty(count // 4, np.float32), np.arange(count // 4, dtype=np.float32)
    assert start(first, "broadcast", array, "sum", 1) == WAITING
    assert start(second, "broadcast", root, "sum", 1) == DONE
    with ThreadPoolExecutor(1) as other:
        going_on = other.submit(first.test)
        while start(first, "barrier", np.ones(1), "sum") == UNFINISHED:
            pass
        assert going_on.result() == DONE
    assert np.array_equal(array, root)


def test_counts_of_posts_may_wrap():
    """Half of them are behind, whatever the number: 2^32 barriers are a day's work."""
    memory, (first, second) = memory_and_ranks(2)
    for rank in (first, second):
        rank._host.posted = 2**32 - 3
    lines = np.frombuffer(memory, np.uint32)
    lines[0] = lines[128 // 4] = 2**32 - 3  # how often each has posted
    for turn in range(4):
        array, other = np.array([turn]), np.array([10 * turn])
        assert start(first, "allreduce", array, "sum") == WAITING
        assert start(second, "allreduce", other, "sum") == DONE
        assert first.test() == DONE
        assert array[0] == other[0] == 11 * turn


@pytest.mark.parametrize("ring_at", [64, 960, 1024, 3008, 3072, 3136, 4032, 4096])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_wherever_the_ring_is_a_slot_is_not_written_before_all_are_done_with_it(order, ring_at):
    row = ROWS["staged, one segment each"] + ROWS["staged"] + ROWS["staged, one segment each"]
    first = lambda able: min(able, key=lambda player: order.index(player.rank))  # noqa: E731
    assert play(len(order), row, first, ring_at) == []
