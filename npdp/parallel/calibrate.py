"""Measures what this machine costs (collectives/machine.py), on the ranks that there are, in one to two seconds.

    name            what is timed, by bytes; of messages a step
    call, add       a collective without messages; an addition of next to nothing (bytes 0)
    near, far       a message to the next rank, one after the other: 0 → 1, 1 → 2, 2 → 0
      both ways     all to their right at once, then on what they got
      several       SEVERAL messages in a row, of the smallest size
      added         a message that is added
    direct, staged  an all-reduce through shared memory, of arrays that lie there, and of others

near is among the ranks of a host, far among those of a column, which has one of each host; all groups at once. What is
sent was received or added just before, as in a collective: another core's cache has it. All sizes and kinds take turns,
some times over, so that what else the machine does meets all alike; of the slowest rank's times the lower quartile
counts, since what disturbs only adds. A size that takes long is taken once a turn, and none above it. Many ranks take
no more memory between them than eight. Where time is over before all has had a turn, the rest is taken once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npdp import kernels
from npdp.collectives.algorithms import SHARED_MEMORY
from npdp.collectives.constants import Constants, keep
from npdp.collectives.execute import cut_steps, execute
from npdp.collectives.fit import ADDED_FROM, SEVERAL, Times, fit
from npdp.collectives.hierarchical import groups, together
from npdp.collectives.machine import built_in
from npdp.collectives.schedule import Schedule, add, put
from npdp.parallel.world import World

SIZES = (8, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
HOST_BYTES = 1 << 25  # of one message of all ranks of a host, at most; of one array in the kernel four times that
SWEEPS, ROUND_S, MOST_CALLS = 12, 0.002, 100
ENOUGH_S = 1.3  # nothing is taken again after so long
LONG_S, LEAST_BYTES = 0.05, ADDED_FROM  # what takes longer ends its kind, from so many bytes on: the fit needs them

Work = Callable[[], Any]
Array = np.ndarray[Any, np.dtype[np.float32]]


class Kind(NamedTuple):
    """A kind of work that is timed: `work(nbytes)` makes it; it takes so many steps, and the time of one counts."""

    sizes: Sequence[int]
    work: Callable[[int], Work]
    steps: int = 1


def calibrate(world: World) -> Constants:
    """Measure this machine, keep what came out, and let the world choose by it; collective.

    Raises:
        ValueError: a world of one rank has nothing to measure.
    """
    if world.world_size == 1:
        raise ValueError("constants are measured between ranks; this world has one")
    most_ranks = max(map(world.hosts.count, world.hosts))
    sizes = tuple(size for size in SIZES if size <= max(HOST_BYTES // most_ranks, LEAST_BYTES))
    times = _times(Stopwatch(world), _kinds(world, sizes))
    found = keep(world.transport, world.hosts, fit(times, world.hosts, built_in(world.transport.name, most_ranks)))
    world.use(found)
    return found


# What is timed
def _kinds(world: World, sizes: Sequence[int]) -> dict[str, Kind]:
    buffer = np.full(sizes[-1], 0, np.float32)  # three messages; an array of the kernel
    kinds = {
        "call": Kind((0,), lambda nbytes: partial(world.allreduce, buffer[:0], "sum", "tree")),
        "add": Kind((0,), lambda nbytes: partial(kernels.accumulate, buffer[:2], buffer[2:4])),
    }
    hosts = groups(world.hosts)
    columns = [[host[index] for host in hosts] for index in range(min(map(len, hosts)))]
    for name, ranks_of_groups in (("near", hosts), ("far", columns)):
        per_group = [messages_among(ranks) for ranks in ranks_of_groups if len(ranks) > 1]
        for what in per_group[0] if per_group else ():
            schedule = list(together(schedules[what] for schedules in per_group))
            few = sizes[:1] if what == " several" else sizes
            kinds[name + what] = Kind(few, partial(_messages, world, schedule, buffer), len(schedule))
    return kinds | _kernel_kinds(world, (*sizes, 4 * sizes[-1]), buffer)


def messages_among(ranks: list[int]) -> dict[str, Schedule]:
    """Return the schedules of messages that are timed among some ranks; chunks 0, 1 and 2 have one size."""
    right = dict(zip(ranks, ranks[1:] + ranks[:1]))
    own = {rank: index % 2 for index, rank in enumerate(ranks)} | {ranks[-1]: 1 + len(ranks) % 2}  # no neighbour's
    return {
        "": [[put(rank, right[rank], 0)] for rank in ranks],
        " several": [[put(rank, right[rank], 0)] * SEVERAL for rank in ranks],
        " added": [[add(rank, right[rank], 0)] for rank in ranks],
        " both ways": [
            [put(rank, right[rank], own[rank]) for rank in ranks],
            [put(right[rank], right[right[rank]], own[rank]) for rank in ranks],
        ],
    }


def _messages(world: World, schedule: Schedule, buffer: Array, nbytes: int) -> Work:
    cuts = range(0, nbytes, nbytes // 4)
    steps = cut_steps(schedule, world.rank, cuts, buffer.itemsize, range(world.world_size))
    return partial(execute, steps, world.transport, buffer, "sum", "calibration")


def _kernel_kinds(world: World, sizes: Sequence[int], outside: Array) -> dict[str, Kind]:
    host = world.host
    if host is None or len(set(world.hosts)) == world.world_size:
        return {}
    inside = host.arena.empty(outside.size, outside.dtype)
    have_room = world.sum(inside is not None) == world.world_size  # a host may have none, and all time the same kinds
    if inside is None or not have_room:
        return {}
    inside.fill(0)
    in_host = partial(host.collective, "allreduce")
    allreduce = partial(world.allreduce, algorithm=SHARED_MEMORY) if world.shares_memory else in_host
    return {
        "direct": Kind(sizes, lambda nbytes: partial(allreduce, inside[: nbytes // 4])),
        "staged": Kind(sizes, lambda nbytes: partial(allreduce, outside[: nbytes // 4])),
    }


# How it is timed
class Stopwatch:
    """Times work on all ranks at once; what it finds, also whether time is over, is the same on all of them."""

    def __init__(self, world: World) -> None:
        self._world, self._start, self.is_over = world, time.perf_counter(), False

    def slowest(self, work: Work, calls: int) -> float:
        """Return the slowest rank's seconds a call; none goes on before all have come."""
        start = time.perf_counter()
        for _ in range(calls):
            work()
        now = time.perf_counter()
        largest = np.array([(now - start) / calls, now - self._start])
        self._world.allreduce(largest, "max", "tree")
        self.is_over = bool(largest[1] > ENOUGH_S)
        return float(largest[0])


def _times(stopwatch: Stopwatch, kinds: dict[str, Kind]) -> dict[str, Times]:
    """Return the seconds that a step of each kind takes at each size."""
    samples: dict[str, dict[int, list[float]]] = {name: {} for name in kinds}
    for _ in range(SWEEPS):
        for name, kind in kinds.items():
            for nbytes in kind.sizes:
                taken = samples[name].setdefault(nbytes, [])
                if stopwatch.is_over and taken:
                    break
                calls = max(1, min(MOST_CALLS, int(ROUND_S / min(taken)))) if taken else 1
                taken.append(stopwatch.slowest(kind.work(nbytes), calls))
                if taken[-1] >= LONG_S and nbytes >= LEAST_BYTES:
                    break
    return {
        name: {nbytes: sorted(taken)[len(taken) // 4] / kinds[name].steps for nbytes, taken in sizes.items()}
        for name, sizes in samples.items()
    }
