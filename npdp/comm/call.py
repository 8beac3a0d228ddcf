"""Description of a collective call, by which ranks compare what they have called.

    Call("allreduce", 10, "float32", op="sum", label="bucket 3")      allreduce of 10 float32 (sum), bucket 3
    Call("broadcast", 8, "int64", root=1, algorithm="tree")           broadcast of 8 int64 from rank 1 by tree
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

FORTRAN = "F"  # order of an array in memory: elements meet as they lie
BARRIER, ALLOCATION = "barrier", "shared_empty, or something else that takes shared memory"
SEND_OR_RECEIVE = "send or receive"  # a message of a program's own, which is no collective
_PARTS = (BARRIER, ALLOCATION)  # labels of what an all-reduce is a part of, instead of a bucket's
_FIRST_PART = 2**32 - len(_PARTS)


class Call(NamedTuple):
    """A collective call of a rank.

    Attributes:
        kind: allreduce, reduce_scatter, allgather, broadcast or barrier; or SEND_OR_RECEIVE.
        count, dtype: of the buffer.
        op: sum, mean, min, max or prod.
        root: of a broadcast.
        order: "C" or "F", in which the array lies.
        label: of which bucket, `bucket(n)`, or part of what, BARRIER or ALLOCATION, an all-reduce is.
        algorithm: where it is to be the same on all ranks.
    """

    kind: str
    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    dtype: str
    op: str = "sum"
    root: int = 0
    order: str = "C"
    label: str = ""
    algorithm: str = ""

    def __str__(self) -> str:
        if self.kind in (BARRIER, SEND_OR_RECEIVE) or self.label in _PARTS:
            return self.label or self.kind
        order = " in Fortran order" if self.order == FORTRAN else ""
        details = {"broadcast": f" from rank {self.root}{order}", "allgather": order}
        detail = details.get(self.kind, f" ({self.op}{order})")
        label = f", {self.label}" if self.label else ""
        by = f" by {self.algorithm}" if self.algorithm else ""
        return f"{self.kind} of {self.count} {self.dtype}{detail}{label}{by}"


def bucket(number: int) -> str:
    """Return the label of a bucket, counted from 1."""
    return f"bucket {number}"


@lru_cache(maxsize=1024)
def label_number(label: str) -> int:
    """Return a label as a number of 32 bits, as the kernel compares it; `label_of` is the way back."""
    if label in _PARTS:
        return _FIRST_PART + _PARTS.index(label)
    return int(label.removeprefix("bucket ")) if label else 0


def label_of(number: int) -> str:
    """Return the label that a number stands for."""
    if number >= _FIRST_PART:
        return _PARTS[number - _FIRST_PART]
    return bucket(number) if number else ""
