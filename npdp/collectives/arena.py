"""Allocator of arrays in the shared memory of a host; an array is freed when no rank uses it any more.

    memory  | the kernel's | block: rank 0's array | rank 1's array | block: one array for all | free ...

All ranks ask for the same in the same order, and agree on what is free again. So each finds, by itself, the same place
for the next block: the first where there is room.

Cost: two to four small collectives for each array.
"""

from __future__ import annotations

import mmap
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdp.base.partition import rounded_up
from npdp.comm.call import ALLOCATION
from npdp.comm.room import room_bytes
from npdp.comm.shared_memory import SharedMemory
from npdp.comm.transport import Buffer

if TYPE_CHECKING:
    from npdp.collectives.host import Host

# Of addresses, not of memory, between the arrays of two ranks. OpenBLAS fetches for writing what would come next, up to
# 50 KB behind the end of what it writes: another rank's gradient, which that one then has to fetch back
GAP_BYTES = 64 << 10
LOOKED_FOR_BYTES = 1 << 20  # from here on room is looked for: half a millisecond, and small arrays may be a thousand


class Block(NamedTuple):
    """A block of the memory, in whole pages."""

    start: int
    nbytes: int


class Arena:
    """Allocator of arrays in a host's shared memory, on one of the host's ranks.

    Args:
        memory: what all of them map.
        first: the byte from which on arrays may lie.
        host: its ranks, and their collectives.
    """

    def __init__(self, memory: SharedMemory, first: int, host: Host) -> None:
        self._memory, self._host, self._ranks, self._rank = memory, host, host.ranks, host.rank
        self._address = np.frombuffer(memory.memory, np.uint8, 1).ctypes.data
        self._free = [Block(first, len(memory.memory) - first)]
        self._blocks: list[Block] = []  # in use, in the order in which they were given out
        self._released: set[Block] = set()  # of these: this rank has no array on them any more

    def empty(self, count: int, dtype: np.dtype[Any], one_for_all: bool = False) -> Buffer | None:
        """Return an array in this memory, each rank its own, or one for all; None where there is no room. Collective.

        It is given back when no rank has an array on it any more. Its values are whatever was there.

        Raises:
            ValueError: the ranks ask for different sizes.
        """
        self._take_back(count * dtype.itemsize)
        stride = nbytes = rounded_up(max(1, count * dtype.itemsize), mmap.PAGESIZE)
        stride += 0 if one_for_all else GAP_BYTES
        block = self._first_fit(stride if one_for_all else stride * len(self._ranks))
        if block is None:
            return None
        start = block.start if one_for_all else block.start + self._rank * stride
        self._blocks.append(block)
        if not self._reserved(start, nbytes, one_for_all):
            self._released.add(block)
            return None
        array: Buffer = np.frombuffer(self._memory.memory, dtype, count, start)
        weakref.finalize(array, self._released.add, block)
        return array

    def _reserved(self, start: int, nbytes: int, one_for_all: bool) -> bool:
        """Return whether all ranks could reserve their array, or the one for all; collective."""
        needed = nbytes if one_for_all else nbytes * len(self._ranks)
        # Known to all before any takes it: they may share one limit
        if needed >= LOOKED_FOR_BYTES and not self._all(room_bytes() >= needed):
            return False
        mine = 0 if one_for_all and self._rank else nbytes  # each rank reserves its own: memory near its core
        return self._all(self._memory.reserve(start, mine))

    def _all(self, yes: bool) -> bool:
        """Return whether all ranks say yes; collective."""
        answer = np.array([yes], np.int32)
        self._host.collective("allreduce", answer, "min")
        return bool(answer[0])

    def everyones(self, array: Buffer) -> list[Buffer] | None:
        """Return, in rank order, the ranks' arrays of the `empty` call that made `array`; None if none did."""
        at = array.ctypes.data - self._address
        block = next((block for block in self._blocks if block.start <= at < block.start + block.nbytes), None)
        if block is None:
            return None
        stride = block.nbytes // len(self._ranks)
        first = at - self._rank * stride
        starts = [first + rank * stride for rank in range(len(self._ranks))]
        return [np.frombuffer(self._memory.memory, array.dtype, array.size, start) for start in starts]

    def _take_back(self, nbytes: int) -> None:
        """Free the blocks that no rank uses any more: the same on all, so they agree where the next one goes."""
        state = np.array([nbytes, -nbytes, *(block in self._released for block in self._blocks)], np.int64)
        self._host.collective("allreduce", state, "min", label=ALLOCATION)
        if state[0] != -state[1]:
            raise ValueError(
                f"rank {self._ranks[self._rank]} asks for {nbytes} bytes of shared memory, others of its host for "
                f"{state[0]} to {-state[1]}"
            )
        returned = [block for block, released in zip(self._blocks, state[2:]) if released]
        for block in returned:
            self._released.remove(block)
            if self._rank == 0:
                self._memory.give_back(*block)
        if returned:
            self._blocks = [block for block, released in zip(self._blocks, state[2:]) if not released]
            self._free = _joined([*self._free, *returned])
            self._host.collective("barrier", state)  # before others reserve what rank 0 has still to give back

    def _first_fit(self, nbytes: int) -> Block | None:
        for number, free in enumerate(self._free):
            if free.nbytes >= nbytes:
                self._free[number] = Block(free.start + nbytes, free.nbytes - nbytes)
                return Block(free.start, nbytes)
        return None


def _joined(blocks: list[Block]) -> list[Block]:
    """Return the blocks in order, neighbours made one."""
    joined: list[Block] = []
    for block in sorted(blocks):
        if joined and joined[-1].start + joined[-1].nbytes == block.start:
            joined[-1] = Block(joined[-1].start, joined[-1].nbytes + block.nbytes)
        else:
            joined.append(block)
    return joined
