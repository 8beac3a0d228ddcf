"""Halving-doubling algorithm: halve ranks and buffer until each rank has its chunk, then the way back.

    4 ranks, reduce-scatter               5 ranks: the halves are {0 1 2} and {3 4}
    step 0   0 ⇄ 2   1 ⇄ 3                step 0   0 ⇄ 3   1 ⇄ 4   2 → 4
    step 1   0 ⇄ 1   2 ⇄ 3                step 1   0 ⇄ 2   1 → 2   3 ⇄ 4
                                          step 2   0 ⇄ 1

Each rank sends what belongs to the other half to its partner there, and adds what it gets. Where a half has one
rank more, that rank's partner hears two. Any number of ranks works, and the allgather is the same run backwards.

Cost, P a power of two and S bytes: 2 log2(P) alpha + 2(P-1)/P S beta + (P-1)/P S gamma: as few bytes as the ring
in far fewer messages. For other P some ranks send a little more.
Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, 2005.
"""

from __future__ import annotations

from collections.abc import Iterator

from npdp.collectives.schedule import Step, add, reversed_as_puts

Group = range  # ranks that still add among themselves; its chunks bear the same numbers


def _halves(group: Group) -> tuple[Group, Group]:
    middle = (len(group) + 1) // 2
    return group[:middle], group[middle:]


def _exchange(group: Group) -> Step:
    """Each half sends to the other what belongs there."""
    left, right = _halves(group)
    step = []
    for number, rank in enumerate(left):
        partner = right[min(number, len(right) - 1)]
        step.append(add(rank, partner, right.start, right.stop))
        if number < len(right):
            step.append(add(partner, rank, left.start, left.stop))
    return step


def reduce_scatter(world_size: int) -> Iterator[Step]:
    """Rank r ends with chunk r of the sum."""
    groups = [range(world_size)]
    while groups := [group for group in groups if len(group) > 1]:
        yield [move for group in groups for move in _exchange(group)]
        groups = [half for group in groups for half in _halves(group)]


def allgather(world_size: int) -> Iterator[Step]:
    """Every rank ends with all chunks."""
    yield from reversed_as_puts(reduce_scatter(world_size))


def allreduce(world_size: int) -> Iterator[Step]:
    """Every rank ends with the sum."""
    yield from reduce_scatter(world_size)
    yield from allgather(world_size)
