"""Consistency checks, now and then, that replicas and batches are alike, beside the exchange of gradients.

    replicas   every 8th exchange a few bits of the parameters go along with each bucket. Their sum over P ranks is P
               times one's own where all have the same. Round 0 takes the last value of each bucket, round 1 the last of
               the parameter before it, ...: a rank that skips a step, or has set values of its own, is told so within
               some rounds, for each value has its turn
    batches    after 0, 1, 2, 4, 8, ... exchanges, and then every 64th, a hash of what the loaders have drawn

Cost: nothing in most exchanges, a microsecond or two in the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from npdp.autograd.tensor import Array
from npdp.data.batch import UNSHUFFLED, Batch
from npdp.nn.sparse_parameter import SparseParameter
from npdp.parallel.agreement import require_equal
from npdp.parallel.buckets import Bucket

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator

REPLICAS_EVERY = 8  # exchanges: each time would cost a small model's step a microsecond or two
BATCHES_EVERY = 64  # exchanges at most: it is a collective of its own; as a rule they differ from early on
VALUES_APART = 0x9E3779B1  # a prime, so that each value of a parameter has its turn
BY_LOADER = 4  # of what says which batch it is these are alike in all of a loader's
DRAWN = "{} samples", "labels with checksum {}", "batch_size {}", "seed {}", "epoch {}", "batch {}"  # Batch.drawn
ABSTAINS = -(2**62)  # less than a quarter of any hash


class Consistency:
    """Comparison of replicas and batches among some ranks, on one of them.

    Args:
        communicator: the ranks.
        synchronous: whether they meet after the same batch, and not only after as many.

    Attributes:
        round: that of the checksums in the next exchange; None in most, which have none.
    """

    def __init__(self, communicator: Communicator, synchronous: bool) -> None:
        self._communicator, self._synchronous = communicator, synchronous
        self._exchanges = self._batches_at = 0  # how many there were; after how many batches are compared next
        self.round: int | None = 0

    def add_checksum(self, bucket: Bucket, round_number: int) -> None:
        """Write the bucket's checksum of this round beside its gradients."""
        bucket.flat.grad[bucket.checksum] = checksum(bucket, round_number)

    def compare_checksums(self, buckets: Iterable[Bucket], round_number: int) -> None:
        """Compare the checksums, which are sums over all ranks now, and put them back to 0.

        Raises:
            RuntimeError: this rank's parameters were not the same as all others'.
        """
        for bucket in buckets:
            grad = bucket.flat.grad
            total, grad[bucket.checksum] = grad.item(bucket.checksum), 0
            if total != self._communicator.world_size * checksum(bucket, round_number):
                raise differ(self._communicator.rank)

    def count_exchange(self, batch: Batch | None) -> None:
        """Count an exchange, and now and then compare the batches behind it; collective.

        Raises:
            RuntimeError: loaders gave ranks parts of different global batches.
        """
        if self._exchanges == self._batches_at:
            self._require_same_batch(batch)
            # After 0, 1, 2, 4, 8, ... too: a loop may leave out empty parts, the first of them in an epoch's end
            self._batches_at += max(1, min(self._batches_at, BATCHES_EVERY))
        self._exchanges += 1
        self.round = None if self._exchanges % REPLICAS_EVERY else self._exchanges // REPLICAS_EVERY

    def _require_same_batch(self, batch: Batch | None) -> None:
        """Raise on every rank where batches differ; one abstains that trained on what is no part of the loader's."""
        communicator = self._communicator
        drawn = batch.drawn if batch is not None and batch.parts == communicator.world_size else ()
        drawn = drawn if self._synchronous else drawn[:BY_LOADER]
        number = hash(drawn) >> 2 if drawn else ABSTAINS  # of numbers, not of texts: the same in all processes
        extremes = np.array([number, -number if drawn else ABSTAINS])
        communicator.allreduce(extremes, "max", "auto")
        if extremes[0] not in (-extremes[1], ABSTAINS):
            mine = ["shuffle=False" if n == UNSHUFFLED else text.format(n) for text, n in zip(DRAWN, drawn)]
            what = "loaders of the whole data, of whose batches each rank trains on its part, be it empty,"
            require_equal(communicator, what, mine, RuntimeError, abstain=True)


def checksum(bucket: Bucket, round_number: int) -> int:
    """Return 8 bits of a parameter of the bucket, as this rank has it: of another value each round."""
    lap, index = divmod(round_number, len(bucket.numbers))
    number = bucket.numbers[-1 - index]
    flat = bucket.flat
    start, stop = flat.starts[number], flat.spare[number]
    bits = flat.data.view(f"i{flat.dtype.itemsize}")
    return int(bits[stop - 1 - lap * VALUES_APART % max(1, stop - start)]) & 0xFF


def checksums_of_rows(touched: Mapping[SparseParameter, Array], round_number: int) -> list[int]:
    """Return a hash of one of the rows that the last exchange touched of each parameter, the same row on all ranks."""
    rows = [(p, rows[round_number * VALUES_APART % len(rows)]) for p, rows in touched.items() if len(rows)]
    return [crc32(parameter.array[row].tobytes()) for parameter, row in rows]


def differ(rank: int) -> RuntimeError:
    """Return the error of a rank whose parameters are others than another's."""
    return RuntimeError(
        f"rank {rank}: the ranks' parameters are not the same any more: of late a rank has skipped step(), has "
        "had another learning rate, or has set values of its own"
    )
