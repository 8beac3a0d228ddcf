"""Hierarchical algorithm: inside each host first, then across hosts, then inside again, to spare the links.

    2 hosts x 2 ranks; chunks 0 1 are slice 0, chunks 2 3 slice 1; hosts {0 1} and {2 3}

    inside    reduce-scatter of slices    0 ⇄ 1            2 ⇄ 3            a rank has its slice of its host's sum
    across    all-reduce of a slice       0 ⇄ 2 (slice 0)  1 ⇄ 3 (slice 1)  among ranks with the same local rank
    inside    allgather of slices         0 ⇄ 1            2 ⇄ 3

Where hosts have different numbers of ranks, or a buffer is so small that only messages count, the first rank of each
host leads it: the others' buffers are added to its own, leaders all-reduce among themselves, and the sum goes back.

Which of these it is, `phases_of` says; across_hosts.py carries it out, and auto.py prices it. Inside a host the
shared-memory kernel does the collective. Where there is none the whole is one schedule (`by_messages`): that of each
phase, which there is already, with its ranks and chunks renamed.

Cost, H hosts of L ranks and S bytes, across a link: 2(H-1) alpha + 2(H-1)/H S beta, as if each host were one rank; in a
plain ring that does not know of hosts, 2(HL-1) alpha + 2(HL-1)/(HL) S beta.
Source: Cho, Finkler, Serrano, Kung and Hunter, BlueConnect, 2019; Ueno and Yokota, Exhaustive study of hierarchical
allreduce patterns for large messages between GPUs, 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, zip_longest
from typing import NamedTuple

from npdp.base.partition import bounds
from npdp.collectives import ring, tree
from npdp.collectives.algorithms import SCHEDULES, Maker
from npdp.collectives.schedule import Move, Step

# Measured on emulated hosts with links of 1 Gbit/s: docs/measurements.md
GATHERED_UP_TO_BYTES = 64 << 10
MORE_BYTES = 8 << 10  # extra bytes that gathering may send over a link: they take as long as a ring's further messages
RING_FROM_BYTES = 64 << 10  # of a slice, on many hosts: below, its many messages cost more than it saves
FEW_HOSTS = 3  # a ring of these takes no more steps than halving-doubling
PIECE_BYTES = 1 << 20  # per host: a piece is cut into a chunk for each

Groups = list[list[int]]  # each host's ranks
INSIDE: dict[str, Maker] = {
    "reduce_scatter": ring.reduce_scatter,
    "allgather": ring.allgather,
    "reduce": tree.reduce,
    "broadcast": tree.broadcast,
}


class Phases(NamedTuple):
    """The phases of an all-reduce over hosts: a collective inside each host, one across, and one inside again.

    Attributes:
        before, after: the collectives inside a host.
        across, algorithm: the collective of each cross-host group, and how it is done.
        columns: the cross-host groups, one for each slice, of one rank of each host; or one of leaders, for all.
        pieces: into how many the buffer is cut, which go through the phases one after the other.
    """

    before: str
    across: str
    algorithm: str
    after: str
    columns: tuple[tuple[int, ...], ...]
    pieces: int = 1

    @property
    def gathered(self) -> bool:
        """True if each leader gets the sums of all hosts, and adds them up itself."""
        return self.across == "allgather"


@lru_cache(maxsize=1024)
def phases_of(nbytes: int, hosts: tuple[int, ...], shares_memory: bool) -> Phases:
    """Return the phases of an all-reduce of so many bytes.

    Args:
        hosts: each rank's host.
        shares_memory: whether all ranks of each host share memory.
    """
    inside, columns = groups(hosts), columns_of(hosts)
    to_leader = "allreduce" if shares_memory else "reduce"  # which the kernel does not have
    leaders = (tuple(group[0] for group in inside),)
    if _is_small(nbytes, len(inside)):
        across = ("allgather", "naive") if shares_memory else ("allreduce", "halving_doubling")
        return Phases(to_leader, *across, "broadcast", leaders)
    columns = columns or leaders
    before, after = ("reduce_scatter", "allgather") if len(columns) > 1 else (to_leader, "broadcast")
    if not shares_memory:
        return Phases(before, "allreduce", "ring", after, columns)
    alone = len(inside) == len(hosts)  # there is nothing to do in a host while a piece crosses
    pieces = 1 if alone else -(-nbytes // (PIECE_BYTES * len(inside)))
    algorithm = algorithm_across(nbytes / (pieces * len(columns)), len(inside))
    return Phases(before, "allreduce", algorithm, after, columns, pieces)


@lru_cache(maxsize=64)
def columns_of(hosts: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return for each slice the ranks that carry it, one of each host; none where hosts have different numbers."""
    inside = groups(hosts)
    return tuple(zip(*inside)) if len({len(group) for group in inside}) == 1 else ()


def algorithm_across(nbytes: float, hosts: int) -> str:
    """Return the algorithm of a cross-host group, with a rank of each host, for a slice of so many bytes."""
    return "ring" if hosts <= FEW_HOSTS or nbytes >= RING_FROM_BYTES else "halving_doubling"


def _is_small(nbytes: int, hosts: int) -> bool:
    """Return whether only messages count: one that carries a host's whole sum to each other host does no harm."""
    more_bytes = nbytes * (hosts - 1) * (hosts - 2) // hosts  # hosts - 1 buffers; a ring sends 2 (hosts - 1) / hosts
    return nbytes <= GATHERED_UP_TO_BYTES and more_bytes <= MORE_BYTES


def groups(hosts: Sequence[int]) -> Groups:
    """Return each host's ranks, in rank order, hosts by their first rank; `hosts` has each rank's host."""
    found: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        found.setdefault(host, []).append(rank)
    return list(found.values())


def by_messages(hosts: Sequence[int], phases: Phases) -> Iterator[Step]:
    """All-reduce by messages alone, where a host's ranks share no memory."""
    slices = bounds(len(hosts), len(phases.columns))
    yield from _inside(INSIDE[phases.before], hosts)
    yield from across(phases, pairwise(slices))
    yield from _inside(INSIDE[phases.after], hosts)


def across(phases: Phases, slices: Iterable[tuple[int, int]]) -> Iterator[Step]:
    """Yield the steps among hosts: each cross-host group carries its slice, chunks [start, stop)."""
    maker = SCHEDULES[phases.across][phases.algorithm]
    return together(
        renamed(maker(len(column)), column, [start + cut for cut in bounds(stop - start, len(column))])
        for column, (start, stop) in zip(phases.columns, slices)
    )


def _inside(collective: Maker, hosts: Sequence[int]) -> Iterator[Step]:
    """Yield the steps of a collective inside each host."""
    return together(renamed(collective(len(group)), group, bounds(len(hosts), len(group))) for group in groups(hosts))


def renamed(steps: Iterable[Step], ranks: Sequence[int], cuts: Sequence[int]) -> Iterator[Step]:
    """Yield the steps of a smaller world: its rank r is `ranks[r]`, its chunk c is chunks [cuts[c], cuts[c + 1])."""
    for step in steps:
        yield [
            Move(ranks[source], ranks[target], cuts[start], cuts[stop], accumulate)
            for source, target, start, stop, accumulate in step
        ]


def together(schedules: Iterable[Iterable[Step]]) -> Iterator[Step]:
    """Yield the steps of schedules among different ranks as one schedule: step n is all their steps n."""
    for steps in zip_longest(*schedules, fillvalue=()):
        yield [move for step in steps for move in step]
