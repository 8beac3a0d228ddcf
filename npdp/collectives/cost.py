"""What a collective costs, in seconds, before it is run: a price for each schedule, and for the shared-memory kernel.

    alpha   seconds per message           further   seconds for each more message that a rank has in the same step
    beta    seconds per byte sent         gamma     seconds per byte accumulated

A schedule's price is the sum over its steps. A step costs what its slowest host costs: latency, and bytes.

    latency     alpha, and `further` for each message of a rank beyond its first. A message whose sender got nothing in
                the step before was sent early and has arrived when it is wanted: `further` instead of alpha.
    inside      bytes x beta + bytes added x gamma of the slowest rank: the core of whoever receives copies and adds.
                Where ranks outnumber cores they share them: at least the sum over the host's ranks / cores.
    across      bytes x beta of the host's link, which its ranks share, and which sends while it receives. The cores
                are free meanwhile, so what is added is hidden behind the next segment: of n bytes,
                n max(beta, gamma) + segment min(beta, gamma).

Of `inside` and `across` the larger counts. With one alpha, beta and gamma, and no `further`, these are the textbook's
formulas, which stand in ring.py, tree.py and halving_doubling.py. But memory and MPI are not as quick at one size as at
another, nor a link that sends both ways at once as one that sends one way: so beta and gamma are known at some sizes,
and interpolated in between, and a link has two betas. parallel/calibrate.py measures them.

The kernel's price is that of its posts, and of the bytes that a rank reads and writes.

Sources: Hockney, The communication challenge for MPP, 1994 (alpha, beta); Thakur, Rabenseifner and Gropp, Optimization
of collective communication operations in MPICH, 2005 (gamma, and choosing by size); Alexandrov, Ionescu, Schauser and
Scheiman, LogGP, 1995 (the gap between messages).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log
from typing import NamedTuple

from npdp.collectives.execute import SEGMENT_BYTES
from npdp.collectives.host import SLOT_BYTES
from npdp.collectives.schedule import Step

SMALL_BYTES = 8192  # csrc/layout.h's: an all-reduce that goes with one post
SMALL_DIRECT_BYTES = 1024  # csrc/shared_memory.c's: up to here arrays in shared memory are treated as others are


class Rate(NamedTuple):
    """Seconds per byte, at ascending numbers of bytes; before the first and after the last it stays as it is there."""

    nbytes: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, nbytes: float) -> float:
        """Return seconds per byte where so many bytes are moved."""
        after = bisect_right(self.nbytes, nbytes)
        if after in (0, len(self.nbytes)):
            return self.seconds[min(after, len(self.nbytes) - 1)]
        x0, x1, y0, y1 = self.nbytes[after - 1], self.nbytes[after], self.seconds[after - 1], self.seconds[after]
        return y0 if y0 == y1 else y0 * (y1 / y0) ** (log(nbytes / x0) / log(x1 / x0))


class Way(NamedTuple):
    """What a message costs in one use of a link: n bytes take alpha_s + n beta."""

    alpha_s: float
    beta: Rate


class Link(NamedTuple):
    """What messages between two ranks cost: one alone; one each way at once; each that a rank has besides."""

    one_way: Way
    both_ways: Way
    further_s: float


class Kernel(NamedTuple):
    """What the shared-memory kernel costs: a call with its first post; each further post; a byte read or written.

    A byte has one rate where arrays lie in shared memory (direct), and another where they pass through its slots
    (staged), each by the size of the buffer.
    """

    first_s: float
    post_s: float
    direct: Rate
    staged: Rate


class Machine(NamedTuple):
    """What one host, and the links between hosts, cost.

    Attributes:
        inside, across: the link between two ranks of a host, and of two hosts; the latter is shared by a host's ranks.
        call_s, add_s: of a collective over messages, and of each addition, whatever its size.
        gamma: of what is accumulated, by the size of the message.
        cores: of a host.
    """

    inside: Link
    across: Link
    call_s: float
    add_s: float
    gamma: Rate
    kernel: Kernel
    cores: int


@dataclass(slots=True, unsafe_hash=True, order=True)
class RankLoad:
    """What a rank does in a step; bytes are counted in chunks. It is hashed: once complete it stays as it is."""

    sends: int = 0
    receives: int = 0
    adds: int = 0
    late: bool = False  # one of its messages had to wait for the step before
    across: bool = False  # one of them leaves the host
    puts: bool = False  # it sends to a rank of its host
    got: int = 0  # from ranks of its host
    added: int = 0  # of these
    added_across: int = 0  # of those from other hosts


class HostLoad(NamedTuple):
    """What a host's ranks do in a step: each kind, and how many do it; and the chunks that leave and enter the host."""

    ranks: tuple[tuple[RankLoad, int], ...]
    out: int
    into: int


Shape = frozenset[HostLoad]  # what the hosts do in a step, each kind once
Hosts = tuple[int, ...]  # each rank's host


def shapes(schedule: Iterable[Step], hosts: Hosts) -> Counter[Shape]:
    """Return what the steps of a schedule are, apart from bytes, and how often each occurs: a whole ring is two."""
    found: Counter[Shape] = Counter()
    receivers = set(range(len(hosts)))  # nothing is early in the first step
    for step in schedule:
        if step:
            found[frozenset(_host_loads(step, hosts, receivers))] += 1
            receivers = {move.target for move in step}
    return found


