"""The price of a collective, in seconds, before it is run: of a schedule, and of the shared-memory kernel.

    alpha   seconds per message        beta    seconds per byte sent        gamma   seconds per byte accumulated

    price of a schedule    the sum over its steps; a step costs what its slowest host costs
    of a host in a step    latency + max(inside, across)
    latency                alpha + (messages - 1) further + additions add                  of the slowest rank
    inside                 bytes got beta + bytes added gamma                              of the slowest rank
    across                 max(sent, added) + min(sent, added) segment / bytes added       of the host's link

With one alpha, beta and gamma these are the textbook's formulas, which stand in ring.py, tree.py, halving_doubling.py.
What real machines add:

- A rank's further messages in a step cost less (`further`). So does a message whose sender got nothing in the step
  before: it was sent early and has arrived when it is wanted, so `further` stands for its alpha.
- Ranks that outnumber cores share them: inside is at least the sum over the host's ranks / cores.
- A host's ranks share its link, which sends while it receives: sent is beta times the larger of what leaves and what
  enters. The cores are free meanwhile: all but a segment of what is added is hidden behind what is still on its way.
- beta and gamma differ by size, and a link that sends both ways at once is slower (machine.py).

Sources: Hockney, The communication challenge for MPP, 1994 (alpha, beta); Thakur, Rabenseifner and Gropp, Optimization
of collective communication operations in MPICH, 2005 (gamma, and choosing by size); Alexandrov, Ionescu, Schauser and
Scheiman, LogGP, 1995 (the gap between messages).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from npdp.collectives.execute import SEGMENT_BYTES
from npdp.collectives.host import SLOT_BYTES
from npdp.collectives.machine import Machine
from npdp.collectives.schedule import Step

SMALL_BYTES = 8192  # csrc/layout.h's: an all-reduce that goes with one post
SMALL_DIRECT_BYTES = 1024  # csrc/shared_memory.c's: up to here arrays in shared memory are treated as others are


# What the rank that sends most must at least send, over the buffer's bytes, where there is more than one
LEAST_SENT: dict[str, Callable[[int], float]] = {
    "allreduce": lambda world_size: 2 * (world_size - 1) / world_size,
    "reduce_scatter": lambda world_size: (world_size - 1) / world_size,
    "allgather": lambda world_size: (world_size - 1) / world_size,
    "broadcast": lambda world_size: 1.0,
}


@dataclass(unsafe_hash=True, order=True)  # complete before it is hashed
class Load:
    """The work of a rank in a step: messages, and chunks sent, got and added, inside its host and across hosts."""

    sends: int = 0
    receives: int = 0
    adds: int = 0
    late: bool = False  # one of its messages had to wait for the step before
    sent: int = 0
    got: int = 0
    added: int = 0
    sent_across: int = 0
    got_across: int = 0
    added_across: int = 0


HostLoad = tuple[tuple[Load, int], ...]  # the loads of a host's ranks, and how many ranks have each
Shape = frozenset[HostLoad]  # the different loads of hosts in a step
Hosts = tuple[int, ...]  # each rank's host


@lru_cache(maxsize=512)
def shapes(hosts: Hosts, maker: Callable[..., Iterable[Step]], *arguments: Any) -> Counter[Shape]:
    """Return the shapes of the steps of `maker(*arguments)`, and how often each occurs: a whole ring is two."""
    return Counter(shapes_of(maker(*arguments), hosts))


def shapes_of(steps: Iterable[Step], hosts: Hosts) -> Iterator[Shape]:
    """Yield the shape of each step that has moves."""
    receivers = set(range(len(hosts)))  # nothing is early in the first step
    for step in filter(None, steps):
        yield _shape(step, hosts, receivers)
        receivers = {move.target for move in step}


def _shape(step: Step, hosts: Hosts, receivers: set[int]) -> Shape:
    loads: defaultdict[int, Load] = defaultdict(Load)
    for source, target, start, stop, accumulate in step:
        chunks, sender, receiver = stop - start, loads[source], loads[target]
        sender.sends += 1
        receiver.receives += 1
        receiver.adds += accumulate
        if source in receivers:
            sender.late = receiver.late = True
        if hosts[source] == hosts[target]:
            sender.sent += chunks
            receiver.got += chunks
            receiver.added += chunks * accumulate
        else:
            sender.sent_across += chunks
            receiver.got_across += chunks
            receiver.added_across += chunks * accumulate
    ranks: defaultdict[int, Counter[Load]] = defaultdict(Counter)
    for rank, load in loads.items():
        ranks[hosts[rank]][load] += 1
    return frozenset(tuple(sorted(alike.items())) for alike in ranks.values())


def price_of_steps(steps: Counter[Shape], chunk_bytes: float, machine: Machine) -> float:
    """Return the seconds that a schedule's steps take with chunks of so many bytes."""
    return sum(times * max(_host_s(host, chunk_bytes, machine) for host in shape) for shape, times in steps.items())


