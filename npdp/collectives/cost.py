"""What a collective costs, in seconds, before it is run: a price for each schedule, and for the shared-memory kernel.

    alpha   seconds per message           further   seconds for each more message that a rank has in the same step
    beta    seconds per byte sent         gamma     seconds per byte accumulated

A schedule's price is the sum over its steps; a step costs what its slowest host costs, and that is

    latency     alpha, and `further` for each message of a rank beyond its first; a message whose sender got nothing
                in the step before was sent early and has arrived when it is wanted: `further` instead of alpha
    inside      bytes x beta + bytes added x gamma of the slowest rank: the core of whoever receives copies and adds.
                Where ranks outnumber cores they share them: not less than the sum over the host's ranks / cores
    across      bytes x beta of the host's link, which its ranks share and which sends while it receives. The cores
                are free meanwhile, so what is added is hidden behind the next segment: of n bytes,
                n max(beta, gamma) + segment min(beta, gamma)

    and the largest of `inside` and `across` counts.

With one alpha, beta and gamma and no `further` these are the textbook's formulas, which stand in ring.py, tree.py and
halving_doubling.py. But memory and MPI are not alike at all sizes, nor is a link that sends both ways at once as quick
as one that sends one way; so beta and gamma are known at some sizes, and interpolated between (in the logarithms of
both), and a link has two betas. parallel/calibrate.py measures them.

Sources: Hockney, The communication challenge for MPP, 1994 (alpha, beta); Thakur, Rabenseifner and Gropp, Optimization
of collective communication operations in MPICH, 2005 (gamma, and choosing by size); Alexandrov et al., LogGP, 1995
(`further` is its gap).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from math import exp, log
from typing import NamedTuple

from npdp.collectives.schedule import Step

SEGMENT_BYTES = 256 * 1024  # of execute.py, which imports NumPy


class Rate(NamedTuple):
    """Seconds per byte, at ascending numbers of bytes; before the first and after the last it stays as it is there."""

    nbytes: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, nbytes: float) -> float:
        """Return seconds per byte where so many bytes are moved."""
        after = bisect_right(self.nbytes, nbytes)
        if after in (0, len(self.nbytes)):
            return self.seconds[min(after, len(self.nbytes) - 1)]
        (x0, x1), (y0, y1) = self.nbytes[after - 1 : after + 1], self.seconds[after - 1 : after + 1]
        if y0 == y1:
            return y0
        return exp(log(y0) + log(nbytes / x0) / log(x1 / x0) * log(y1 / y0))


class Way(NamedTuple):
    """What messages cost in one use of a link: n bytes take alpha_s + n x beta."""

    alpha_s: float
    beta: Rate


class Link(NamedTuple):
    """What messages cost between two ranks: one alone, and one each way at once; and each further one."""

    one_way: Way
    both_ways: Way
    further_s: float


class Kernel(NamedTuple):
    """What the shared-memory kernel costs: a post and its wait; a byte read or written where arrays lie, or staged."""

    alpha_s: float
    direct: Rate
    staged: Rate


class Machine(NamedTuple):
    """What one host, and the links between hosts, cost. `cores`: of a host."""

    inside: Link
    across: Link
    gamma: Rate
    kernel: Kernel
    cores: int


class RankLoad(NamedTuple):
    """What a rank does in a step; bytes are counted in chunks."""

    late: bool  # whether a message of its had to wait for the step before
    sends: int
    receives: int
    across: bool  # whether any of these leaves the host
    got: int  # from ranks of its host
    added: int  # of those
    added_across: int  # of those from other hosts
    puts: bool  # whether it sends to a rank of its host as well


class HostLoad(NamedTuple):
    """What a host's ranks do in a step: each kind, and how many do it; and the chunks that leave and enter the host."""

    ranks: tuple[tuple[RankLoad, int], ...]
    out: int
    into: int


Shape = frozenset[HostLoad]  # what the hosts do in a step: each kind once


def shapes(schedule: Iterable[Step], hosts: tuple[int, ...]) -> Counter[Shape]:
    """Return what the steps of a schedule are, apart from bytes, and how often each occurs: the whole ring is two.

    Args:
        schedule: over all ranks.
        hosts: each rank's host, a number.
    """
    found: Counter[Shape] = Counter()
    received: set[int] = set(range(len(hosts)))  # at first all are late
    for step in schedule:
        if step:
            found[frozenset(_host_loads(step, hosts, received))] += 1
            received = {move.target for move in step}
    return found


def _host_loads(step: Step, hosts: tuple[int, ...], late: set[int]) -> Iterator[HostLoad]:
    ranks: dict[int, RankLoad] = defaultdict(lambda: RankLoad(False, 0, 0, False, 0, 0, 0, False))
    out: Counter[int] = Counter()
    into: Counter[int] = Counter()
    for source, target, start, stop, accumulate in step:
        chunks, across = stop - start, hosts[source] != hosts[target]
        added = chunks * accumulate
        mine, theirs = ranks[source], ranks[target]
        ranks[source] = mine._replace(
            late=mine.late or source in late, sends=mine.sends + 1, across=mine.across or across,
            puts=mine.puts or not across,
        )  # fmt: skip
        ranks[target] = theirs._replace(
            late=theirs.late or source in late, receives=theirs.receives + 1, across=theirs.across or across,
            got=theirs.got + chunks * (not across), added=theirs.added + added * (not across),
            added_across=theirs.added_across + added * across,
        )  # fmt: skip
        out[hosts[source]] += chunks * across
        into[hosts[target]] += chunks * across
    for host in {hosts[rank] for rank in ranks}:
        kinds = Counter(load for rank, load in ranks.items() if hosts[rank] == host)
        yield HostLoad(tuple(sorted(kinds.items())), out[host], into[host])


def price(steps: Counter[Shape], chunk_bytes: float, machine: Machine) -> float:
    """Return the seconds that steps take with chunks of so many bytes."""
    return sum(
        times * max(_host_s(load, chunk_bytes, machine) for load in shape) for shape, times in steps.items()
    )


def _host_s(load: HostLoad, chunk_bytes: float, machine: Machine) -> float:
    latency = max(_latency_s(rank, machine) for rank, _ in load.ranks)
    work = [(_core_s(rank, chunk_bytes, machine), times) for rank, times in load.ranks]
    inside = max(max(seconds for seconds, _ in work), sum(seconds * times for seconds, times in work) / machine.cores)
    return latency + max(inside, _across_s(load, chunk_bytes, machine))


def _latency_s(rank: RankLoad, machine: Machine) -> float:
    link = machine.across if rank.across else machine.inside
    way = link.both_ways if rank.sends and rank.receives else link.one_way
    return (way.alpha_s if rank.late else link.further_s) + (max(rank.sends, rank.receives) - 1) * link.further_s


def _core_s(rank: RankLoad, chunk_bytes: float, machine: Machine) -> float:
    got, added = rank.got * chunk_bytes, rank.added * chunk_bytes
    way = machine.inside.both_ways if rank.puts else machine.inside.one_way
    return got * way.beta.at(got) + added * machine.gamma.at(added)


def _across_s(load: HostLoad, chunk_bytes: float, machine: Machine) -> float:
    nbytes = max(load.out, load.into) * chunk_bytes
    way = machine.across.both_ways if load.out and load.into else machine.across.one_way
    added = max(rank.added_across for rank, _ in load.ranks) * chunk_bytes
    sent_s, added_s = nbytes * way.beta.at(nbytes), added * machine.gamma.at(added)
    return max(sent_s, added_s) + min(sent_s, added_s) * min(1.0, SEGMENT_BYTES / max(added, 1))