def _host_loads(step: Step, hosts: Hosts, receivers: set[int]) -> Iterator[HostLoad]:
    loads: dict[int, RankLoad] = defaultdict(RankLoad)
    out: Counter[int] = Counter()
    into: Counter[int] = Counter()
    for source, target, start, stop, accumulate in step:
        chunks, sender, receiver = stop - start, loads[source], loads[target]
        sender.sends += 1
        receiver.receives += 1
        receiver.adds += accumulate
        if source in receivers:
            sender.late = receiver.late = True
        if hosts[source] == hosts[target]:
            sender.puts = True
            receiver.got += chunks
            receiver.added += chunks * accumulate
        else:
            sender.across = receiver.across = True
            receiver.added_across += chunks * accumulate
            out[hosts[source]] += chunks
            into[hosts[target]] += chunks
    kinds: dict[int, Counter[RankLoad]] = defaultdict(Counter)
    for rank, load in loads.items():
        kinds[hosts[rank]][load] += 1
    for host, ranks in kinds.items():
        yield HostLoad(tuple(sorted(ranks.items())), out[host], into[host])


def price_of_steps(steps: Counter[Shape], chunk_bytes: float, machine: Machine) -> float:
    """Return the seconds that a schedule's steps take with chunks of so many bytes."""
    return sum(times * max(_host_s(load, chunk_bytes, machine) for load in shape) for shape, times in steps.items())


def _host_s(load: HostLoad, chunk_bytes: float, machine: Machine) -> float:
    latency = max(_latency_s(rank, machine) for rank, _ in load.ranks)
    cores = [(_core_s(rank, chunk_bytes, machine), times) for rank, times in load.ranks]
    inside = max(max(seconds for seconds, _ in cores), sum(seconds * times for seconds, times in cores) / machine.cores)
    return latency + max(inside, _across_s(load, chunk_bytes, machine))


def _latency_s(rank: RankLoad, machine: Machine) -> float:
    link = machine.across if rank.across else machine.inside
    way = link.both_ways if rank.sends and rank.receives else link.one_way
    first_s = way.alpha_s if rank.late else link.further_s
    return first_s + (max(rank.sends, rank.receives) - 1) * link.further_s + rank.adds * machine.add_s


def _core_s(rank: RankLoad, chunk_bytes: float, machine: Machine) -> float:
    got, added = rank.got * chunk_bytes, rank.added * chunk_bytes
    way = machine.inside.both_ways if rank.puts else machine.inside.one_way
    return got * way.beta.at(got) + added * machine.gamma.at(added)


def _across_s(load: HostLoad, chunk_bytes: float, machine: Machine) -> float:
    nbytes = max(load.out, load.into) * chunk_bytes
    added = max(rank.added_across for rank, _ in load.ranks) * chunk_bytes
    way = machine.across.both_ways if load.out and load.into else machine.across.one_way
    sent_s, added_s = nbytes * way.beta.at(nbytes), added * machine.gamma.at(added)
    return max(sent_s, added_s) + min(sent_s, added_s) * min(1.0, SEGMENT_BYTES / max(added, 1.0))


def price_of_kernel(collective: str, nbytes: int, ranks: int, staged: bool, machine: Machine) -> float:
    """Return the seconds that the shared-memory kernel takes among the ranks of a host.

    Args:
        nbytes: of the buffer.
        staged: whether arrays lie outside the shared memory.
    """
    kernel, staged = machine.kernel, staged or nbytes <= SMALL_DIRECT_BYTES
    touched = nbytes * bytes_touched(collective, ranks, staged)
    beta = (kernel.staged if staged else kernel.direct).at(nbytes) * max(1.0, ranks / machine.cores)
    return kernel.first_s + (posts(collective, nbytes, staged) - 1) * kernel.post_s + touched * beta


def bytes_touched(collective: str, ranks: int, staged: bool) -> float:
    """Return how many bytes a rank reads and writes in the kernel, per byte of the buffer."""
    mine = 1 / ranks
    others = 1 - mine
    direct = {"allreduce": 2.0, "reduce_scatter": 1 + mine, "allgather": 2 * others, "broadcast": 2.0}
    put_in = {"allreduce": 2 * others, "reduce_scatter": 2 * others, "allgather": 2 * mine, "broadcast": 0.0}
    if not staged:
        return direct[collective]
    summed = {"allreduce": 1 + 2 * mine, "reduce_scatter": 1 + mine}.get(collective, 0.0)
    taken = {"allreduce": 2 * others, "allgather": 2 * others, "broadcast": 2.0}.get(collective, 0.0)
    return put_in[collective] + summed + taken


def posts(collective: str, nbytes: int, staged: bool) -> int:
    """Return how often a rank posts, and waits for the others, in the kernel."""
    if not staged and nbytes > SMALL_DIRECT_BYTES:
        return 2
    if collective == "allreduce" and nbytes <= SMALL_BYTES:
        return 1
    return max(1, -(-nbytes // SLOT_BYTES)) + (collective == "allreduce")
