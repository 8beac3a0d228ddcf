"""The benchmark cases: each collective by npdp's public call, in place; beside it MPI_Allreduce and a memory copy.

They work on the very buffers: MPI_Allreduce in place, the copy from there to another of the same kind of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import npdp
from npdp.base.partition import part, rounded_up
from npdp.bench.inputs import BLANK, Array, count_wrong, exact_calls, fill, inputs, reduced
from npdp.bench.timing import Contender
from npdp.collectives.algorithms import NATIVE, Algorithm, name_of
from npdp.collectives.cost import LEAST_SENT

MOST_CALLS = 1000
MOST_BLOCKING = 50  # each may take 20 ms where others want the core on which MPI waits
SPARE_BYTES = 4096  # what the call before the clock starts works on
MEMORY_COPY, MPI_ALLREDUCE = "memory copy", "MPI_Allreduce"

# What those are that are not npdp's own
EXPLAINED = {
    NATIVE: "MPI_Iallreduce, which npdp polls, so that it can be interrupted",
    MPI_ALLREDUCE: "blocking, through mpi4py, in place on the same buffers",
    MEMORY_COPY: "by all ranks at once, from the same buffers to others of their kind",
}

BUS_FACTORS = LEAST_SENT  # busbw = algbw x this


class Case(NamedTuple):
    """Benchmark case of one collective, on one rank.

    Attributes:
        buffer: 1-D; for reduce_scatter and allgather, all chunks.
        spare: 1-D, small, of the same kind of memory.
        other: as large as the buffer, of the same kind of memory; where a copy goes.
    """

    buffer: Array
    spare: Array
    other: Array
    rank: int
    world_size: int
    op: str
    algorithm: Algorithm

    def inputs(self, rank: int) -> Array:
        return inputs(rank, self.world_size, self.op, self.buffer.dtype)

    def reduced(self) -> Array:
        return reduced(self.world_size, self.op, self.buffer.dtype)

    def contender(
        self, fill: Callable[[], None], bind: Callable[[Array], Callable[[], Any]], wrong: Callable[[int], int],
        most_calls: int = MOST_CALLS,
    ) -> Contender:  # fmt: skip
        """Return it; `bind` makes the call on an array."""
        return Contender(name_of(self.algorithm), fill, bind(self.spare), bind(self.buffer), wrong, most_calls)


def buffers(nbytes: int, dtype: np.dtype[Any], shared: bool) -> Array:
    """Return two buffers of so many bytes or more, (2, count), not initialised; collective where they are shared.

    They are one array, and so of one kind of memory, whether or not there is room for it in what ranks share.
    """
    shape = 2, rounded_up(nbytes, SPARE_BYTES) // dtype.itemsize
    return npdp.shared_empty(shape, dtype) if shared else np.empty(shape, dtype)


def allreduce(case: Case, bind: Callable[[Array], Callable[[], Any]] | None = None) -> Contender:
    """Case of all-reduce: every call adds up what the last one left, world_size times as much."""
    grows = case.world_size if case.op == "sum" else 1
    total = case.reduced()

    def wrong(calls: int) -> int:
        return count_wrong(case.buffer, total * total.dtype.type(grows ** (calls - 1)))

    return case.contender(
        partial(fill, case.buffer, case.inputs(case.rank)),
        bind or (lambda array: partial(npdp.allreduce, array, case.op, case.algorithm)),
        wrong,
        exact_calls(case.world_size, case.op, case.buffer.dtype, MOST_CALLS),
    )


def mpi_allreduce(case: Case, blocking: Callable[[Array, str], Callable[[], object]]) -> Contender:
    """Case of MPI's own all-reduce, as programs call it; a mean, which MPI does not have, is a sum divided afterwards.

    Args:
        blocking: makes the call on an array, with an op of MPI's.
    """

    def bind(array: Array) -> Callable[[], object]:
        call = blocking(array, "sum" if case.op == "mean" else case.op)
        ranks = array.dtype.type(case.world_size)
        return call if case.op != "mean" else lambda: (call(), np.divide(array, ranks, out=array))

    contender = allreduce(case._replace(algorithm=MPI_ALLREDUCE), bind)
    return contender._replace(most_calls=min(contender.most_calls, MOST_BLOCKING))


def reduce_scatter(case: Case) -> Contender:
    """Case of reduce-scatter: it leaves partial sums outside this rank's chunk, so inputs serve for one call."""
    start, stop = part(case.buffer.size, case.world_size, case.rank)
    total = case.reduced()
    return case.contender(
        partial(fill, case.buffer, case.inputs(case.rank)),
        lambda array: partial(npdp.reduce_scatter, array, case.op, case.algorithm),
        lambda calls: count_wrong(case.buffer[start:stop], total, start),
        most_calls=1,
    )


def allgather(case: Case) -> Contender:
    """Case of allgather: each rank's chunk stands in its place already; the others are blank."""
    cuts = [part(case.buffer.size, case.world_size, rank) for rank in range(case.world_size)]
    patterns = [case.inputs(rank) for rank in range(case.world_size)]

    def put() -> None:
        start, stop = cuts[case.rank]
        case.buffer[:] = BLANK
        fill(case.buffer[start:stop], patterns[case.rank], start)

    def wrong(calls: int) -> int:
        return sum(count_wrong(case.buffer[start:stop], mine, start) for (start, stop), mine in zip(cuts, patterns))

    def bind(out: Array) -> Callable[[], Any]:
        start, stop = part(out.size, case.world_size, case.rank)
        return partial(npdp.allgather, out[start:stop], out, case.algorithm)

    return case.contender(put, bind, wrong)


def broadcast(case: Case) -> Contender:
    """Case of broadcast: rank 0 is the root."""
    of_root = case.inputs(0)
    return case.contender(
        partial(fill, case.buffer, case.inputs(case.rank)),
        lambda array: partial(npdp.broadcast, array, 0, case.algorithm),
        lambda calls: count_wrong(case.buffer, of_root),
    )


def memory_copy(case: Case) -> Contender:
    """Case of a memory copy: all ranks copy at once, each from its buffer to its other."""
    pattern = case.inputs(case.rank)

    def put() -> None:
        fill(case.buffer, pattern)
        case.other[:] = BLANK

    return Contender(
        MEMORY_COPY,
        put,
        lambda: None,
        partial(np.copyto, case.other, case.buffer),
        lambda calls: count_wrong(case.other, pattern),
        MOST_CALLS,
    )


CASES: dict[str, Callable[[Case], Contender]] = {
    "allreduce": allreduce,
    "reduce_scatter": reduce_scatter,
    "allgather": allgather,
    "broadcast": broadcast,
}
