"""The table of algorithms, by name; auto.py says which one `auto` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from npdp.collectives import halving_doubling, naive, ring, tree
from npdp.collectives.schedule import Schedule, Step

Maker = Callable[..., Iterable[Step]]  # (world_size) -> steps; of a broadcast, (world_size, root)
Algorithm = str | Maker  # a name, or a function of the user's

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

OWN: dict[str, Schedule] = {}  # schedules of functions of users', proven, by the names that own.py gives them

NATIVE = "mpi"  # MPI's own, to compare with; all-reduce only
SHARED_MEMORY = "shared_memory"  # the kernel over memory that the ranks of a host share; no schedule of messages
HIERARCHICAL = "hierarchical"  # memory inside each host, messages across (across_hosts.py); all-reduce only


def name_of(algorithm: Algorithm) -> str:
    """Return what an algorithm is called."""
    return algorithm if isinstance(algorithm, str) else getattr(algorithm, "__name__", type(algorithm).__name__)


def steps_of(collective: str, algorithm: str, world_size: int, root: int = 0) -> Iterable[Step]:
    """Return the schedule of an algorithm that has one; `root` is a broadcast's."""
    if algorithm in OWN:
        return OWN[algorithm]
    maker = SCHEDULES[collective][algorithm]
    return maker(world_size, root) if collective == "broadcast" else maker(world_size)


def algorithms_of(collective: str) -> tuple[str, ...]:
    """Return the algorithms that there are for a collective, without `auto`."""
    others = (HIERARCHICAL, SHARED_MEMORY, NATIVE) if collective == "allreduce" else (SHARED_MEMORY,)
    return (*SCHEDULES[collective], *others)


ALGORITHMS = ("auto", *algorithms_of("allreduce"))


def require(collective: str, algorithm: str) -> None:
    """Raise ValueError where an algorithm is not known, or not for this collective."""
    if algorithm not in algorithms_of(collective):
        known = ", ".join(["auto", *algorithms_of(collective)])
        raise ValueError(f"{collective}: no algorithm {algorithm!r}; there are {known}")
