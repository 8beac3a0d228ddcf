"""Measures what this machine costs (collectives/cost.py), on the ranks that there are, in one to two seconds.

What is timed are steps as `execute` carries them out, by all ranks at once that can take part:

    near, far    0 → 1, then 1 → 0: pairs of a host's ranks; far: of a column, which has one of each host
    both ways    all to their right, then on what they got; far: in a column, to the next host
    added        near, but the first message is added
    direct       an all-reduce through shared memory, of arrays that lie there; staged: of others

What is sent was received or added just before, as in a collective: another core's cache has it. All sizes and kinds
take turns, some times over, so that what else the machine does meets all alike; of the slowest rank's times the lower
quartile counts, since what disturbs only adds. A size that takes long is taken once, and none above it. Many ranks take
no more memory between them than four or eight; where time is over before all has had its turn, the rest is taken once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npdp import environment, kernels
from npdp.collectives.algorithms import SHARED_MEMORY
from npdp.collectives.constants import Constants, keep
from npdp.collectives.defaults import built_in
from npdp.collectives.execute import SEGMENT_BYTES, RankStep, Segment, execute, rank_steps
from npdp.collectives.fit import ADDED_FROM, SEVERAL, Times, fit
from npdp.collectives.hierarchical import Groups, groups
from npdp.parallel.world import World

SIZES = (8, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
KERNEL_SIZES = (*SIZES, 1 << 24)
HOST_BYTES, KERNEL_HOST_BYTES = 1 << 25, 1 << 27  # of all ranks of a host, at most
SWEEPS, ROUNDS, ROUND_S, MOST_CALLS = 6, 2, 0.002, 100
ENOUGH_S = 1.3  # nothing is taken again after so long
LONG_S, LEAST_BYTES = 0.05, ADDED_FROM  # what takes longer ends its kind, from so many bytes on: the fit needs them
WHOLE_BYTES = 512  # of an all-reduce of which the messages count

Work = Callable[[], Any]


def lower_quartile(seconds: Sequence[float]) -> float:
    return sorted(seconds)[len(seconds) // 4]


class Kind(NamedTuple):
    """What is timed: `work(nbytes)` makes it.

    Attributes:
        halves: whether it is two of the same.
        typical: what counts of some times: the least, where no rank waits for another.
    """

    sizes: Sequence[int]
    work: Callable[[int], Work]
    halves: bool = False
    typical: Callable[[Sequence[float]], float] = lower_quartile


def calibrate(world: World) -> Constants:
    """Measure this machine, keep what came out, and let the world choose by it; collective.

    Raises:
        ValueError: a world of one rank has nothing to measure.
    """
    if world.world_size == 1:
        raise ValueError("constants are measured between ranks; this world has one")
    without = built_in(world.transport.name, _most_ranks(world))
    times = _times(Stopwatch(world), _kinds(world))
    machine = fit(times, world.hosts, environment.cores_of_job(), without)
    found = keep(world.transport, world.hosts, machine)
    world.use(found)
    return found


def _most_ranks(world: World) -> int:
    return max(map(world.hosts.count, world.hosts))


def _up_to(sizes: Sequence[int], nbytes: int) -> tuple[int, ...]:
    return tuple(size for size in sizes if size <= max(nbytes, LEAST_BYTES))


# What is timed
def _kinds(world: World) -> dict[str, Kind]:
    per_host = groups(world.hosts)
    sizes = _up_to(SIZES, HOST_BYTES // _most_ranks(world))
    buffer = np.empty(2 * sizes[-1] // 4, np.float32)
    buffer.fill(0)

    def kind(sizes: Sequence[int], steps: Callable[[int], list[RankStep]], halves: bool = True) -> Kind:
        what = "calibration"
        return Kind(sizes, lambda nbytes: partial(execute, steps(nbytes), world.transport, buffer, "sum", what), halves)

    def allreduce(sizes: Sequence[int], algorithm: str) -> Kind:
        return Kind(sizes, lambda nbytes: partial(world.allreduce, buffer[: nbytes // 4], "sum", algorithm))

    kinds = {
        "call": allreduce((0,), "tree")._replace(typical=min),
        "tree": allreduce((WHOLE_BYTES,), "tree"),
        "ring": allreduce((WHOLE_BYTES,), "ring"),
        "add": Kind((0,), lambda nbytes: lambda: kernels.accumulate(buffer[:2], buffer[2:4]), typical=min),
    }
    columns = [[host[index] for host in per_host] for index in range(min(map(len, per_host)))]
    for name, together in (("near", per_host), ("far", columns)):
        if pairs := _pairs(together):
            there_and_back = partial(_there_and_back, world.rank, pairs)
            kinds[name] = kind(sizes, there_and_back)
            kinds[f"{name} both ways"] = kind(sizes, partial(_around, world.rank, together))
            kinds[f"{name} several"] = kind(sizes[:1], partial(there_and_back, times=SEVERAL))
            if name == "near":
                kinds["near added"] = kind(sizes, partial(there_and_back, accumulate=True), halves=False)
    if "near" not in kinds:
        kinds["alone"] = Kind(sizes, lambda nbytes: partial(_add_alone, buffer[: nbytes // 4]), typical=min)
    return kinds | _kernel_kinds(world)


def _pairs(groups: Groups) -> list[tuple[int, int]]:
    return [pair for group in groups for pair in zip(group[::2], group[1::2])]


def _there_and_back(
    rank: int, pairs: list[tuple[int, int]], nbytes: int, accumulate: bool = False, times: int = 1
) -> list[RankStep]:
    """Return this rank's steps: the first of a pair sends, and gets back what it sent."""
    for first, second in pairs:
        if rank == first:
            segments = _segments(second, 0, nbytes) * times
            return [RankStep(segments, []), RankStep([], segments)]
        if rank == second:
            there, back = _segments(first, 0, nbytes, accumulate), _segments(first, 0, nbytes)
            return [RankStep([], there * times), RankStep(back * times, [])]
    return []


