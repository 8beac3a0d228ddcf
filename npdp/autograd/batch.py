"""Where the rows of a tensor come from: what makes P ranks count, and drop out, as one would."""

from __future__ import annotations

import threading
from collections.abc import Callable

UNSHUFFLED = -1  # no seed, and no epoch, is


class Batch:
    """Which rows of which global batch a result was computed from.

    A tensor of the loader carries one and every result computed from it inherits it, so a loss knows how
    many samples it stands for, and dropout knows which rows it masks.

    Args:
        count: number of samples on this rank.
        iteration: number of the global batch since training began.
        position: (first row in the global batch, samples of the global batch over all ranks), or a function
            that finds it out, collectively, the first time that somebody asks.
        parts: into how many parts, one a rank, the global batch was cut.
        drawn: what says which samples the global batch has, the same on every rank: (samples of an epoch, checksum of
            their labels, batch_size, seed, epoch, number of the batch), of what is not shuffled with UNSHUFFLED for
            seed and epoch; () where nobody knows.
    """

    __slots__ = ("_position", "count", "drawn", "iteration", "parts")

    def __init__(
        self,
        count: int,
        iteration: int,
        position: tuple[int, int] | Callable[[int], tuple[int, int]],
        parts: int = 1,
        drawn: tuple[int, ...] = (),
    ) -> None:
        self.count = count
        self.drawn = drawn
        self.iteration = iteration
        self.parts = parts
        self._position = position

    @property
    def position(self) -> tuple[int, int]:
        if not isinstance(self._position, tuple):
            self._position = self._position(self.count)
        return self._position

    @property
    def first_row(self) -> int:
        return self.position[0]

    @property
    def global_count(self) -> int:
        return self.position[1]


MIXED = Batch(0, 0, (0, 0), 0)  # of a result of several batches that weigh differently
SUMMED = Batch(0, 0, (0, 0), 0)  # of a loss that is a sum over samples and no mean, and of all computed from it


def joined(batch: Batch, other: Batch) -> Batch:
    """Return the batch of a result computed from both.

    Where they weigh alike, the one that was cut for more ranks; of two, the one of which it is known what was drawn.
    """
    if batch is SUMMED or other is SUMMED:
        return SUMMED
    if batch.count != other.count or batch is MIXED or other is MIXED:
        return MIXED
    if batch.parts == other.parts:
        return other if other.drawn and not batch.drawn else batch
    return batch if batch.parts > other.parts else other


class _Forward(threading.local):
    """The forward under way of a wrapped model, on this thread, and the batch behind it.

    What a forward makes of arrays does not carry it.
    """

    batch: Batch | None = None


forward_under_way = _Forward()


def batch_of_rows(count: int) -> Batch | None:
    """Return the batch whose rows so many are that a forward brings in as an array, if there is one."""
    batch = forward_under_way.batch
    return batch if batch is not None and batch.count == count else None
