"""Naive algorithm: all send all to rank 0, which adds in rank order and sends the sum to all.

    step 0   1 → 0 (add)
    step 1   2 → 0 (add)
    step 2   0 → 1, 2 (put)

Cost, P ranks and S bytes: 2(P-1) alpha + 2(P-1) S beta at rank 0, whose link is the bottleneck. It is the
measure of the others, and its order of additions (rank 0, 1, 2, ...) is the one that shared memory uses.
"""

from __future__ import annotations

from collections.abc import Iterator

from npdp.collectives.schedule import Step, add, put


def reduce(world_size: int) -> Iterator[Step]:
    """Rank 0 ends with the sum, added in rank order."""
    for rank in range(1, world_size):
        yield [add(rank, 0, 0, world_size)]


def allreduce(world_size: int) -> Iterator[Step]:
    """Every rank ends with the sum."""
    yield from reduce(world_size)
    yield from broadcast(world_size)


def reduce_scatter(world_size: int) -> Iterator[Step]:
    """Rank r ends with chunk r of the sum."""
    yield from reduce(world_size)
    yield [put(0, rank, rank) for rank in range(1, world_size)]


def allgather(world_size: int) -> Iterator[Step]:
    """Every rank sends its chunk to every other."""
    ranks = range(world_size)
    yield [put(source, target, source) for source in ranks for target in ranks if source != target]


def broadcast(world_size: int, root: int = 0) -> Iterator[Step]:
    """Every rank ends with the root's buffer, sent to each by the root."""
    yield [put(root, rank, 0, world_size) for rank in range(world_size) if rank != root]
