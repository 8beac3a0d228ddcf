"""The choice of `auto`: the cheapest algorithm, or one as good, by the prices of cost.py.

All ranks choose alike, since constants.py has the numbers from rank 0. Arrays are priced as if they lay in shared
memory, where there is some. Those of training do. For others shared memory is at worst about as slow as messages.
"""

from __future__ import annotations

from npdp.collectives import hierarchical
from npdp.collectives.algorithms import HIERARCHICAL, SCHEDULES, SHARED_MEMORY, steps_of
from npdp.collectives.cost import Hosts, price_of_kernel, price_of_steps, shapes
from npdp.collectives.machine import Machine

ALIKE = 1.15  # times the least price: a smaller difference says nothing, for prices are off by as much
MARGIN_OF_MEMORY = 2.0  # no schedule came near shared memory in measurements; and its sums have one order at all sizes


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
    prices = [price(collective, name, nbytes, hosts, machine, shares_memory) for name in names]
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
) -> float:
    """Return the seconds that a collective is expected to take.

    Args:
        algorithm: any but MPI's own, which is no schedule of npdp's.
        nbytes: of the buffer; cut into equal chunks.
        hosts: each rank's host.
        shares_memory: whether all ranks of each host share memory.
        staged: whether arrays lie outside it.
    """
    if algorithm == SHARED_MEMORY:
        return price_of_kernel(collective, nbytes, len(hosts), staged, machine)
    if algorithm == HIERARCHICAL:
        return machine.call_s + _hierarchical(nbytes, hosts, machine, shares_memory, staged)
    steps = shapes(hosts, steps_of, collective, algorithm, len(hosts))
    return machine.call_s + price_of_steps(steps, nbytes / len(hosts), machine)


def _hierarchical(nbytes: int, hosts: Hosts, machine: Machine, shares_memory: bool, staged: bool) -> float:
    """Return the seconds of its phases; while one piece crosses, others are added inside."""
    phases = hierarchical.phases_of(nbytes, hosts, shares_memory)
    if not shares_memory:
        return price_of_steps(shapes(hosts, hierarchical.by_messages, hosts, phases), nbytes / len(hosts), machine)
    ranks, columns, count = max(map(hosts.count, hosts)), len(phases.columns), len(phases.columns[0])
    size, staged = nbytes / phases.pieces, staged or phases.gathered

    def inside(collective: str) -> float:
        return price_of_kernel(collective, round(size), ranks, staged, machine) if ranks > 1 else 0.0

    before, after = inside(phases.before), inside(phases.after)
    steps = shapes(hosts, hierarchical.across, phases._replace(pieces=1), ((0, count),) * columns)
    across = price_of_steps(steps, size if phases.gathered else size / columns / count, machine)
    if phases.gathered:  # in one piece
        across += (count - 1) * (machine.add_s + nbytes * machine.gamma.at(nbytes))
    return before + across + (phases.pieces - 1) * max(across, before + after) + after
