"""Ranks of the C kernel that one thread plays: it moves them in any order, each as far as it can go alone.

A rank that is done with a collective spoils its array at once, and begins the next one.
"""

import mmap
import signal
from contextlib import contextmanager
from functools import reduce

import numpy as np
import pytest
from worlds import FOLD, values

from npdp import kernels
from npdp.base.partition import part, rounded_up
from npdp.collectives.cost import SMALL_BYTES, SMALL_DIRECT_BYTES

if kernels.compiled is None:
    pytest.skip("the C kernels are not compiled here", allow_module_level=True)

from npdp.kernels.shared_memory import DONE, WAITING, HostRank, header_bytes, words_of

LONGEST = 3000
SLOT_BYTES = {1: 1024, 2: 1024, 3: 768, 4: 1024}  # multiples of 64 a rank
INSIDE, OUTSIDE, MIXED, CROSSED = range(4)
SMALL_DIRECT = SMALL_DIRECT_BYTES // 4  # float32: above, arrays in this memory are worked on where they are
SMALL = SMALL_BYTES // 4  # float32: above, an all-reduce of arrays outside is staged


@contextmanager
def short_sleeps():
    """Within, a signal ends the kernel's sleep of 10 ms, which one thread alone would always sleep to its end."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(kind, op, array, inputs, rank, root=0):
    """Return what a collective has left in a rank's array, all or its chunk, and what it must leave, by NumPy."""
    chunks = [slice(*part(len(array), len(inputs), each)) for each in range(len(inputs))]
    total = reduce(FOLD[op], inputs)
    wanted = {
        "allreduce": total,
        "reduce_scatter": total[chunks[rank]],
        "allgather": np.concatenate([each[chunk] for each, chunk in zip(inputs, chunks)]),
        "broadcast": inputs[root],
        "barrier": inputs[rank],
    }[kind]
    return array[chunks[rank]] if kind == "reduce_scatter" else array, wanted


class Player:
    """One rank: it carries out `calls`, (kind, op, dtype, count, where), and notes what is wrong with the outcomes."""

    def __init__(self, memory, rank, ranks, calls):
        self.rank, self.ranks, self.calls, self.wrong = rank, ranks, list(calls), []
        self.kernel = HostRank(memory, rank, ranks, SLOT_BYTES[ranks], spins=0, yields=0)
        start = rounded_up(header_bytes(ranks, SLOT_BYTES[ranks]), 64)
        self.place = np.frombuffer(memory, np.uint8, 8 * LONGEST, start + 8 * LONGEST * rank)
        self.number, self.array = 0, None

    @property
    def done(self):
        return self.number == len(self.calls)

    def move(self):
        """Go on until others must come first."""
        while not self.done:
            status = self.begin() if self.array is None else self.kernel.test()
            if status == WAITING:
                return
            assert status == DONE
            self.finish()

    def begin(self):
        kind, op, dtype, count, where = self.calls[self.number]
        inside = where == INSIDE or where == (CROSSED if self.rank % 2 else MIXED)
        self.array = self.place[: count * np.dtype(dtype).itemsize].view(dtype) if inside else np.empty(count, dtype)
        self.array[...] = values(self.rank, count, dtype, self.number)
        return start(self.kernel, kind, self.array, op, self.root if kind == "broadcast" else 0)

    def finish(self):
        kind, op, dtype, count, _ = call = self.calls[self.number]
        inputs = [values(rank, count, dtype, self.number) for rank in range(self.ranks)]
        got, wanted = outcome(kind, op, self.array, inputs, self.rank, self.root)
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


def start(kernel, kind, array, op, root=0):
    """Start a collective on one rank, and return the kernel's status."""
    return kernel.start(words_of(kind, array.dtype, op, False, root), array)


def memory_and_ranks(count):
    """Return memory and the ranks that share it."""
    memory = mmap.mmap(-1, header_bytes(count, SLOT_BYTES[count]) + 64)
    return memory, [HostRank(memory, rank, count, SLOT_BYTES[count], spins=0, yields=0) for rank in range(count)]
