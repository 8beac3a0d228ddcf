"""Tree algorithm: a binomial tree, the whole buffer on each edge; for buffers so small that only messages count.

    8 ranks, broadcast from 0        step 0   0 → 4
                                     step 1   0 → 2   4 → 6
                                     step 2   0 → 1   2 → 3   4 → 5   6 → 7

Cost, P ranks and S bytes: broadcast ceil(log2 P) (alpha + S beta); all-reduce, up and down again, twice that and
ceil(log2 P) S gamma.
"""

from __future__ import annotations

from collections.abc import Iterator

from npdp.collectives.schedule import Step, add, put


def _edges(world_size: int, root: int) -> Iterator[list[tuple[int, int]]]:
    """Yield, level by level from the root, the pairs (parent, child)."""
    for level in reversed(range((world_size - 1).bit_length())):
        distance = 1 << level
        parents = range(0, world_size - distance, 2 * distance)
        yield [((root + parent) % world_size, (root + parent + distance) % world_size) for parent in parents]


def broadcast(world_size: int, root: int = 0) -> Iterator[Step]:
    """Every rank ends with the root's buffer."""
    for level in _edges(world_size, root):
        yield [put(parent, child, 0, world_size) for parent, child in level]


def reduce(world_size: int) -> Iterator[Step]:
    """Rank 0 ends with the sum."""
    for level in reversed(list(_edges(world_size, 0))):
        yield [add(child, parent, 0, world_size) for parent, child in level]


def allreduce(world_size: int) -> Iterator[Step]:
    """Every rank ends with the sum."""
    yield from reduce(world_size)
    yield from broadcast(world_size)
