"""The order of an epoch's samples, and each rank's part of every global batch.

    epoch order   7 2 9 4 | 1 0 8 3 | 6 5       global batches of 4, the last one shorter
    rank 0 of 3   7 2     | 1 0     | 6         the partition law on every batch: each sample exactly once,
    rank 1            9   |     8   |   5       nothing padded or dropped, and a part may be empty
    rank 2              4 |       3 |

The order is a pure function of (seed, epoch): it does not depend on the number of ranks, and an epoch in the
middle of a run can be made again.

Where work is assigned (by an asynchronous parameter server), the same parts are the work items, numbered through
the epoch, and a rank takes whichever it is assigned next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from npdp.base.partition import part
from npdp.base.place import Place
from npdp.data.batch import Batch

Rows = npt.NDArray[np.int64]
Assign = Callable[[int, int, int, int], Iterator[int]]  # (loader, pass, work items, those in a batch) -> this rank's


class Shard:
    """A rank's part of the data: one object as long as the rank lives, though its world may change.

    Attributes:
        rank, world_size: as they are now.
        begun: as they were at first, by which the rank is known from then on.
        on_thread: whether the rank is a thread, at work; other threads that it starts are no ranks.
        place: where its program is.
    """

    def __init__(self, rank: int, world_size: int, on_thread: bool = False) -> None:
        self.rank, self.world_size, self.on_thread = rank, world_size, on_thread
        self.begun, self.place = (rank, world_size), Place()

    def __getstate__(self) -> dict[str, Any]:  # a copy is elsewhere
        return {**vars(self), "place": Place()}


class _OfThisRank(threading.local):
    """What the loaders of a rank are told.

    Attributes:
        shard: this rank's, as `npdp.init()` says it; None where nobody has asked, as in a thread that is no rank.
        assign: gives them their work items; None where each rank takes its own part of each batch.
        batch, rows: what a loader gave last; the numbers of its samples in the dataset.
        micro_batches: in how many micro-batches it gives its batches; 1 outside of a pass.
        loaders: how many were made: the same program numbers them alike on every rank.
    """

    shard: Shard | None = None
    assign: Assign | None = None
    batch: Batch | None = None
    rows: Rows | None = None
    micro_batches = 1
    loaders = 0


this_rank = _OfThisRank()


def number_loader() -> int:
    """Return the next number for a loader of this rank."""
    this_rank.loaders += 1
    return this_rank.loaders - 1


def shard() -> Shard:
    """Return this rank's shard, making its world first if nobody has."""
    if this_rank.shard is None:
        from npdp.parallel.world import shard_of_this_rank  # the one look across: a loader needs ranks as a model does

        this_rank.shard = shard_of_this_rank()  # a helper thread has its process's, which it did not make
    assert this_rank.shard is not None
    return this_rank.shard


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool = True) -> Rows:
    """Return the row numbers 0 .. count - 1 in the order of this epoch; a pure function of its arguments."""
    if not shuffle:
        return np.arange(count)
    generator: Any = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(count)  # type: ignore[no-any-return]


def local_rows(count: int, parts: int, rank: int, micro_batches: int, number: int) -> tuple[int, int]:
    """Return [start, stop) within a global batch of `count` for one micro-batch of a rank's part."""
    start, stop = part(count, parts, rank)
    first, last = part(stop - start, micro_batches, number)
    return start + first, start + last


def count_work_items(count: int, batch_size: int, parts: int) -> int:
    """Return how many work items an epoch of `count` samples has: the parts of its batches that are not empty."""
    whole, rest = divmod(count, batch_size)
    return whole * min(parts, batch_size) + min(parts, rest)
