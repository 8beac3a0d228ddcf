"""Buckets: gradients side by side in memory that travel as one buffer.

    grad    | 0.weight | 0.bias c f | 2.weight | 2.bias c f |
    buckets |<----- bucket 1 ------>|<----- bucket 0 ------>|     in the order in which backward completes them

f: the bucket's flag, above 0 where a rank has not used all of its parameters. c: its checksum (consistency.py).

Backward writes each gradient straight into its place, from the last layer to the first, so buckets are cut from
the end, and leave in this order on every rank.
"""

from __future__ import annotations

from typing import NamedTuple

from npdp.autograd.tensor import Array
from npdp.nn.parameter import FlatParameters, Parameter, put_in

MB = 1024 * 1024
FIRST_BUCKET_MB = 1.0  # a small first one leaves early; PyTorch's figure
BUCKET_CAP_MB = 25.0  # PyTorch's figure
ACROSS_HOSTS_MB = 0.25  # a bucket is on the wire while backward goes on: the sooner it leaves the more is hidden


class Bucket(NamedTuple):
    """Bucket of parameters, whose gradients travel together.

    Attributes:
        flat: the arrays in which they are.
        numbers: theirs, there.
        parameters: those.
        buffer: their gradients, checksum and flag.
        checksum, flag: where these are in `flat.grad`.
    """

    flat: FlatParameters
    numbers: range
    parameters: list[Parameter]
    buffer: Array
    checksum: int
    flag: int

    def fill(self) -> None:
        """Put all gradients into the buffer, zeros where a parameter has none; the flag says so."""
        flat = self.flat
        for parameter in self.parameters:
            gradient = parameter.raw_grad
            if gradient is None:
                parameter.grad_buffer[...] = 0  # type: ignore[index]
                flat.grad[self.flag] = 1
            elif gradient is not parameter.grad_buffer:
                parameter.raw_grad = put_in(parameter.grad_buffer, gradient, "grad")

    def take_flag(self) -> bool:
        """Return whether a rank has not used all parameters, and put the flag back to 0."""
        unused = self.flat.grad.item(self.flag)
        if unused:
            self.flat.grad[self.flag] = 0
        return bool(unused)

    def clear(self) -> None:
        """Put checksum and flag back to 0, as they are but during an exchange."""
        self.flat.grad[[self.checksum, self.flag]] = 0


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
            spare = flat.spare[last - 1]
            buckets.append(
                Bucket(flat, range(first, last), flat.parameters[first:last], buffer, spare, spare + 1)
            )
            last = numbers[index - 1] + 1
    return buckets
