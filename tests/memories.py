"""Collectives on arrays that lie here or there: in memory that the ranks share, outside of it, or some of each.

    ordinary   np.empty                     mixed        shared on odd ranks, ordinary on even ones
    shared     npdp.shared_empty            crossed      the other way round
    part       inside of such an array

For tests on threads and for programs under mpirun, so it does without pytest.
"""

import gc
import os
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from worlds import do

import npdp
from npdp.collectives import host
from npdp.collectives.cost import SMALL_BYTES, SMALL_DIRECT_BYTES  # where the kernel changes its way
from npdp.parallel.world import init

MEMORIES = ("ordinary", "shared", "part", "mixed", "crossed")
OFFSET = 3  # elements before a part: it starts on no cache line


class Arrays:
    """This rank's arrays, up to a count; made once, for many collectives; collective."""

    def __init__(self, count, dtypes):
        self.memory = {dtype: npdp.shared_empty(OFFSET + count, dtype) for dtype in dtypes}

    def lay(self, memory, array):
        """Return a copy of `array` where `memory` says; the one before in this place is gone."""
        odd = npdp.rank() % 2 == 1
        if memory == "ordinary" or memory == ("crossed" if odd else "mixed"):
            return array.copy()
        start = OFFSET if memory == "part" else 0
        place = self.memory[array.dtype.name][start : start + array.size]
        place[...] = array
        return place


def do_in(arrays, memory, collective, algorithm, dtype, op, count, root=0, salt=0):
    """Carry out one collective on an array in this memory and say what is wrong with its outcome, or None."""
    wrong = do(collective, algorithm, dtype, op, count, root, salt, lambda array: arrays.lay(memory, array))
    return wrong and f"{memory}: {wrong}"


def edges(world_size, itemsize, slot_bytes):
    """Return the counts at which something changes: empty chunks, another way, one segment more in a slot."""
    counts = {0, 1, world_size - 1, world_size, world_size + 1}
    slots = -(-slot_bytes // (64 * world_size)) * 64 * world_size
    for limit_bytes in (SMALL_DIRECT_BYTES, SMALL_BYTES, slots, 2 * slots, 5 * slots):
        counts |= {limit_bytes // itemsize + off for off in (-1, 0, 1)}
    return sorted(counts)


@contextmanager
def slots_of(nbytes):
    """Within, a world that begins has slots of so many bytes: buffers of some thousand elements take many segments."""
    with mock.patch.object(host, "SLOT_BYTES", nbytes):
        yield


# What a process has of the memory
def address(array):
    """Return where an array lies in this rank's mapping: the same on all ranks, where it is one for all."""
    return array.ctypes.data - init().memory.host.arena._address


def open_memories():
    """Return the open files of this process that are memory of npdp, and how many mappings there are of such."""
    gc.collect()
    files = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and "memfd:npdp" in os.readlink(fd)]
    return files, Path("/proc/self/maps").read_text().count("memfd:npdp")


def reserved_bytes():
    """Return how much of this rank's memory the system has really given."""
    return os.fstat(init().memory.host.arena._memory._fd).st_blocks * 512