def _host_s(host: HostLoad, chunk_bytes: float, machine: Machine) -> float:
    latency_s = max(_latency_s(rank, machine) for rank, _ in host)
    ranks = [(_inside_s(rank, chunk_bytes, machine), times) for rank, times in host]
    inside_s = max(max(ranks)[0], sum(seconds * times for seconds, times in ranks) / machine.cores)
    return latency_s + max(inside_s, _across_s(host, chunk_bytes, machine))


def _latency_s(rank: Load, machine: Machine) -> float:
    link = machine.across if rank.sent_across or rank.got_across else machine.inside
    way = link.both_ways if rank.sends and rank.receives else link.one_way
    first_s = way.alpha_s if rank.late else link.further_s
    return first_s + (max(rank.sends, rank.receives) - 1) * link.further_s + rank.adds * machine.add_s


def _inside_s(rank: Load, chunk_bytes: float, machine: Machine) -> float:
    got, added = rank.got * chunk_bytes, rank.added * chunk_bytes
    way = machine.inside.both_ways if rank.sent else machine.inside.one_way
    return got * way.beta.at(got) + added * machine.gamma.at(added)


def _across_s(host: HostLoad, chunk_bytes: float, machine: Machine) -> float:
    leaves = sum(rank.sent_across * times for rank, times in host)
    enters = sum(rank.got_across * times for rank, times in host)
    nbytes, added = max(leaves, enters) * chunk_bytes, max(rank.added_across for rank, _ in host) * chunk_bytes
    way = machine.across.both_ways if leaves and enters else machine.across.one_way
    sent_s, added_s = nbytes * way.beta.at(nbytes), added * machine.gamma.at(added)
    return max(sent_s, added_s) + min(sent_s, added_s) * min(1.0, SEGMENT_BYTES / max(added, 1.0))


def price_of_kernel(collective: str, nbytes: int, ranks: int, staged: bool, machine: Machine) -> float:
    """Return the seconds of the shared-memory kernel: its posts, and the bytes that a rank of the host touches.

    Args:
        staged: whether arrays lie outside the shared memory.
    """
    kernel, staged = machine.kernel, staged or nbytes <= SMALL_DIRECT_BYTES
    touched = nbytes * bytes_touched(collective, ranks, staged)
    beta = (kernel.staged if staged else kernel.direct).at(nbytes) * max(1.0, ranks / machine.cores)
    return kernel.first_s + (posts(collective, nbytes, staged) - 1) * kernel.post_s + touched * beta


def bytes_touched(collective: str, ranks: int, staged: bool) -> float:
    """Return how many bytes a rank reads and writes in the kernel, per byte of the buffer."""
    direct_and_staged = {
        "allreduce": (2, 5 - 2 / ranks),
        "reduce_scatter": (1 + 1 / ranks, 3 - 1 / ranks),
        "allgather": (2 - 2 / ranks, 2),
        "broadcast": (2, 2),
    }
    return direct_and_staged[collective][staged]


def posts(collective: str, nbytes: int, staged: bool) -> int:
    """Return how often a rank posts, and waits for the others, in the kernel."""
    if not staged and nbytes > SMALL_DIRECT_BYTES:
        return 2
    if collective == "allreduce" and nbytes <= SMALL_BYTES:
        return 1
    return max(1, -(-nbytes // SLOT_BYTES)) + (collective == "allreduce")
