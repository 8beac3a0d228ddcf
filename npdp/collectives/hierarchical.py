"""Hierarchical: inside each host first, then across hosts, then inside again, so that a link carries little.

    2 hosts x 2 ranks; chunks 0 1 are slice 0, chunks 2 3 slice 1; hosts {0 1} and {2 3}

    inside    reduce-scatter of slices    0 ⇄ 1            2 ⇄ 3            a rank has its slice of its host's sum
    across    all-reduce of a slice       0 ⇄ 2 (slice 0)  1 ⇄ 3 (slice 1)  among ranks with the same place on each host
    inside    allgather of slices         0 ⇄ 1            2 ⇄ 3

Where hosts have different numbers of ranks, or a buffer is so small that only messages count, the first rank of each
host leads it: the others' buffers are added to its own, leaders all-reduce among themselves, and the sum goes back.

Each phase is a schedule that there is already, its ranks and chunks renamed. Inside a host the shared-memory kernel
does the same instead, where there is one (across_hosts.py).

Cost, H hosts of L ranks and S bytes, across a link: 2(H-1) alpha + 2(H-1)/H S beta, as if each host were one rank; in a
plain ring that does not know of hosts, 2(HL-1) alpha + 2(HL-1)/(HL) S beta.
Source: Cho, Finkler, Serrano, Kung and Hunter, BlueConnect, 2019; Ueno and Yokota, Exhaustive study of hierarchical
allreduce patterns for large messages between GPUs, 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from npdp.collectives import halving_doubling, ring, tree
from npdp.collectives.algorithms import Maker
from npdp.collectives.schedule import Move, Step
from npdp.partition import bounds

Groups = list[list[int]]  # each host's ranks


def groups(hosts: Sequence[int]) -> Groups:
    """Return each host's ranks, in rank order, hosts by their first rank; `hosts` has each rank's host."""
    found: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        found.setdefault(host, []).append(rank)
    return list(found.values())


def even(hosts: Sequence[int]) -> bool:
    """Return whether all hosts have as many ranks."""
    return len({len(group) for group in groups(hosts)}) == 1


def allreduce(hosts: Sequence[int]) -> Iterator[Step]:
    """Every rank ends with the sum: by slices where hosts are even, else by leaders; the ring across."""
    yield from (by_slices if even(hosts) else by_leaders)(hosts, ring.allreduce)


def by_messages(hosts: Sequence[int], small: bool) -> Iterator[Step]:
    """Every rank ends with the sum, where a host's ranks share no memory; of what is small only messages count."""
    return by_leaders(hosts, halving_doubling.allreduce) if small else allreduce(hosts)


def by_slices(hosts: Sequence[int], across: Maker) -> Iterator[Step]:
    """Every rank carries one slice across, cut among its host's ranks; hosts are even."""
    inside = groups(hosts)
    slices = bounds(len(hosts), len(inside[0]))
    columns = list(zip(*inside))  # ranks with the same place
    yield from _together(renamed(ring.reduce_scatter(len(group)), group, slices) for group in inside)
    yield from _together(
        renamed(across(len(column)), column, range(start, stop + 1))
        for column, start, stop in zip(columns, slices, slices[1:])
    )
    yield from _together(renamed(ring.allgather(len(group)), group, slices) for group in inside)


def by_leaders(hosts: Sequence[int], across: Maker) -> Iterator[Step]:
    """The first rank of each host carries the whole buffer across."""
    inside = groups(hosts)
    leaders = [group[0] for group in inside]
    yield from _together(renamed(tree.reduce(len(group)), group, bounds(len(hosts), len(group))) for group in inside)
    yield from renamed(across(len(leaders)), leaders, bounds(len(hosts), len(leaders)))
    yield from _together(renamed(tree.broadcast(len(group)), group, bounds(len(hosts), len(group))) for group in inside)


def renamed(steps: Iterable[Step], ranks: Sequence[int], cuts: Sequence[int]) -> Iterator[Step]:
    """Yield the steps of a smaller world: its rank r is `ranks[r]`, its chunk c is chunks [cuts[c], cuts[c + 1])."""
    for step in steps:
        yield [
            Move(ranks[source], ranks[target], cuts[start], cuts[stop], accumulate)
            for source, target, start, stop, accumulate in step
        ]


def _together(schedules: Iterable[Iterable[Step]]) -> Iterator[Step]:
    """Yield the steps of schedules among different ranks as one schedule: step n is all their steps n."""
    for steps in zip_longest(*schedules, fillvalue=()):
        yield [move for step in steps for move in step]
