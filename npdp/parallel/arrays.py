"""Collectives on plain arrays, over the world of this rank, which all ranks call alike; and messages between two.

Any contiguous shape of float32, float64, int32 or int64, in C or in Fortran order, alike on all ranks. On arrays from
`shared_empty` they need no copy.

All raise TypeError or ValueError where an array, op or algorithm cannot be used (NotImplementedError: threads have no
mpi; WrongSchedule: a schedule of your own is wrong), and CommunicationError (npdp/comm/errors.py) where ranks do not
call the same, or one that is waited for has left.
Cost: docs/cost.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from npdp.collectives import point_to_point
from npdp.collectives.algorithms import Algorithm
from npdp.collectives.arrays import Array
from npdp.parallel.world import init


def shared_empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Return this rank's array of values yet to be set, in memory that the ranks of a host share; collective.

    Collectives on it, and on contiguous parts of it, read and write all ranks' arrays in place. Where ranks share no
    memory, or there is no room for it, it is an ordinary array, and everything works as well, only slower.

    Args:
        shape: alike on all ranks, as is `dtype`.
        dtype: float32, float64, int32 or int64.

    Raises:
        ValueError: on all ranks of a host, where they ask for different sizes; they may go on.
    """
    return init().shared_empty(shape, np.dtype(dtype))


def allreduce(array: Array, op: str = "sum", algorithm: Algorithm | None = None) -> None:
    """Leave in `array`, on every rank, the sum (or other op) of all ranks' arrays; collective, in place.

    Horovod's `hvd.allreduce` averages and returns the result; this one sums, without an op, and returns None.

    Args:
        array: any contiguous shape, of float32, float64, int32 or int64; alike on all ranks, its order in memory too.
        op: sum, mean, min, max or prod. Integer sums wrap; an integer mean is refused; NaN and Inf pass.
        algorithm: auto, shared_memory, hierarchical, naive, ring, halving_doubling, tree, or mpi (MPI's own, in
            whose min and max NaN may be lost); the world's where None. Or a function of the world size that returns a
            schedule (npdp.collectives), which is proven before its first use.
    """
    init().allreduce(array, op, algorithm)


def reduce_scatter(array: Array, op: str = "sum", algorithm: Algorithm | None = None) -> Array:
    """Return the 1-D view of chunk `rank` of `array`, where the sum is now; collective, in place.

    The other chunks hold partial sums afterwards. Chunks follow the partition law: of count elements, in their order in
    memory, the first count % P chunks have one more.
    `op` and `algorithm` are as in `allreduce`; there is no hierarchical, tree or mpi.
    """
    return init().reduce_scatter(array, op, algorithm)


def allgather(chunk: Array, out: Array, algorithm: Algorithm | None = None) -> None:
    """Leave in `out`, on every rank, all ranks' chunks in rank order; collective, in place in `out`.

    `chunk` must have the size that the partition law gives this rank of `out`; it may be that view of `out`. Algorithms
    are those of `reduce_scatter`.
    """
    init().allgather(chunk, out, algorithm)


def broadcast(array: Array, root: int = 0, algorithm: Algorithm | None = None) -> None:
    """Leave in `array`, on every rank, the root's values; collective, in place.

    By naive, tree or shared_memory, or a function of the world size and the root that returns a schedule.
    """
    init().broadcast(array, root, algorithm)


def barrier() -> None:
    """Return when all ranks have called it; collective."""
    init().barrier()


def global_mean(value: float, count: float) -> float:
    """Return sum(value x count) / sum(count) over all ranks, 0.0 where all counts are 0; collective.

    Raises:
        ValueError: on this rank, where its count is negative or not finite.
    """
    return init().mean(value, count)


def send(array: Array, to: int) -> None:
    """Send an array to another rank, which receives it; return when it has it, or takes it now.

    A send waits for its receive: two ranks that both send to each other first get an error.

    Args:
        array: any contiguous shape, of float32, float64, int32 or int64; count, dtype and order as the receiver's.
        to: a rank.
    """
    point_to_point.send(init(), array, to)


def receive(array: Array, source: int) -> None:
    """Receive into `array` what another rank sends, in place; return when it is there.

    Args:
        array: as the sender's; its values are overwritten.
        source: a rank. Messages of one rank to another arrive in the order in which they were sent.
    """
    point_to_point.receive(init(), array, source)
