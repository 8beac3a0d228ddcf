"""Measures the constants of a machine (collectives/machine.py) on the ranks that there are, in one to two seconds.

    name            what is timed, by bytes; of messages one step
    call, add       a collective without messages; an addition of next to nothing (bytes 0)
    near, far       a message to the next rank, one after the other: 0 → 1, 1 → 2, 2 → 0
      both ways     all to their right at once, then on what they got
      several       SEVERAL messages in a row, of the smallest size
      added         a message that is added
    direct, staged  an all-reduce through shared memory, of arrays that lie there, and of others

near is among the ranks of a host, far among a cross-host group, with one of each host; all groups at once. What is
sent was received or added just before, as in a collective: another core's cache has it. Sizes and kinds take turns, so
that what else the machine does meets all alike; of the slowest rank's times the lower quartile counts, since what
disturbs only adds. alpha is the time of the smallest message; beta, at each other size, what is left per byte; gamma
what adding adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npdp import kernels
from npdp.collectives.algorithms import SHARED_MEMORY
from npdp.collectives.communicator import Communicator
from npdp.collectives.constants import Constants, keep
from npdp.collectives.cost import Hosts, bytes_touched, posts
from npdp.collectives.execute import cut_steps, execute
from npdp.collectives.hierarchical import groups, together
from npdp.collectives.machine import Kernel, Link, Machine, Rate, Way, built_in
from npdp.collectives.schedule import Schedule, add, put
from npdp.comm.call import Call

SIZES = (8, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
HOST_BYTES = 1 << 25  # of one message of all ranks of a host, at most; of one array in the kernel four times that
SWEEPS, ROUND_S, MOST_CALLS, SEVERAL = 12, 0.002, 100, 4
ENOUGH_S = 1.3  # nothing is taken again after so long, but the rest once
ADDED_FROM = 1 << 14  # bytes; below, what adding adds is lost in the noise
LONG_S, LEAST_BYTES = 0.05, ADDED_FROM  # what takes longer ends its kind, from so many bytes on: the fit needs them
NOISE, LEAST = 0.1, 1e-13  # of a latency: bytes must add more to be seen; seconds per byte where they never do

Array = np.ndarray[Any, np.dtype[np.float32]]
Times = dict[int, float]  # seconds, by bytes, ascending
Work = Callable[[], Any]


class Kind(NamedTuple):
    """Kind of timed work: `work(nbytes)` makes it; it takes so many steps, and the time of one counts."""

    sizes: Sequence[int]
    work: Callable[[int], Work]
    steps: int = 1


def calibrate(world: Communicator) -> Constants:
    """Measure this machine, keep what came out, and let the world choose by it; collective.

    Raises:
        ValueError: a world of one rank has nothing to measure.
    """
    if world.world_size == 1:
        raise ValueError("constants are measured between ranks; this world has one")
    most_ranks = max(map(world.topology.hosts.count, world.topology.hosts))
    sizes = [size for size in SIZES if size <= max(HOST_BYTES // most_ranks, LEAST_BYTES)]
    times = _times(world, _kinds(world, sizes))
    hosts, without = world.topology.hosts, built_in(world.transport.name, most_ranks)
    found = keep(world.transport, hosts, fit(times, hosts, without))
    world.chooser.use(found)
    return found


# What is timed
def _kinds(world: Communicator, sizes: list[int]) -> dict[str, Kind]:
    buffer = np.full(sizes[-1], 0, np.float32)  # three messages; an array of the kernel
    kinds = {
        "call": Kind((0,), lambda nbytes: partial(world.allreduce, buffer[:0], "sum", "tree")),
        "add": Kind((0,), lambda nbytes: partial(kernels.accumulate, buffer[:2], buffer[2:4])),
    }
    hosts = groups(world.topology.hosts)
    for name, ranks_of_groups in (("near", hosts), ("far", zip(*hosts))):
        per_group = [messages_among(ranks) for ranks in ranks_of_groups if len(ranks) > 1]
        for what in per_group[0] if per_group else ():
            schedule = list(together(schedules[what] for schedules in per_group))
            few = sizes[:1] if what == " several" else sizes
            kinds[name + what] = Kind(few, partial(_messages, world, schedule, buffer), len(schedule))
    return kinds | _kernel_kinds(world, [*sizes, 4 * sizes[-1]], buffer)


def messages_among(ranks: Sequence[int]) -> dict[str, Schedule]:
    """Return the schedules of messages that are timed among some ranks; chunks 0, 1 and 2 have one size."""
    right = dict(zip(ranks, [*ranks[1:], ranks[0]]))
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


def _messages(world: Communicator, schedule: Schedule, buffer: Array, nbytes: int) -> Work:
    cuts = range(0, nbytes, nbytes // 4)
    steps = cut_steps(schedule, world.rank, cuts, buffer.itemsize, range(world.world_size))
    call = Call("allreduce", buffer.size, buffer.dtype.name, label="calibration")
    return partial(execute, steps, world.transport, buffer, call)


def _kernel_kinds(world: Communicator, sizes: list[int], outside: Array) -> dict[str, Kind]:
    host = world.memory.host
    if host is None or len(set(world.topology.hosts)) == world.world_size:
        return {}
    inside = host.arena.empty(outside.size, outside.dtype)
    have_room = world.sum(inside is not None) == world.world_size  # a host may have none, and all time the same kinds
    if inside is None or not have_room:
        return {}
    inside.fill(0)
    in_host = partial(host.collective, "allreduce")
    allreduce = partial(world.allreduce, algorithm=SHARED_MEMORY) if world.memory.is_of_all else in_host
    return {
        "direct": Kind(sizes, lambda nbytes: partial(allreduce, inside[: nbytes // 4])),
        "staged": Kind(sizes, lambda nbytes: partial(allreduce, outside[: nbytes // 4])),
    }


# How it is timed
def _times(world: Communicator, kinds: dict[str, Kind]) -> dict[str, Times]:
    """Return the seconds that a step of each kind takes at each size; collective."""
    samples: dict[str, dict[int, list[float]]] = {name: {} for name in kinds}
    until, is_over = time.perf_counter() + ENOUGH_S, False
    for _ in range(SWEEPS):
        for name, kind in kinds.items():
            for nbytes in kind.sizes:
                taken = samples[name].setdefault(nbytes, [])
                if is_over and taken:
                    break
                seconds, is_over = _turn(world, kind.work(nbytes), taken, until)
                taken.append(seconds)
                if seconds >= LONG_S and nbytes >= LEAST_BYTES:
                    break
    return {
        name: {nbytes: sorted(taken)[len(taken) // 4] / kinds[name].steps for nbytes, taken in sizes.items()}
        for name, sizes in samples.items()
    }


def _turn(world: Communicator, work: Work, taken: list[float], until: float) -> tuple[float, bool]:
    """Return what `_slowest` does, of as many calls as their times so far say, after one that may have been cold."""
    seconds, is_over = _slowest(world, work, 1, until)
    if seconds >= LONG_S or is_over:
        return seconds, is_over
    return _slowest(world, work, max(1, min(MOST_CALLS, int(ROUND_S / min(taken, default=seconds)))), until)


def _slowest(world: Communicator, work: Work, calls: int, until: float) -> tuple[float, bool]:
    """Return the slowest rank's seconds a call, and whether time is over on any rank; none goes on before all come."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    now = time.perf_counter()
    largest = np.array([(now - start) / calls, now - until])
    world.allreduce(largest, "max", "tree")
    return float(largest[0]), bool(largest[1] > 0)


