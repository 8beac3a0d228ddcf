"""Collectives on arrays that lie here or there: in memory that the ranks share, outside of it, or some of each.

    ordinary   np.empty                     mixed        shared on odd ranks, ordinary on even ones
    shared     npdp.shared_empty            crossed      the other way round
    part       inside of such an array

For tests on threads and for programs under mpirun, so it does without pytest.
"""

from worlds import do

import npdp
from npdp.collectives.cost import SMALL_BYTES, SMALL_DIRECT_BYTES  # where the kernel changes its way

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
