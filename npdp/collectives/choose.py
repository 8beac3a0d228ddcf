"""Which schedules there are, and which one `auto` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from npdp.collectives import halving_doubling, naive, ring, tree
from npdp.collectives.schedule import Step

Maker = Callable[[int, int], Iterator[Step]]  # (world_size, root) -> steps

SCHEDULES: dict[str, dict[str, Maker]] = {
    "allreduce": {
        "naive": naive.allreduce,
        "ring": ring.allreduce,
        "halving_doubling": halving_doubling.allreduce,
        "tree": tree.allreduce,
    },
    "reduce_scatter": {
        "naive": naive.reduce_scatter,
        "ring": ring.reduce_scatter,
        "halving_doubling": halving_doubling.reduce_scatter,
    },
    "allgather": {
        "naive": naive.allgather,
        "ring": ring.allgather,
        "halving_doubling": halving_doubling.allgather,
    },
    "broadcast": {"naive": naive.broadcast, "tree": tree.broadcast},
}

NATIVE = "mpi"  # MPI's own, to compare with; all-reduce only
SHARED_MEMORY = "shared_memory"  # the kernel over memory that the ranks of a host share; no schedule of messages
ALGORITHMS = ("auto", *SCHEDULES["allreduce"], SHARED_MEMORY, NATIVE)

# Read off benchmarks/results/allreduce-2-ranks.json and -4-ranks.json
TREE_UP_TO_BYTES = 8 << 10  # below, the number of messages is all that counts
RING_FROM_BYTES = 1 << 20  # above, the two that send fewest bytes are alike, and the ring's additions are one at a time


def algorithms_of(collective: str) -> tuple[str, ...]:
    """Return the algorithms that there are for a collective, without `auto`."""
    return (*SCHEDULES[collective], SHARED_MEMORY, *([NATIVE] if collective == "allreduce" else []))


def choose(collective: str, algorithm: str, nbytes: int, world_size: int, shares_memory: bool = False) -> str:
    """Return the algorithm to use; `auto` is shared memory where all ranks share it, else a small fixed table.

    Raises:
        ValueError: an algorithm that is not known, or not for this collective, or not in this world.
    """
    if algorithm == "auto":
        if shares_memory:
            return SHARED_MEMORY
        if collective == "broadcast":
            return "tree"
        if collective == "allreduce" and nbytes <= TREE_UP_TO_BYTES:
            return "tree"
        return "ring" if nbytes >= RING_FROM_BYTES else "halving_doubling"
    if algorithm == SHARED_MEMORY and not shares_memory and world_size > 1:
        raise ValueError(f"{collective}: shared_memory needs all ranks on one host, and npdp's C kernels")
    if algorithm in algorithms_of(collective):
        return algorithm
    known = ", ".join(["auto", *algorithms_of(collective)])
    raise ValueError(f"{collective}: no algorithm {algorithm!r}; there are {known}")
