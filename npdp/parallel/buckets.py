"""Buckets: runs of gradients, side by side in memory, that travel as one buffer.

    grad    | 0.weight f | 0.bias f m u | 2.weight f | 2.bias f m u |
    buckets |<------ bucket 1 -------->|<------- bucket 0 --------->|     in the order in which backward completes them

f: the parameter's flag, "this rank did not use it". u: whether any flag is set, so that not each need be looked at. m:
the bucket's mark: where its sum over the ranks is not P times one's own, their parameters are not the same (marks.py).

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

    def clear(self) -> None:
        """Put flags and mark back to 0, as they are but during an exchange."""
        self.flat.grad[[*(self.flat.flags[number] for number in self.numbers), self.mark, self.unused]] = 0


def cut_buckets(
    flat: FlatParameters, numbers: list[int], bucket_cap_mb: float, first_bucket_mb: float
) -> list[Bucket]:
    """Return the buckets of the parameters with these numbers, in the order in which they leave.

    A bucket ends where it has reached its size, in MB of 2^20 bytes, or where a parameter is not among them.
    """
    buckets: list[Bucket] = []
    last = numbers[-1] + 1
    for index in reversed(range(len(numbers))):
        first = numbers[index]
        cap = min(first_bucket_mb, bucket_cap_mb) if not buckets else bucket_cap_mb
        nbytes = (flat.starts[last] - flat.starts[first]) * flat.dtype.itemsize
        gap = index == 0 or numbers[index - 1] != first - 1
        if gap or nbytes >= cap * MB:
            buffer = flat.grad[flat.starts[first] : flat.starts[last]]
            mark = flat.flags[last - 1] + 1  # behind the last value and its flag
            buckets.append(Bucket(flat, range(first, last), flat.parameters[first:last], buffer, mark, mark + 1))
            last = numbers[index - 1] + 1
    return buckets
