"""Constants for where nobody has measured: those of 2 cores of an Intel Xeon, 2 MB of cache each, with Open MPI 5.

Rounded from what `npdp calibrate` found there on 2 ranks, 4 ranks, 2 threads, and between two emulated hosts with a
link of 1 Gbit/s; benchmarks/results/constants-*.json are later runs, of up to 1.6 times as much. They are right about
what matters first: that shared memory is quickest, that messages are dear where ranks outnumber cores, and
a network dearer still. By how much is each machine's own affair.
"""

from __future__ import annotations

from typing import NamedTuple

from npdp import environment
from npdp.collectives.cost import Kernel, Link, Machine, Rate, Way


class _Latencies(NamedTuple):
    """In microseconds."""

    one_way: float
    both_ways: float
    further: float
    first_post: float
    post: float


_OWN_CORE = _Latencies(2.4, 3.7, 1.3, 1.5, 0.4)
_SHARED_CORE = _Latencies(11.0, 15.0, 4.0, 8.0, 4.0)  # ranks outnumber cores
_THREADS = _Latencies(40.0, 43.0, 1.0, 23.0, 3.0)  # Python's lock goes from one to another
_NETWORK = _Latencies(6.5, 9.7, 4.7, 0.0, 0.0)


def _rate(nanoseconds: dict[int, float]) -> Rate:
    """Return a rate from nanoseconds a byte, by kilobytes."""
    return Rate(tuple(size << 10 for size in nanoseconds), tuple(each * 1e-9 for each in nanoseconds.values()))


_ONE_WAY = _rate({4: 0.23, 16: 0.20, 64: 0.16, 256: 0.094, 1024: 0.099, 4096: 0.099})
_BOTH_WAYS = _rate({4: 0.28, 16: 0.19, 64: 0.12, 256: 0.10, 1024: 0.12, 4096: 0.10})
_WIRE = _rate({1: 8.4})
_GAMMA = _rate({16: 0.088, 64: 0.18, 256: 0.12, 1024: 0.10, 4096: 0.04})
_DIRECT = _rate({16: 0.0056, 64: 0.0068, 256: 0.0080, 1024: 0.0085, 4096: 0.018, 16384: 0.018})
_STAGED = _rate({4: 0.087, 16: 0.076, 64: 0.030, 256: 0.029, 1024: 0.026, 4096: 0.031, 16384: 0.032})
_CALL_S, _ADD_S = 2.1e-6, 1.2e-6


def built_in(transport: str, ranks_of_a_host: int) -> Machine:
    """Return the constants of a world.

    Args:
        transport: its name.
        ranks_of_a_host: of the host that has most.
    """
    cores = environment.cores_of_job()
    near = _THREADS if transport.startswith("threads") else _SHARED_CORE if ranks_of_a_host > cores else _OWN_CORE
    return Machine(
        inside=_link(near, _ONE_WAY, _BOTH_WAYS),
        across=_link(_NETWORK, _WIRE, _WIRE),
        call_s=_CALL_S,
        add_s=_ADD_S,
        gamma=_GAMMA,
        kernel=Kernel(near.first_post * 1e-6, near.post * 1e-6, _DIRECT, _STAGED),
        cores=cores,
    )


def _link(latencies: _Latencies, one_way: Rate, both_ways: Rate) -> Link:
    return Link(
        Way(latencies.one_way * 1e-6, one_way),
        Way(latencies.both_ways * 1e-6, both_ways),
        latencies.further * 1e-6,
    )
