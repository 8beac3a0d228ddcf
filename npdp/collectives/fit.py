"""From times to constants: what parallel/calibrate.py measured becomes a `Machine`. Pure.

alpha is the time of the smallest message; beta, at each other size, what is left per byte; gamma what adding adds.
Where ranks shared a core or a link, the rate is that of one alone: cost.py multiplies by what is shared in each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from npdp.collectives.cost import Hosts, bytes_touched, posts
from npdp.collectives.machine import Kernel, Link, Machine, Rate, Way

SEVERAL = 4
ADDED_FROM = 1 << 14  # bytes; below, what adding adds is lost in the noise
NOISE = 0.1  # of a latency: what bytes add must be more to be seen
LEAST = 1e-13  # seconds per byte, where it is never seen

Times = dict[int, float]  # seconds, by bytes, ascending


def fit(times: Mapping[str, Times], hosts: Hosts, built_in: Machine) -> Machine:
    """Return the constants.

    Args:
        times: by name, as calibrate.py has them; those that this world does not have are missing.
        hosts: each rank's host.
        built_in: has the cores of a host, and the constants that this world does not have.
    """
    ranks = [hosts.count(host) for host in set(hosts)]
    crowd = max(1.0, max(ranks) / built_in.cores)  # ranks that share a core
    found: dict[str, Any] = {"call_s": times["call"][0], "add_s": times["add"][0]}
    if "near" in times:
        put, added = times["near"], times["near added"]
        more = {n: added[n] - put[n] - found["add_s"] for n in added if n >= ADDED_FROM and n in put}
        found |= {"inside": _link(times, "near", crowd, 1), "gamma": _rate(more, put[min(put)])}
    if "far" in times:
        found["across"] = _link(times, "far", 1.0, min(ranks))
    if "direct" in times:
        found["kernel"] = _kernel(times["direct"], times["staged"], max(ranks), crowd)
    return replace(built_in, **found)


def _link(times: Mapping[str, Times], name: str, crowd: float, flows: int) -> Link:
    """Return the link.

    Args:
        crowd: how many ranks shared a core, with messages both ways.
        flows: how many ranks of a host sent at once; the sizes of a link are those of all together.
    """
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
