"""Buckets: runs of gradients, side by side in memory, that travel as one buffer.

    grad    | 0.weight f | 0.bias f m u | 2.weight f | 2.bias f m u |
    buckets |<------ bucket 1 -------->|<------- bucket 0 --------->|     in the order in which backward completes them

f: the parameter's flag, "this rank did not use it". m: the bucket's mark, a few bits of one of its parameters' values,
another each time: where their sum over the ranks is not P times one's own, parameters are no longer the same on all
ranks. u: whether any flag is set, so that not each need be looked at.

Backward writes each gradient straight into its place, from the last layer to the first, so buckets are cut from
the end, and leave in this order on every rank.
"""

from __future__ import annotations

from typing import NamedTuple

from npdp.autograd.tensor import Array
from npdp.nn.parameter import FlatParameters, Parameter

MB = 1024 * 1024
FIRST_BUCKET_MB = 1.0  # a small first one leaves early; PyTorch's figure
BUCKET_CAP_MB = 25.0  # PyTorch's figure
MARKED_EVERY = 8  # exchanges: each time would cost a small model's step a microsecond or two
MARKS_APART = 0x9E3779B1  # values of a parameter: a prime, so that each has its turn
ACROSS_HOSTS_MB = 0.25  # a bucket is on the wire while backward goes on: the sooner it leaves the more is hidden


class Bucket(NamedTuple):
    """Parameters that travel together.

    Attributes:
        flat: the arrays in which they are.
        numbers: theirs, there.
        parameters: those.
        buffer: their gradients and flags, and the two behind them.
        mark: where the mark is in `flat.grad`.
        unused: where it says, there, that a parameter is unused.
    """

    flat: FlatParameters
    numbers: range
    parameters: list[Parameter]
    buffer: Array
    mark: int
    unused: int

    def marked(self, turn: int) -> int:
        """Return what the mark is to be, as this rank has the parameters: 8 bits of another value each turn."""
        lap, place = divmod(turn, len(self.numbers))
        number = self.numbers[-1 - place]
        start, stop = self.flat.starts[number], self.flat.flags[number]
        bits = self.flat.data.view(f"i{self.flat.dtype.itemsize}")
        return int(bits[stop - 1 - lap * MARKS_APART % max(1, stop - start)]) & 0xFF


def cut_buckets(
    flat: FlatParameters,
    numbers: list[int],
    bucket_cap_mb: float = BUCKET_CAP_MB,
    first_bucket_mb: float = FIRST_BUCKET_MB,
) -> list[Bucket]:
    """Return the buckets of the parameters with these numbers, in the order in which they leave.

    A bucket ends where it has reached its size, in MB of 2^20 bytes, or where a parameter is not among them.
    """
    buckets: list[Bucket] = []
    last = numbers[-1] + 1
    for place in reversed(range(len(numbers))):
        first = numbers[place]
        cap = min(first_bucket_mb, bucket_cap_mb) if not buckets else bucket_cap_mb
        nbytes = (flat.starts[last] - flat.starts[first]) * flat.dtype.itemsize
        gap = place == 0 or numbers[place - 1] != first - 1
        if gap or nbytes >= cap * MB:
            buffer = flat.grad[flat.starts[first] : flat.starts[last]]
            mark = flat.flags[last - 1] + 1  # behind the last value and its flag
            buckets.append(Bucket(flat, range(first, last), flat.parameters[first:last], buffer, mark, mark + 1))
            last = numbers[place - 1] + 1
    return buckets


def not_the_same(rank: int) -> RuntimeError:
    """Return the error of a rank whose parameters are others than another's."""
    return RuntimeError(
        f"rank {rank}: the ranks' parameters are not the same any more: of late a rank has skipped step(), has "
        "had another learning rate, or has set values of its own"
    )


def compare_marks(buckets: list[Bucket], turn: int, rank: int, world_size: int) -> None:
    """Compare what the ranks' parameters were, by the marks, which are sums over all ranks now; put them back to 0.

    Raises:
        RuntimeError: this rank's were not the same as all others'.
    """
    for bucket in buckets:
        sum_of_marks, bucket.flat.grad[bucket.mark] = bucket.flat.grad.item(bucket.mark), 0
        if sum_of_marks != world_size * bucket.marked(turn):
            raise not_the_same(rank)
