"""Marks: a few bits of the parameters' values that go along with gradients, to see whether ranks still have the same.

    turn 0   the last value of each bucket, the first row touched of each sparse parameter
    turn 1   the last value of the parameter before it, another row, ...

A rank that skips a step, or has set values of its own, is told so within some exchanges: each value has its turn.

Cost: nothing in most exchanges, a microsecond or two in the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from zlib import crc32

from npdp.autograd.tensor import Array
from npdp.nn.parameter import Parameter
from npdp.parallel.buckets import Bucket

MARKED_EVERY = 8  # exchanges: each time would cost a small model's step a microsecond or two
MARKS_APART = 0x9E3779B1  # values of a parameter: a prime, so that each has its turn


def turn_of(exchanges: int) -> int | None:
    """Return which turn it is after so many exchanges, 0, 1, 2, ...; None in most of them, which have no marks."""
    turn, rest = divmod(exchanges, MARKED_EVERY)
    return None if rest else turn


def mark_of(bucket: Bucket, turn: int) -> int:
    """Return a bucket's mark, as this rank has the parameters: 8 bits of another value each turn."""
    lap, index = divmod(turn, len(bucket.numbers))
    number = bucket.numbers[-1 - index]
    flat = bucket.flat
    start, stop = flat.starts[number], flat.flags[number]
    bits = flat.data.view(f"i{flat.dtype.itemsize}")
    return int(bits[stop - 1 - lap * MARKS_APART % max(1, stop - start)]) & 0xFF


def compare_marks(buckets: Iterable[Bucket], turn: int, rank: int, world_size: int) -> None:
    """Compare what the ranks' parameters were, by the marks, which are sums over all ranks now; put them back to 0.

    Raises:
        RuntimeError: this rank's were not the same as all others'.
    """
    for bucket in buckets:
        sum_of_marks, bucket.flat.grad[bucket.mark] = bucket.flat.grad.item(bucket.mark), 0
        if sum_of_marks != world_size * mark_of(bucket, turn):
            raise not_the_same(rank)


def marks_of_rows(touched: Mapping[Parameter, Array], turn: int) -> list[int]:
    """Return a hash of one of the rows that the last exchange touched of each parameter, the same row on all ranks."""
    rows = [(parameter, rows[turn * MARKS_APART % len(rows)]) for parameter, rows in touched.items() if len(rows)]
    return [crc32(parameter.data[row].tobytes()) for parameter, row in rows]


def not_the_same(rank: int) -> RuntimeError:
    """Return the error of a rank whose parameters are others than another's."""
    return RuntimeError(
        f"rank {rank}: the ranks' parameters are not the same any more: of late a rank has skipped step(), has "
        "had another learning rate, or has set values of its own"
    )
