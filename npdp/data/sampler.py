"""Which samples an epoch takes in which order, and which of them are this rank's.

    epoch order   7 2 9 4 | 1 0 8 3 | 6 5       global batches of 4, the last one shorter
    rank 0 of 3   7 2     | 1 0     | 6         the partition law on every batch: each sample exactly once,
    rank 1            9   |     8   |   5       nothing padded or dropped, and a part may be empty
    rank 2              4 |       3 |

The order is a pure function of (seed, epoch): it does not depend on the number of ranks, and an epoch in the
middle of a run can be made again.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from npdp.partition import part

Rows = npt.NDArray[np.int64]


class _OfThisRank(threading.local):
    shard: tuple[int, int] | None = None  # (rank, world size), as `npdp.init()` says it


_here = _OfThisRank()


def set_shard(rank: int, world_size: int) -> None:
    """Tell the loaders of this rank which part is theirs."""
    _here.shard = rank, world_size


def shard() -> tuple[int, int]:
    """Return (rank, world size) of this rank, making its world first if nobody has."""
    if _here.shard is None:
        from npdp.parallel.world import init  # the one look across: a loader needs a world as much as a model does

        init()
    if _here.shard is None:  # a helper thread of a process whose world the main thread has
        from npdp.parallel.world import rank, world_size

        set_shard(rank(), world_size())
    assert _here.shard is not None
    return _here.shard


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool = True) -> Rows:
    """Return the row numbers 0 .. count - 1 in the order of this epoch; a pure function of its arguments."""
    if not shuffle:
        return np.arange(count)
    generator: Any = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(count)  # type: ignore[no-any-return]


def local_rows(count: int, parts: int, rank: int, pieces: int, piece: int) -> tuple[int, int]:
    """Return [start, stop) within a global batch of `count` for one piece of a rank's part."""
    start, stop = part(count, parts, rank)
    first, last = part(stop - start, pieces, piece)
    return start + first, start + last
