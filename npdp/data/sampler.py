"""Which samples an epoch takes in which order, and which of them are this rank's.

    epoch order   7 2 9 4 | 1 0 8 3 | 6 5       global batches of 4, the last one shorter
    rank 0 of 3   7 2     | 1 0     | 6         the partition law on every batch: each sample exactly once,
    rank 1            9   |     8   |   5       nothing padded or dropped, and a part may be empty
    rank 2              4 |       3 |

The order is a pure function of (seed, epoch): it does not depend on the number of ranks, and an epoch in the
middle of a run can be made again.

Where somebody hands out the work (an asynchronous parameter server), the same parts are its units, numbered through
the epoch, and a rank takes whichever it is given next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from npdp.partition import part

Rows = npt.NDArray[np.int64]
HandOut = Callable[[int, int, int, int], Iterator[int]]  # (loader, pass, units, units in a batch) -> this rank's units


class _OfThisRank(threading.local):
    shard: tuple[int, int] | None = None  # (rank, world size), as `npdp.init()` says it
    hand_out: HandOut | None = None
    pieces = 1  # in how many a loader gives the batch that it is at
    loaders = 0  # how many were made: the same program numbers them alike on every rank


_here = _OfThisRank()


def number_loader() -> int:
    """Return the next number for a loader of this rank."""
    _here.loaders += 1
    return _here.loaders - 1


def set_hand_out(hand_out: HandOut | None) -> None:
    """Say who gives the loaders of this rank their units of work; None: each rank takes its own part of each batch."""
    _here.hand_out = hand_out


def hand_out() -> HandOut | None:
    """Return who gives this rank its units of work."""
    return _here.hand_out


def set_pieces(pieces: int) -> None:
    """Say in how many pieces this rank gets the batch that its loader is at."""
    _here.pieces = pieces


def pieces() -> int:
    """Return in how many pieces this rank gets the batch that its loader is at; 1 outside of a pass."""
    return _here.pieces


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


def count_units(count: int, batch_size: int, parts: int) -> int:
    """Return how many units an epoch of `count` samples has: the parts of its batches that are not empty."""
    whole, rest = divmod(count, batch_size)
    return whole * min(parts, batch_size) + min(parts, rest)