def _around(rank: int, groups: Groups, nbytes: int) -> list[RankStep]:
    """Return this rank's steps: it sends to its right, gets from its left, and passes that on."""
    for group in groups:
        if rank in group and len(group) > 1:
            index = group.index(rank)
            left, right = group[index - 1], group[(index + 1) % len(group)]
            return [
                RankStep(_segments(right, start, nbytes), _segments(left, nbytes - start, nbytes))
                for start in (0, nbytes)
            ]
    return []


def _segments(peer: int, start: int, nbytes: int, accumulate: bool = False) -> list[Segment]:
    """Return the segments, of float32, that go to a peer or come from it."""
    first, last, length = start // 4, (start + nbytes) // 4, SEGMENT_BYTES // 4
    return [Segment(peer, at, min(at + length, last), accumulate) for at in range(first, last, length)]


def _add_alone(buffer: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Add segment by segment what has just arrived."""
    arrived = buffer[: SEGMENT_BYTES // 4]
    for start in range(arrived.size, buffer.size, arrived.size):
        kernels.accumulate(buffer[start : start + arrived.size], arrived[: buffer.size - start])
    kernels.accumulate(arrived, arrived)


def _kernel_kinds(world: World) -> dict[str, Kind]:
    host = world.host
    if host is None or _most_ranks(world) == 1:
        return {}
    sizes = _up_to(KERNEL_SIZES, KERNEL_HOST_BYTES // _most_ranks(world))
    count = sizes[-1] // 4
    inside, outside = host.arena.empty(count, np.dtype(np.float32)), np.empty(count, np.float32)
    have_room = world.sum(inside is not None) == world.world_size  # a host may have none, and all time the same kinds
    if inside is None or not have_room:
        return {}
    kinds = {}
    for name, array in (("direct", inside), ("staged", outside)):
        array.fill(0)
        kinds[name] = Kind(sizes, partial(_kernel_work, world, array))
    return kinds


def _kernel_work(world: World, array: np.ndarray[Any, np.dtype[np.float32]], nbytes: int) -> Work:
    part = array[: nbytes // 4]
    if world.shares_memory:
        return partial(world.allreduce, part, "sum", SHARED_MEMORY)
    assert world.host is not None
    return partial(world.host.collective, "allreduce", part)


# How it is timed
class Stopwatch:
    """Times work on all ranks at once: what it finds is the same on all of them, also whether time is over.

    Attributes:
        is_over: nothing is to be timed again.
    """

    def __init__(self, world: World) -> None:
        self._world, self._start, self.is_over = world, time.perf_counter(), False

    def rounds(self, work: Work) -> list[float]:
        """Return the seconds a call in some rounds, of the slowest rank; collective."""
        first_s = self._slowest(work, 1)
        if first_s >= LONG_S or self.is_over:
            return [first_s]
        calls = max(1, min(MOST_CALLS, int(ROUND_S / self._slowest(work, 1))))
        return [self._slowest(work, calls) for _ in range(ROUNDS)]

    def _slowest(self, work: Work, calls: int) -> float:
        """Return the slowest rank's seconds a call; none goes on before all have come."""
        start = time.perf_counter()
        for _ in range(calls):
            work()
        now, world = time.perf_counter(), self._world
        largest = np.array([(now - start) / calls, now - self._start])
        steps = rank_steps("allreduce", "tree", world.world_size, world.rank, largest.size, largest.itemsize)
        execute(steps, world.transport, largest, "max", "calibration's slowest rank")
        self.is_over = bool(largest[1] > ENOUGH_S)
        return float(largest[0])


def _times(stopwatch: Stopwatch, kinds: dict[str, Kind]) -> dict[str, Times]:
    """Return the seconds that each kind takes at each size, half of them where it is two of the same."""
    samples: dict[str, dict[int, list[float]]] = {name: {} for name in kinds}
    for _ in range(SWEEPS):
        for name, kind in kinds.items():
            for nbytes in kind.sizes:
                if stopwatch.is_over and nbytes in samples[name]:
                    break
                seconds = stopwatch.rounds(kind.work(nbytes))
                samples[name].setdefault(nbytes, []).extend(seconds)
                if seconds[0] >= LONG_S and nbytes >= LEAST_BYTES:
                    break
    return {
        name: {n: kinds[name].typical(seconds) / (1 + kinds[name].halves) for n, seconds in sizes.items()}
        for name, sizes in samples.items()
    }
