"""The C kernel's ranks, moved by hand: one thread plays all of them, in any order, each as far as it can go alone.

So it is not left to luck whether a slow rank still reads what a quick one writes again: a rank that is done with a
collective spoils its array at once, and begins the next one.
"""

import itertools
import mmap
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import FOLD, values

from npdp import kernels
from npdp.collectives.cost import SMALL_BYTES, SMALL_DIRECT_BYTES
from npdp.comm.calls import described
from npdp.partition import part

if kernels.compiled is None:
    pytest.skip("the C kernels are not compiled here", allow_module_level=True)

from npdp.kernels.shared_memory import DIFFERENT, DONE, KINDS, UNFINISHED, WAITING, HostRank, header_bytes

LONGEST = 3000
SLOT_BYTES = {1: 1024, 2: 1024, 3: 768, 4: 1024}  # multiples of 64 a rank
INSIDE, OUTSIDE, MIXED, CROSSED = range(4)
SMALL_DIRECT = SMALL_DIRECT_BYTES // 4  # float32: above, arrays in this memory are worked on where they are
SMALL = SMALL_BYTES // 4  # float32: above, an all-reduce of arrays outside is staged


@pytest.fixture(scope="module", autouse=True)
def short_sleeps():
    """A signal ends the kernel's sleep of 10 ms, which one thread alone would always sleep to its end."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Player:
    """One rank: it carries out `calls`, (kind, op, dtype, count, where), and notes what is wrong with the outcomes."""

    def __init__(self, memory, rank, ranks, calls):
        self.rank, self.ranks, self.calls, self.wrong = rank, ranks, list(calls), []
        self.kernel = HostRank(memory, rank, ranks, SLOT_BYTES[ranks], looks=0, yields=0)
        start = -(-header_bytes(ranks, SLOT_BYTES[ranks]) // 64) * 64
        self.place = np.frombuffer(memory, np.uint8, 8 * LONGEST, start + 8 * LONGEST * rank)
        self.number, self.array = 0, None

    @property
    def done(self):
        return self.number == len(self.calls)

    def move(self):
        """Go on until others must come first."""
        while not self.done:
            status = self.begin() if self.array is None else self.kernel.go_on()
            if status == WAITING:
                return
            assert status == DONE
            self.finish()

    def begin(self):
        kind, op, dtype, count, where = self.calls[self.number]
        inside = where == INSIDE or where == (CROSSED if self.rank % 2 else MIXED)
        self.array = self.place[: count * np.dtype(dtype).itemsize].view(dtype) if inside else np.empty(count, dtype)
        self.array[...] = values(self.rank, count, dtype, self.number)
        return self.kernel.begin(kind, self.array, op, self.root if kind == "broadcast" else 0)

    def finish(self):
        kind, op, dtype, count, _ = call = self.calls[self.number]
        inputs = [values(rank, count, dtype, self.number) for rank in range(self.ranks)]
        parts = [slice(*part(count, self.ranks, rank)) for rank in range(self.ranks)]
        total = inputs[0]
        for other in inputs[1:]:
            total = FOLD[op](total, other)
        wanted = {
            "allreduce": total,
            "reduce_scatter": total[parts[self.rank]],
            "allgather": np.concatenate([array[part] for array, part in zip(inputs, parts)]),
            "broadcast": inputs[self.root],
            "barrier": inputs[self.rank],
        }[kind]
        got = self.array[parts[self.rank]] if kind == "reduce_scatter" else self.array
        if not np.array_equal(got, wanted):
            self.wrong.append(f"rank {self.rank} of {self.ranks}, call {self.number} {call}: {got}, wanted {wanted}")
        self.array[...] = -99
        self.number, self.array = self.number + 1, None

    @property
    def posted(self):
        return self.kernel._host.posted

    @property
    def root(self):
        return self.number % self.ranks


def play(ranks, calls, pick, ring_at=0):
    """Move the ranks as `pick(those that may have something to do)` says until all are done; return what is wrong.

    `ring_at` is where in their rings they are.
    """
    memory = mmap.mmap(-1, header_bytes(ranks, SLOT_BYTES[ranks]) + 8 * LONGEST * ranks + 64)
    players = [Player(memory, rank, ranks, calls) for rank in range(ranks)]
    for player in players:
        player.kernel._host.ring_at = ring_at
    stuck = set()
    while unfinished := [player for player in players if not player.done]:
        able = [player for player in unfinished if player not in stuck]
        assert able, f"all wait for each other in {[player.calls[player.number] for player in unfinished]}"
        player = pick(able)
        before = player.posted
        player.move()
        stuck = {player} if player.posted != before else stuck | {player}
    return [text for player in players for text in player.wrong]


def call(kind="allreduce", count=LONGEST, where=OUTSIDE, op="sum", dtype="float32"):
    return kind, op, dtype, count, where


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


# What a rank is told
def memory_and_ranks(count):
    memory = mmap.mmap(-1, header_bytes(count, SLOT_BYTES[count]) + 64)
    return memory, [HostRank(memory, rank, count, SLOT_BYTES[count], looks=0, yields=0) for rank in range(count)]


def test_the_first_rank_that_called_something_else_is_named():
    _, (first, second, third) = memory_and_ranks(3)
    assert first.begin("allreduce", np.ones(3), "sum") == WAITING
    assert second.begin("broadcast", np.ones(3, np.int32), "sum", 2) == WAITING
    assert third.begin("allreduce", np.ones(3), "sum") == DIFFERENT
    assert (first.go_on(), second.go_on()) == (DIFFERENT, DIFFERENT)
    assert [rank.different for rank in (first, second, third)] == [1, 0, 1]
    assert described(*first.call_of(1)) == "broadcast of 3 int32 from rank 2"
    assert described(*second.call_of(0)) == described(*third.call_of(2)) == "allreduce of 3 float64 (sum)"


def test_nothing_is_begun_before_the_last_one_is_done():
    _, (first, second) = memory_and_ranks(2)
    array = np.full(3, 1.0)
    assert first.begin("allreduce", array, "sum") == WAITING
    assert first.begin("broadcast", np.ones(9), "sum") == UNFINISHED
    assert first.persistent("allreduce", np.ones(9), "sum")() == UNFINISHED
    assert described(*first.call_of(0)) == "allreduce of 3 float64 (sum)"
    assert second.begin("allreduce", np.full(3, 2.0), "sum") == first.go_on() == DONE
    assert array.tolist() == [3, 3, 3]


def test_nothing_is_begun_in_another_thread_while_the_last_phase_is_worked_on():
    count = 16 << 20  # copied in milliseconds
    memory = mmap.mmap(-1, header_bytes(2, count))
    first, second = (HostRank(memory, rank, 2, count, looks=0, yields=0) for rank in range(2))
    array, root = np.empty(count // 4, np.float32), np.arange(count // 4, dtype=np.float32)
    assert first.begin("broadcast", array, "sum", 1) == WAITING
    assert second.begin("broadcast", root, "sum", 1) == DONE
    with ThreadPoolExecutor(1) as other:
        going_on = other.submit(first.go_on)
        while first.begin("barrier", np.ones(1), "sum") == UNFINISHED:
            pass
        assert going_on.result() == DONE
    assert np.array_equal(array, root)


def test_waiting_is_counted_and_returns_within_moments():
    _, (first, _) = memory_and_ranks(2)
    before = time.perf_counter()
    assert first.begin("barrier", np.ones(1), "sum") == WAITING
    assert [first.go_on() for _ in range(3)] == [WAITING] * 3
    assert 0 < first.wait_s < time.perf_counter() - before < 2


def test_ranks_that_come_one_by_one_are_waited_for_no_longer_than_one():
    _, (first, second, third) = memory_and_ranks(3)
    first._host.longest_s = 0.6
    with ThreadPoolExecutor(1) as other:  # signals go to this thread
        before = time.perf_counter()
        beginning = other.submit(first.begin, "barrier", np.ones(1), "sum")
        time.sleep(0.5)
        assert second.begin("barrier", np.ones(1), "sum") == WAITING
        status, taken_s = beginning.result(), time.perf_counter() - before
    assert status == WAITING and taken_s < 1  # not 0.5 and 0.6
    assert third.begin("barrier", np.ones(1), "sum") == first.go_on() == DONE


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("kind", "op"), [("allreduce", "sum"), ("allreduce", "max"), ("reduce_scatter", "sum"),
                                          ("allgather", "sum"), ("broadcast", "sum")])  # fmt: skip
def test_a_large_collective_returns_every_few_segments_and_goes_on(kind, op, inside):
    copies = inside and kind in ("allgather", "broadcast")
    count, slot_bytes = ((20 if copies else 3) << 20) + 5, 1 << 17  # in two pieces, or many of half a megabyte
    first_byte = header_bytes(2, slot_bytes)
    memory = mmap.mmap(-1, first_byte + 2 * 4 * count + 64)
    ranks = [HostRank(memory, rank, 2, slot_bytes, looks=0, yields=0) for rank in range(2)]
    places = [np.frombuffer(memory, np.float32, count, first_byte + 64 + rank * 4 * count) for rank in range(2)]
    arrays = places if inside else [np.empty(count, np.float32) for _ in range(2)]
    inputs = [values(rank, count, np.float32) for rank in range(2)]
    returns = [0, 0]
    for rank, array, mine in zip(ranks, arrays, inputs, strict=True):
        rank._host.longest_s = 0
        array[...] = mine
        assert rank.begin(kind, array, op) == WAITING
    unfinished = {0, 1}
    while unfinished:
        for number in list(unfinished):
            phase = ranks[number]._host.phase
            if ranks[number].go_on() == DONE:
                unfinished.remove(number)
            returns[number] += ranks[number]._host.phase > phase
            assert ranks[number]._host.phase - phase <= 4
    assert min(returns) >= (2 if copies else 3)
    assert not inside or [rank._host.posted for rank in ranks] == [2, 2]  # no more meetings
    cut = slice(*part(count, 2, 0)), slice(*part(count, 2, 1))
    for number, array in enumerate(arrays):
        if kind == "reduce_scatter":
            np.testing.assert_array_equal(array[cut[number]], FOLD[op](*inputs)[cut[number]])
        else:
            gathered = inputs[0] if kind == "broadcast" else np.concatenate([inputs[r][cut[r]] for r in range(2)])
            np.testing.assert_array_equal(array, FOLD[op](*inputs) if kind == "allreduce" else gathered)


@pytest.mark.parametrize(("byte_s", "turns", "taken"), [
    ([2.0, 1.0], 9, 1), ([2.0, 1.5], 9, 0), ([1.0, 2.0], 9, 0), ([2.0, 1.0], 0, 0), ([1.0, 2.0], 0, 1),
])  # fmt: skip
def test_the_quicker_way_to_write_is_taken_and_when_its_turn_comes_the_other(byte_s, turns, taken):
    slot_bytes = 1 << 15
    memory = mmap.mmap(-1, header_bytes(2, slot_bytes) + 64)
    ranks = [HostRank(memory, rank, 2, slot_bytes, looks=0, yields=0) for rank in range(2)]
    ways = [way for rank in ranks for way in (rank._host.writes, rank._host.sums)]
    for way in ways:
        way.byte_s, way.turns = byte_s, turns
    arrays = [np.full(1 << 12, rank, np.float32) for rank in range(2)]  # a segment is half of it
    for rank, array in zip(ranks, arrays, strict=True):
        rank.begin("allreduce", array, "sum")
    while WAITING in [rank.go_on() for rank in ranks]:
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
    rank = HostRank(memory, 0, 1, slot_bytes, looks=0, yields=0)
    seen = []
    for byte_s in ([1.0, 2.0], [1e-30, 1e-28]):  # the second is tried: it is quicker than told, or as slow
        rank._host.writes.byte_s, rank._host.writes.turns = byte_s, 0
        assert rank.begin("allgather", np.ones(1 << 12, np.float32), "sum") == DONE
        seen.append(rank._host.writes.turns)
    assert seen == [32, 32 * 16]


def test_counts_of_posts_may_wrap():
    """Half of them are behind, whatever the number: 2^32 barriers are a day's work."""
    memory, (first, second) = memory_and_ranks(2)
    for rank in (first, second):
        rank._host.posted = 2**32 - 3
    lines = np.frombuffer(memory, np.uint32)
    lines[0] = lines[128 // 4] = 2**32 - 3  # how often each has posted
    for turn in range(4):
        array, other = np.array([turn]), np.array([10 * turn])
        assert first.begin("allreduce", array, "sum") == WAITING
        assert second.begin("allreduce", other, "sum") == DONE
        assert first.go_on() == DONE
        assert array[0] == other[0] == 11 * turn


@pytest.mark.parametrize("ring_at", [64, 960, 1024, 3008, 3072, 3136, 4032, 4096])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_wherever_the_ring_is_a_slot_is_not_written_before_all_are_done_with_it(order, ring_at):
    row = ROWS["staged, one segment each"] + ROWS["staged"] + ROWS["staged, one segment each"]
    first = lambda able: min(able, key=lambda player: order.index(player.rank))  # noqa: E731
    assert play(len(order), row, first, ring_at) == []
