"""The five collectives, in a world of four threads: no launcher, no MPI.

    python examples/collectives.py

Each rank begins with its own numbers; what it ends with is printed in rank order.
"""

from collections.abc import Callable

import numpy as np

import npdp

RANKS = 4


def allreduce() -> np.ndarray:
    buffer = np.arange(6.0) + 10 * npdp.rank()
    npdp.allreduce(buffer)  # in place: every rank ends with the sum of all buffers
    return buffer


def reduce_scatter() -> np.ndarray:
    buffer = np.arange(6.0) + 10 * npdp.rank()
    return npdp.reduce_scatter(buffer)  # a view: chunk `rank` of the sum; 6 elements make chunks of 2, 2, 1, 1


def allgather() -> np.ndarray:
    everything = np.zeros(RANKS)
    npdp.allgather(np.array([10.0 * npdp.rank()]), everything)  # every rank ends with every rank's chunk
    return everything


def broadcast() -> np.ndarray:
    buffer = np.full(3, float(npdp.rank()))
    npdp.broadcast(buffer, root=2)  # every rank ends with rank 2's buffer
    return buffer


def barrier() -> np.ndarray:
    npdp.barrier()  # nobody leaves before all have come
    return np.array([])


def show(collective: Callable[[], np.ndarray]) -> None:
    print(collective.__name__)
    for rank, result in enumerate(npdp.run_ranks(RANKS, collective)):
        print(f"  rank {rank}: {result}")


if __name__ == "__main__":
    for collective in (allreduce, reduce_scatter, allgather, broadcast, barrier):
        show(collective)
