"""Contents of chunks: how often each rank's contribution is in each chunk of each rank, step by step.

    chunk 3 in a ring of 4      rank 0    rank 1    rank 2    rank 3
    at the beginning            0         1         2         3
    after step 0                0         0 1       2         3
    after step 1                0         0 1       0 1 2     3
    after step 2                0         0 1       0 1 2     0 1 2 3

A content is a whole number with a digit for each rank, so that adding contents adds how often each is in there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from itertools import groupby

from npdp.collectives.schedule import Schedule, Step

DIGIT_BITS = 64  # of a count: 64 doublings would go into the next rank's
Content = int
State = list[list[Content]]  # [rank][chunk]


def once(ranks: Iterable[int]) -> Content:
    """Return the contributions of these ranks, each once."""
    return sum(1 << rank * DIGIT_BITS for rank in ranks)


def counts(content: Content) -> dict[int, int]:
    """Return how often each rank's contribution is in a content; those that are not in it are left out."""
    found, rank = {}, 0
    while content:
        if times := content & ((1 << DIGIT_BITS) - 1):
            found[rank] = times
        content >>= DIGIT_BITS
        rank += 1
    return found


def text(content: Content) -> str:
    """Return the ranks whose contributions are in a content: `0 1 3`, `0 0 1` where rank 0's is twice, `0-5`."""
    times = counts(content)
    parts = []
    for _, run in groupby(enumerate(sorted(times)), lambda pair: (pair[1] - pair[0], times[pair[1]])):
        ranks = [rank for _, rank in run]
        if times[ranks[0]] > 3:
            parts += [f"{rank}(x{times[rank]})" for rank in ranks]
        elif times[ranks[0]] == 1 and len(ranks) > 4:
            parts.append(f"{ranks[0]}-{ranks[-1]}")
        else:
            parts += [str(rank) for rank in ranks for _ in range(times[rank])]
    return " ".join(parts) or "nothing"


def require_among(what: str, schedule: Schedule, world_size: int) -> None:
    """Raise ValueError where a move names a rank or chunk that there is not: it has no contents."""
    for step in schedule:
        for move in step:
            if min(move[:4]) < 0 or max(*move[:2], move.stop - 1) >= world_size:
                raise ValueError(f"{what}: {tuple(move[:4])} names a rank or chunk that is not among {world_size}")


def beginning(world_size: int) -> State:
    """Return the contents before the first step: each rank has its own contribution in all its chunks."""
    return [[once([rank])] * world_size for rank in range(world_size)]


def after(step: Step, state: State) -> State:
    """Return the contents after a step: what is sent is what was there before it."""
    new = [list(chunks) for chunks in state]
    for move in step:
        for chunk in range(move.start, move.stop):
            kept = new[move.target][chunk] if move.accumulate else 0
            new[move.target][chunk] = kept + state[move.source][chunk]
    return new


def run(schedule: Schedule, world_size: int) -> list[State]:
    """Return the contents before the first step and after each."""
    states = [beginning(world_size)]
    for step in schedule:
        states.append(after(step, states[-1]))
    return states


Promise = list[list["Content | None"]]  # what must be in [rank][chunk] at the end; None where anything will do

_PROMISES: dict[str, Callable[[int, int, range, int], Content | None]] = {
    "allreduce": lambda rank, chunk, ranks, root: once(ranks),
    "reduce_scatter": lambda rank, chunk, ranks, root: once(ranks) if rank == chunk else None,
    "allgather": lambda rank, chunk, ranks, root: once([chunk]),
    "broadcast": lambda rank, chunk, ranks, root: once([root]),
}


def promise(collective: str, world_size: int, root: int = 0) -> Promise:
    """Return what a collective promises.

    Raises:
        ValueError: there is no such collective, or no such root.
    """
    if collective not in _PROMISES:
        plain = str(collective).lower().replace("_", "").replace("-", "")
        near = [name for name in _PROMISES if name.replace("_", "") in get_close_matches(
            plain, [known.replace("_", "") for known in _PROMISES], 1)]  # fmt: skip
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"prove: no collective {collective!r}; there are {', '.join(_PROMISES)}{hint}")
    if not 0 <= root < world_size:
        raise ValueError(f"prove: root must be a rank of {world_size}, got {root}")
    ranks, of = range(world_size), _PROMISES[collective]
    return [[of(rank, chunk, ranks, root) for chunk in ranks] for rank in ranks]


def broken(state: State, wanted: Promise) -> list[tuple[int, int]]:
    """Return the places (rank, chunk) where the contents are not those that were promised."""
    return [
        (rank, chunk)
        for rank, chunks in enumerate(wanted)
        for chunk, content in enumerate(chunks)
        if content is not None and state[rank][chunk] != content
    ]
