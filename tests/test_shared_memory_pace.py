"""How long the C kernel is at work or waits before it returns, and which of two ways to write it takes."""

import mmap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernel_play import memory_and_ranks, outcome, short_sleeps, start
from worlds import values

from npdp.kernels.shared_memory import DONE, WAITING, HostRank, header_bytes


@pytest.fixture(scope="module", autouse=True)
def _short_sleeps():
    with short_sleeps():
        yield


def test_waiting_is_counted_and_returns_within_moments():
    _, (first, _) = memory_and_ranks(2)
    before = time.perf_counter()
    assert start(first, "barrier", np.ones(1), "sum") == WAITING
    assert [first.test() for _ in range(3)] == [WAITING] * 3
    assert 0 < first.wait_s < time.perf_counter() - before < 2


def test_ranks_that_come_one_by_one_are_waited_for_no_longer_than_one():
    _, (first, second, third) = memory_and_ranks(3)
    first._host.longest_s = 0.6
    with ThreadPoolExecutor(1) as other:  # signals go to this thread
        before = time.perf_counter()
        beginning = other.submit(start, first, "barrier", np.ones(1), "sum")
        time.sleep(0.5)
        assert start(second, "barrier", np.ones(1), "sum") == WAITING
        status, taken_s = beginning.result(), time.perf_counter() - before
    assert status == WAITING and taken_s < 1  # not 0.5 and 0.6
    assert start(third, "barrier", np.ones(1), "sum") == first.test() == DONE


def at_leisure(count, inside):
    """Return two ranks that return after each piece of work, and an array of each, inside their memory or outside."""
    slot_bytes = 1 << 17
    first_byte = header_bytes(2, slot_bytes)
    memory = mmap.mmap(-1, first_byte + 2 * 4 * count + 64)
    ranks = [HostRank(memory, rank, 2, slot_bytes, spins=0, yields=0) for rank in range(2)]
    for rank in ranks:
        rank._host.longest_s = 0
    places = [np.frombuffer(memory, np.float32, count, first_byte + 64 + rank * 4 * count) for rank in range(2)]
    return ranks, places if inside else [np.empty(count, np.float32) for _ in range(2)]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("kind", "op"), [("allreduce", "sum"), ("allreduce", "max"), ("reduce_scatter", "sum"),
                                          ("allgather", "sum"), ("broadcast", "sum")])  # fmt: skip
def test_a_large_collective_returns_every_few_segments_and_goes_on(kind, op, inside):
    copies = inside and kind in ("allgather", "broadcast")
    ranks, arrays = at_leisure(((20 if copies else 3) << 20) + 5, inside)  # two pieces, or many of half a megabyte
    inputs = [values(rank, len(array), np.float32) for rank, array in enumerate(arrays)]
    for rank, array, mine in zip(ranks, arrays, inputs, strict=True):
        array[...] = mine
        assert start(rank, kind, array, op) == WAITING
    returns, unfinished = [0, 0], {0, 1}
    while unfinished:
        for number in list(unfinished):
            phase = ranks[number]._host.phase
            if ranks[number].test() == DONE:
                unfinished.remove(number)
            returns[number] += ranks[number]._host.phase > phase
            assert ranks[number]._host.phase - phase <= 4
    assert min(returns) >= (2 if copies else 3)
    assert not inside or [rank._host.posted for rank in ranks] == [2, 2]  # no more meetings
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(*outcome(kind, op, array, inputs, number))


@pytest.mark.parametrize(("byte_s", "turns", "taken"), [
    ([2.0, 1.0], 9, 1), ([2.0, 1.5], 9, 0), ([1.0, 2.0], 9, 0), ([2.0, 1.0], 0, 0), ([1.0, 2.0], 0, 1),
])  # fmt: skip
def test_the_quicker_way_to_write_is_taken_and_when_its_turn_comes_the_other(byte_s, turns, taken):
    slot_bytes = 1 << 15
    memory = mmap.mmap(-1, header_bytes(2, slot_bytes) + 64)
    ranks = [HostRank(memory, rank, 2, slot_bytes, spins=0, yields=0) for rank in range(2)]
    ways = [way for rank in ranks for way in (rank._host.writes, rank._host.sums)]
    for way in ways:
        way.byte_s, way.turns = byte_s, turns
    arrays = [np.full(1 << 12, rank, np.float32) for rank in range(2)]  # a segment is half of it
    for rank, array in zip(ranks, arrays, strict=True):
        start(rank, "allreduce", array, "sum")
    while WAITING in [rank.test() for rank in ranks]:
        pass
    np.testing.assert_array_equal(arrays, 1)
    for way in (rank._host.sums for rank in ranks):
        assert way.byte_s[1 - taken] == byte_s[1 - taken] and way.byte_s[taken] < byte_s[taken]
        assert way.turns == (turns - 1 if turns else 32)
    for way in (rank._host.writes for rank in ranks):  # as often as segments are put in, and sums written
        assert way.byte_s[taken] < byte_s[taken]


def test_a_way_that_is_much_slower_is_tried_more_rarely():
    slot_bytes = 1 << 15
    memory = mmap.mmap(-1, header_bytes(1, slot_bytes) + 64)
    rank = HostRank(memory, 0, 1, slot_bytes, spins=0, yields=0)
    seen = []
    for byte_s in ([1.0, 2.0], [1e-30, 1e-28]):  # the second is tried: it is quicker than told, or as slow
        rank._host.writes.byte_s, rank._host.writes.turns = byte_s, 0
        assert start(rank, "allgather", np.ones(1 << 12, np.float32), "sum") == DONE
        seen.append(rank._host.writes.turns)
    assert seen == [32, 32 * 16]
