"""From times to constants: what parallel/calibrate.py measured becomes a `Machine` of cost.py. Pure.

    name            what took so long, by bytes
    call, add       a collective without messages; an addition of next to nothing (bytes 0)
    near, far       a message, between ranks of a host and of two hosts
      both ways     one each way at once
      several       SEVERAL messages in a row, of the smallest size
      added         a message that is added, and one that is not
    alone           an addition, where no two ranks share a host
    tree, ring      an all-reduce of next to nothing
    direct, staged  an all-reduce through shared memory

alpha is the time of the smallest message; beta, at each other size, is what is left per byte. Where ranks shared a core
or a link the rate is for one alone, since cost.py multiplies by what is shared in each step. At last latencies are
scaled by what whole all-reduces took: in a pair, a rank finds its message sooner than where it waits for one that waits
for others, and more so where ranks outnumber cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from npdp.collectives import ring, tree
from npdp.collectives.cost import (
    Hosts,
    Kernel,
    Link,
    Machine,
    Rate,
    Way,
    bytes_touched,
    posts,
    price_of_steps,
    shapes,
)
from npdp.collectives.schedule import Step

SEVERAL = 4
ADDED_FROM = 1 << 14  # bytes; below, what adding adds is lost in the noise
LEAST_RATIO = 0.1  # the least by which latencies are scaled
NOISE = 0.1  # of a latency: what bytes add must be more to be seen
LEAST = 1e-13  # seconds per byte, where it is never seen

Times = dict[int, float]  # seconds, by bytes, ascending


def fit(times: Mapping[str, Times], hosts: Hosts, cores: int, without: Machine) -> Machine:
    """Return the constants.

    Args:
        times: by name, as above; those that this world does not have are missing.
        hosts: each rank's host.
        cores: of each host.
        without: gives what this world does not have.
    """
    ranks = [hosts.count(host) for host in set(hosts)]
    add_s = times["add"][0]
    near = _link(times, "near", [_crowd(max(ranks) // 2, cores), _crowd(max(ranks), cores)], 1)
    far = _link(times, "far", [1.0, 1.0], min(ranks))
    machine = Machine(
        inside=near or without.inside,
        across=far or without.across,
        call_s=times["call"][0],
        add_s=add_s,
        gamma=_gamma(times, add_s, _crowd(max(ranks) // 2, cores)),
        kernel=_kernel(times, max(ranks), cores) if "direct" in times else without.kernel,
        cores=cores,
    )
    machine = _as_in_a_whole(machine, times, hosts)
    return machine._replace(
        inside=machine.inside if near else without.inside, across=machine.across if far else without.across
    )


def _as_in_a_whole(machine: Machine, times: Mapping[str, Times], hosts: Hosts) -> Machine:
    """Return the machine with latencies such that it prices whole all-reduces right: the tree's, then the ring's."""
    one_way = _ratio(times["tree"], tree.allreduce(len(hosts)), machine, _scaled(machine, 0.0, 0.0), hosts)
    machine = _scaled(machine, one_way, 1.0)
    both_ways = _ratio(times["ring"], ring.allreduce(len(hosts)), machine, _scaled(machine, 1.0, 0.0), hosts)
    return _scaled(machine, 1.0, both_ways)


def _ratio(taken: Times, schedule: Iterable[Step], machine: Machine, without: Machine, hosts: Hosts) -> float:
    """Return by what to scale latencies so that the schedule is priced at what it took; `without` has none."""
    (nbytes, seconds), steps = next(iter(taken.items())), shapes(schedule, hosts)
    rest, whole = (price_of_steps(steps, nbytes / len(hosts), each) + each.call_s for each in (without, machine))
    return max(LEAST_RATIO, (seconds - rest) / (whole - rest)) if whole > rest else 1.0


def _scaled(machine: Machine, one_way: float, both_ways: float) -> Machine:
    def scaled(link: Link) -> Link:
        (alone_s, beta), (both_s, both_beta), further_s = link
        return Link(Way(alone_s * one_way, beta), Way(both_s * both_ways, both_beta), further_s * one_way)

    return machine._replace(inside=scaled(machine.inside), across=scaled(machine.across))


def _crowd(ranks: int, cores: int) -> float:
    """Return how many ranks share a core."""
    return max(1.0, ranks / cores)


def _link(times: Mapping[str, Times], name: str, crowds: Sequence[float], flows: int) -> Link | None:
    """Return the link, None where it was not timed.

    Args:
        crowds: how many ranks shared a core, with messages one way and both ways.
        flows: how many ranks of a host sent at once; the sizes of a link are those of all together.
    """
    if name not in times:
        return None
    one_way = times[name]
    further_s = (times[f"{name} several"][min(one_way)] - one_way[min(one_way)]) / (SEVERAL - 1)
    alone, both = (_way(times[key], crowd, flows) for key, crowd in zip((name, f"{name} both ways"), crowds))
    return Link(alone, both, max(0.0, further_s))


def _way(times: Times, crowd: float, flows: int) -> Way:
    alpha_s = times[min(times)]
    more = {n * flows: seconds - alpha_s for n, seconds in times.items() if n > min(times)}
    return Way(alpha_s, _rate(more, alpha_s, crowd))


def _gamma(times: Mapping[str, Times], add_s: float, crowd: float) -> Rate:
    if "near added" in times:
        put, added = times["near"], times["near added"]
        more = {n: added[n] - 2 * put[n] - add_s for n in added if n >= ADDED_FROM and n in put}
        return _rate(more, put[min(put)], crowd)
    return _rate({n: seconds - add_s for n, seconds in times["alone"].items() if n >= ADDED_FROM}, add_s)


def _kernel(times: Mapping[str, Times], ranks: int, cores: int) -> Kernel:
    direct, staged = times["direct"], times["staged"]
    first, second = sorted(direct)[:2]  # below and above SMALL_DIRECT_BYTES
    first_s = min(direct[first], staged[first])  # arrays so small go with one post wherever they lie
    post_s = max(0.0, direct[second] - first_s)

    def rate(taken: Times, is_staged: bool) -> Rate:
        more = {n: taken[n] - first_s - post_s * (posts("allreduce", n, is_staged) - 1) for n in taken if n > first}
        return _rate(more, first_s, bytes_touched("allreduce", ranks, is_staged) * _crowd(ranks, cores))

    return Kernel(first_s, post_s, rate(direct, False), rate(staged, True))


def _rate(more: Times, latency_s: float, shared_by: float = 1.0) -> Rate:
    """Return seconds per byte from the time that bytes add; sizes at which the noise hides it are left out."""
    known = {n: seconds for n, seconds in more.items() if seconds > NOISE * latency_s} or {max(more): LEAST * max(more)}
    return Rate(tuple(known), tuple(max(LEAST, seconds / n / shared_by) for n, seconds in known.items()))
