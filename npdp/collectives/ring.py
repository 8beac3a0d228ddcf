"""Ring algorithm: each rank sends to its right and receives from its left; P-1 steps add, P-1 steps spread.

    4 ranks, reduce-scatter; the chunk that each rank sends, and adds to what it meets there

              rank 0   rank 1   rank 2   rank 3
    step 0    3 →      0 →      1 →      2 →
    step 1    2 →      3 →      0 →      1 →
    step 2    1 →      2 →      3 →      0 →       rank r has received chunk r last: it is complete

Cost, P ranks and S bytes: 2(P-1) alpha + 2(P-1)/P S beta + (P-1)/P S gamma. No rank can send less, so for large
buffers nothing is cheaper; for small ones the 2(P-1) messages in a row are dear.
Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.
"""

from __future__ import annotations

from collections.abc import Iterator

from npdp.collectives.schedule import Step, add, put


def reduce_scatter(world_size: int) -> Iterator[Step]:
    """Rank r ends with chunk r of the sum: each rank passes on the partial sum that it got last."""
    for step in range(world_size - 1):
        yield [add(r, (r + 1) % world_size, (r - step - 1) % world_size) for r in range(world_size)]


def allgather(world_size: int) -> Iterator[Step]:
    """Every rank ends with all chunks: each passes on the chunk that it got last."""
    for step in range(world_size - 1):
        yield [put(r, (r + 1) % world_size, (r - step) % world_size) for r in range(world_size)]


def allreduce(world_size: int) -> Iterator[Step]:
    """Every rank ends with the sum."""
    yield from reduce_scatter(world_size)
    yield from allgather(world_size)
