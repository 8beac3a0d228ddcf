"""A look at sums over the ranks: where one is not finite, whose contribution was not, and from which element on.

    rank 0's   1.0  2.0  nan ┐
    rank 1's   1.0  0.5  2.0 ┼ sum  3.0  2.5  nan      not finite on all ranks alike: they need not ask each other
    rank 2's   1.0  0.0  3.0 ┘ firsts  2 3 3           rank 0's from element 2 on; 3, the count: those of others are

In shared memory the pass that sums looks, before it writes (csrc/looking.c). By messages each rank looks at what it
sends, and at the sum.

Cost: in shared memory next to nothing, by messages two passes that read; where a sum is not finite, an all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from npdp.comm.transport import Buffer
from npdp.kernels import first_not_finite

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator

Firsts = list[int]  # for each rank the first element of its contribution that is not finite; the count where all are
SumAndLook = Callable[[], Firsts | None]  # None: the sum is finite, or was not looked at


def look_around(world: Communicator, buffer: Buffer, allreduce: Callable[[], object]) -> Firsts | None:
    """Carry out an all-reduce of a buffer of floats; return whose were not finite, None where the sum is.

    Collective.
    """
    mine = first_not_finite(buffer)
    allreduce()
    return None if first_not_finite(buffer) == buffer.size else of_one(world, mine, buffer.size)


def of_one(world: Communicator, mine: int, count: int) -> Firsts:
    """Return everyone's, of which each rank knows its own; collective."""
    return of_all(world, [mine if rank == world.rank else count for rank in range(world.world_size)])


def of_all(world: Communicator, seen: Sequence[int]) -> Firsts:
    """Return the least that any rank has seen for each; collective."""
    firsts = np.array(seen, np.int64)
    world.allreduce(firsts, "min", "auto")
    return [int(first) for first in firsts]
