"""Which algorithm `auto` takes: the cheapest or one as good, by what cost.py says of schedules and the kernel.

All ranks take the same, for they ask with the same numbers: constants.py has them from rank 0. Arrays are priced as if
they lay in shared memory, where there is some. Those of training do; and where others do not, shared memory is at worst
about as slow as messages, while messages, where they do, take several times as long.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from npdp.collectives import across_hosts, hierarchical
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE, SCHEDULES, SHARED_MEMORY
from npdp.collectives.cost import Hosts, Machine, Shape, price_of_kernel, price_of_steps, shapes

ALIKE = 1.15  # times the least price: less says nothing, as far off as prices are from what is measured
MARGIN_OF_MEMORY = 2.0  # no schedule came near it where it was measured; and its sums have one order at all sizes


def candidates(collective: str, hosts: Hosts, shares_memory: bool) -> list[str]:
    """Return the algorithms among which `auto` chooses; of those that are alike it takes the first.

    MPI's own is not among them: the order of its additions is its own, so that MPI and threads would not agree to the
    last bit, and where ranks do not call the same it says nothing.

    Args:
        shares_memory: whether all ranks of each host share memory.
    """
    several = len(set(hosts)) > 1
    found = [SHARED_MEMORY] if shares_memory and not several else []
    found += [HIERARCHICAL] if several and collective == "allreduce" else []
    return [*found, *sorted(SCHEDULES[collective], key=lambda name: name == "naive")]


def cheapest(collective: str, nbytes: int, hosts: Hosts, machine: Machine, shares_memory: bool) -> str:
    """Return what `auto` takes: the first candidate whose price is within its margin of the least."""
    names = candidates(collective, hosts, shares_memory)
    prices = [price(collective, name, nbytes, hosts, machine, shares_memory) or 0.0 for name in names]
    margins = [MARGIN_OF_MEMORY if name == SHARED_MEMORY else ALIKE for name in names]
    return next(name for name, seconds, margin in zip(names, prices, margins) if seconds <= margin * min(prices))


def price(
    collective: str,
    algorithm: str,
    nbytes: int,
    hosts: Hosts,
    machine: Machine,
    shares_memory: bool,
    staged: bool = False,
) -> float | None:
    """Return the seconds that a collective takes, as a rule; None for MPI's own, which is no schedule of npdp's.

    Args:
        nbytes: of the buffer; cut into equal chunks.
        hosts: each rank's host.
        shares_memory: whether all ranks of each host share memory.
        staged: whether arrays lie outside it.
    """
    if algorithm == NATIVE:
        return None
    if algorithm == SHARED_MEMORY:
        return price_of_kernel(collective, nbytes, len(hosts), staged, machine)
    if algorithm == HIERARCHICAL:
        return machine.call_s + _hierarchical(nbytes, hosts, machine, shares_memory, staged)
    return machine.call_s + price_of_steps(_shapes(collective, algorithm, hosts), nbytes / len(hosts), machine)


def _hierarchical(nbytes: int, hosts: Hosts, machine: Machine, shares_memory: bool, staged: bool) -> float:
    """As across_hosts.py does it: gathered by leaders, or in pieces, of which one crosses while others are added."""
    small = across_hosts.gathers(nbytes, len(set(hosts)))
    if not shares_memory:
        return price_of_steps(_by_messages(hosts, small), nbytes / len(hosts), machine)
    ranks = max(hosts.count(host) for host in set(hosts))

    def inside(collective: str, size: float, staged: bool = staged) -> float:
        return price_of_kernel(collective, round(size), ranks, staged, machine) if ranks > 1 else 0.0

    leaders = tuple(range(len(set(hosts))))
    if small:
        gather = price_of_steps(_shapes("allgather", "naive", leaders), nbytes, machine)
        add_s = (len(leaders) - 1) * (machine.add_s + nbytes * machine.gamma.at(nbytes))
        return inside("allreduce", nbytes, staged=True) + gather + add_s + inside("broadcast", nbytes, staged=True)
    even = hierarchical.even(hosts)
    pieces = across_hosts.number_of_pieces(nbytes, len(leaders), len(hosts))
    size = nbytes / pieces
    carried = size / ranks if even else size
    algorithm = across_hosts.algorithm_across(round(carried), len(leaders))
    across = price_of_steps(_across(hosts if even else leaders, algorithm), carried / len(leaders), machine)
    before, after = ("reduce_scatter", "allgather") if even else ("allreduce", "broadcast")
    into, out = inside(before, size), inside(after, size)
    return into + across + (pieces - 1) * max(across, into + out) + out


@lru_cache(maxsize=256)
def _shapes(collective: str, algorithm: str, hosts: Hosts) -> Counter[Shape]:
    return shapes(SCHEDULES[collective][algorithm](len(hosts)), hosts)


@lru_cache(maxsize=64)
def _across(hosts: Hosts, algorithm: str) -> Counter[Shape]:
    """Return what crosses, where ranks with the same place on all hosts all-reduce their slices; hosts are even."""
    columns = list(zip(*hierarchical.groups(hosts)))
    steps = list(SCHEDULES["allreduce"][algorithm](len(columns[0])))
    chunks = range(len(columns[0]) + 1)
    renamed = [hierarchical.renamed(steps, column, chunks) for column in columns]
    return shapes(([move for step in together for move in step] for together in zip(*renamed)), hosts)


@lru_cache(maxsize=64)
def _by_messages(hosts: Hosts, small: bool) -> Counter[Shape]:
    return shapes(hierarchical.by_messages(hosts, small), hosts)