# From times to constants
def fit(times: Mapping[str, Times], hosts: Hosts, without: Machine) -> Machine:
    """Return the constants. Rates are those of a rank that shares no core or link: cost.py multiplies by the others.

    Args:
        times: by name, as above; those that this world does not have are missing.
        hosts: each rank's host.
        without: has the cores of a host, and the constants that this world does not have.
    """
    ranks = [hosts.count(host) for host in set(hosts)]
    crowd = max(1.0, max(ranks) / without.cores)  # ranks that share a core
    found: dict[str, Any] = {"call_s": times["call"][0], "add_s": times["add"][0]}
    if "near" in times:
        plain, added = times["near"], times["near added"]
        more = {n: added[n] - plain[n] - found["add_s"] for n in added if n >= ADDED_FROM and n in plain}
        found |= {"inside": _link(times, "near", crowd, 1), "gamma": _rate(more, plain[min(plain)])}
    if "far" in times:  # all ranks of a host send at once: a link's sizes are those of all together
        found["across"] = _link(times, "far", 1.0, min(ranks))
    if "direct" in times:
        found["kernel"] = _kernel(times["direct"], times["staged"], max(ranks), crowd)
    return replace(without, **found)


def _link(times: Mapping[str, Times], name: str, crowd: float, flows: int) -> Link:
    one_way, several = times[name], times[f"{name} several"]
    further_s = (several[min(several)] - one_way[min(one_way)]) / (SEVERAL - 1)
    return Link(_way(one_way, 1.0, flows), _way(times[f"{name} both ways"], crowd, flows), max(0.0, further_s))


def _way(times: Times, crowd: float, flows: int) -> Way:
    alpha_s = times[min(times)]
    more = {n * flows: seconds - alpha_s for n, seconds in times.items() if n > min(times)}
    return Way(alpha_s, _rate(more, alpha_s, crowd))


def _kernel(direct: Times, staged: Times, ranks: int, crowd: float) -> Kernel:
    first, second = sorted(direct)[:2]  # below and above SMALL_DIRECT_BYTES
    first_s = min(direct[first], staged[first])  # arrays so small go with one post wherever they lie
    post_s = max(0.0, direct[second] - first_s)

    def rate(times: Times, is_staged: bool) -> Rate:
        more = {n: times[n] - first_s - post_s * (posts("allreduce", n, is_staged) - 1) for n in times if n > first}
        return _rate(more, first_s, bytes_touched("allreduce", ranks, is_staged) * crowd)

    return Kernel(first_s, post_s, rate(direct, False), rate(staged, True))


def _rate(more: Times, latency_s: float, shared_by: float = 1.0) -> Rate:
    """Return seconds per byte from the time that bytes add; sizes at which the noise hides it are left out."""
    known = {n: seconds for n, seconds in more.items() if seconds > NOISE * latency_s} or {max(more): LEAST * max(more)}
    return Rate(tuple(known), tuple(max(LEAST, seconds / n / shared_by) for n, seconds in known.items()))
