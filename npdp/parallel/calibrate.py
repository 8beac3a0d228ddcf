"""Measures what this machine costs (collectives/cost.py), on the ranks that there are, in one to two seconds.

What is timed are steps as `execute` carries them out, of the sizes below, by all ranks at once that can take part:

    one way      0 → 1, then 1 → 0, in pairs of a host's ranks; across hosts, of ranks with the same place on two hosts
    both ways    all to their right, then on what they got; across hosts, to the same place on the next host
    added        one way, where the first message is added: gamma is what that takes more
    kernel       all-reduce through shared memory, of arrays that lie there, and of others

What is sent was received or added just before, as in a collective: another core's cache has it. Where ranks share a
core, or a link, meanwhile, prices are for one alone; cost.py multiplies again. A time is the median of some rounds, of
the slowest rank in each. Sizes go up until one takes long.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from npdp import kernels
from npdp.collectives.choose import SHARED_MEMORY
from npdp.collectives.constants import Constants, keep
from npdp.collectives.cost import Kernel, Link, Machine, Rate, Way, bytes_touched, posts
from npdp.collectives.defaults import built_in
from npdp.collectives.execute import SEGMENT_BYTES, Part, RankStep, execute, rank_steps
from npdp.parallel.world import World

SIZES = (8, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
KERNEL_SIZES = (*SIZES, 1 << 24)
ADDED_FROM = 1 << 14  # below, what adding adds is lost in the noise
ROUNDS, ROUND_S, MOST_CALLS = 5, 0.003, 200
LONG_S = 0.05  # what takes so long is taken once, and nothing larger
SEVERAL = 4  # messages in a row
LEAST = 1e-13  # seconds per byte, where noise says less

Times = dict[int, float]  # seconds, by bytes
Pairs = list[tuple[int, int]]
Groups = list[list[int]]


def calibrate(world: World) -> Constants:
    """Measure this machine, keep what came out, and let the world choose by it; collective."""
    found = keep(world.transport, world.hosts, Measurement(world).machine())
    world.use(found)
    return found


class Measurement:
    """Measures, as one rank; its methods are collective, and return the same on all ranks."""

    def __init__(self, world: World) -> None:
        hosts = world.hosts
        self._world, self._transport = world, world.transport
        self._hosts = [[rank for rank in range(len(hosts)) if hosts[rank] == host] for host in sorted(set(hosts))]
        self._cores = os.cpu_count() or 1
        self._buffer = np.empty(2 * SIZES[-1] // 4, np.float32)
        self._buffer.fill(0)

    def machine(self) -> Machine:
        """Return what was measured."""
        call_s = self._local_s(partial(self._world.allreduce, self._buffer[:0], "sum", "tree"))
        add_s = self._local_s(lambda: kernels.accumulate(self._buffer[0:2], self._buffer[2:4]))
        pairs = [pair for host in self._hosts for pair in zip(host[::2], host[1::2])]
        near, gamma = self._inside(pairs, add_s) if pairs else (None, self._gamma_alone(add_s))
        far = self._across() if len(self._hosts) > 1 else None
        inside, across = near or far, far or near
        assert inside is not None and across is not None  # there are two ranks
        return Machine(inside, across, call_s, add_s, gamma, self._kernel(), self._cores)

    def _inside(self, pairs: Pairs, add_s: float) -> tuple[Link, Rate]:
        most = max(map(len, self._hosts))
        one_way = _halved(self._times(lambda nbytes: self._there_and_back(pairs, nbytes)))
        both_ways = _halved(self._times(lambda nbytes: self._around(self._hosts, nbytes)))
        added = self._times(lambda nbytes: self._there_and_back(pairs, nbytes, accumulate=True))
        more = {n: added[n] - 2 * one_way[n] - add_s for n in added if n >= ADDED_FROM}
        further_s = self._further_s(pairs, one_way)
        crowds = [max(1.0, ranks / self._cores) for ranks in (most // 2, most)]
        link = Link(_way(one_way, crowds[0]), _way(both_ways, crowds[1]), further_s)
        return link, _rate(more, crowds[0])

    def _across(self) -> Link:
        """All ranks of a host share its link: sizes are the host's."""
        least = min(map(len, self._hosts))
        columns = [[host[place] for host in self._hosts] for place in range(least)]
        pairs = [pair for column in columns for pair in zip(column[::2], column[1::2])]
        one_way = _halved(self._times(lambda nbytes: self._there_and_back(pairs, nbytes)))
        both_ways = _halved(self._times(lambda nbytes: self._around(columns, nbytes)))
        further_s = self._further_s(pairs, one_way)
        return Link(_way(one_way, sharing=least), _way(both_ways, sharing=least), further_s)

    def _further_s(self, pairs: Pairs, one_way: Times) -> float:
        several_s = self._time(self._steps(self._there_and_back(pairs, SIZES[0], times=SEVERAL))) / 2
        return max(0.0, several_s - one_way[SIZES[0]]) / (SEVERAL - 1)

    def _gamma_alone(self, add_s: float) -> Rate:
        """What adding takes where no rank has a neighbour on its host."""
        arrived = np.zeros(SEGMENT_BYTES // 4, np.float32)

        def add(nbytes: int) -> None:
            for start in range(0, nbytes // 4, arrived.size):
                mine = self._buffer[start : min(start + arrived.size, nbytes // 4)]
                kernels.accumulate(mine, arrived[: mine.size])

        return _rate({n: self._local_s(partial(add, n)) - add_s for n in SIZES if n >= ADDED_FROM})

    def _kernel(self) -> Kernel:
        host = self._world.host
        ranks = len(host.ranks) if host else 1
        most = max(map(len, self._hosts))
        if host is None or most == 1:
            return built_in(self._transport.name, most).kernel
        there = host.empty(KERNEL_SIZES[-1] // 4, np.dtype(np.float32))
        elsewhere = np.zeros(KERNEL_SIZES[-1] // 4, np.float32)
        
        direct = self._kernel_times(there if there is not None else elsewhere)
        staged = self._kernel_times(elsewhere)
        first_s = min(direct[SIZES[0]], staged[SIZES[0]])
        post_s = max(0.0, direct[SIZES[1]] - first_s)
        rates = []
        for times, is_staged in ((direct, False), (staged, True)):
            touched = bytes_touched("allreduce", most, is_staged) * max(1.0, most / self._cores)
            more = {n: times[n] - first_s - post_s * (posts("allreduce", n, is_staged) - 1) for n in times if n > SIZES[0]}
            rates.append(_rate(more, touched))
        return Kernel(first_s, post_s, *rates)

    def _kernel_times(self, array: Any) -> Times:
        array.fill(0)
        host = self._world.host
        if self._world.shares_memory:
            call = lambda part: partial(self._world.allreduce, part, "sum", SHARED_MEMORY)
        else:
            call = lambda part: partial(host.collective, "allreduce", part)
        return self._grow(KERNEL_SIZES, lambda n: call(array[: n // 4]))

    # Patterns
    def _there_and_back(self, pairs: Pairs, nbytes: int, accumulate: bool = False, times: int = 1) -> list[RankStep]:
        for first, second in pairs:
            if self._world.rank == first:
                out, back = _parts(second, 0, nbytes), _parts(second, 0, nbytes)
                return [RankStep(out * times, []), RankStep([], back * times)]
            if self._world.rank == second:
                out, back = _parts(first, 0, nbytes, accumulate), _parts(first, 0, nbytes)
                return [RankStep([], out * times), RankStep(back * times, [])]
        return []

    def _around(self, groups: Groups, nbytes: int) -> list[RankStep]:
        for group in groups:
            if self._world.rank in group and len(group) > 1:
                place = group.index(self._world.rank)
                left, right = group[place - 1], group[(place + 1) % len(group)]
                return [
                    RankStep(_parts(right, 0, nbytes), _parts(left, nbytes, nbytes)),
                    RankStep(_parts(right, nbytes, nbytes), _parts(left, 0, nbytes)),
                ]
        return []

    # Times
    def _steps(self, steps: list[RankStep]) -> Callable[[], Any]:
        return partial(execute, steps, self._transport, self._buffer, "sum")

    def _times(self, pattern: Callable[[int], list[RankStep]]) -> Times:
        return self._grow(SIZES, lambda nbytes: self._steps(pattern(nbytes)))

    def _grow(self, sizes: Iterable[int], work: Callable[[int], Callable[[], Any]]) -> Times:
        times: Times = {}
        for nbytes in sizes:
            times[nbytes] = self._time(work(nbytes))
            if times[nbytes] >= LONG_S:
                break
        return times

    def _time(self, work: Callable[[], Any]) -> float:
        """Return the seconds that the slowest rank takes, as a rule."""
        seconds = self._slowest(_seconds(work, 1))
        if seconds >= LONG_S:
            return seconds
        calls = max(1, min(MOST_CALLS, int(ROUND_S / self._slowest(_seconds(work, 1)))))
        rounds = []
        for _ in range(ROUNDS):
            work()
            rounds.append(self._slowest(_seconds(work, calls)))
        return statistics.median(rounds)

    def _local_s(self, work: Callable[[], Any]) -> float:
        return self._slowest(min(_seconds(work, MOST_CALLS // 10) for _ in range(2 * ROUNDS)))

    def _slowest(self, seconds: float) -> float:
        number = np.array([seconds])
        world = self._world
        execute(rank_steps("allreduce", "tree", world.world_size, 0, world.rank, 1, 8), self._transport, number, "max")
        return float(number[0])


def _seconds(work: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def _parts(peer: int, start: int, nbytes: int, accumulate: bool = False) -> list[Part]:
    """Return the segments, of float32, that go to or come from a peer."""
    first, last, segment = start // 4, (start + nbytes) // 4, SEGMENT_BYTES // 4
    return [Part(peer, at, min(at + segment, last), accumulate) for at in range(first, last, segment)]


def _halved(times: Times) -> Times:
    return {nbytes: seconds / 2 for nbytes, seconds in times.items()}


def _way(times: Times, crowd: float = 1.0, sharing: int = 1) -> Way:
    alpha_s = times[SIZES[0]]
    return Way(alpha_s, _rate({n * sharing: times[n] - alpha_s for n in times if n > SIZES[0]}, crowd))


def _rate(times: Times, divided_by: float = 1.0) -> Rate:
    return Rate(tuple(times), tuple(max(LEAST, seconds / nbytes / divided_by) for nbytes, seconds in times.items()))
