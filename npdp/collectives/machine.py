"""The constants of a machine: the costs of one host and of the links between hosts, measured or built in.

The built-in ones are of 2 cores of an Intel Xeon, 2 MB of cache each, with Open MPI 5, rounded from what `npdp
calibrate` found on 2 ranks, 4 ranks, 2 threads, and two emulated hosts with a link of 1 Gbit/s (later runs, up to 1.6
times as much: benchmarks/results/constants-*.json). What matters first they have right everywhere: shared memory is
quickest, messages are dear where ranks outnumber cores, and a network is dearer still.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import log
from typing import Any, get_args, get_origin, get_type_hints

from npdp.base import environment

MOST = {int: 2**63, float: 1e6}  # counts, and seconds


@dataclass(frozen=True)
class Rate:
    """Seconds per byte at ascending numbers of bytes; constant before the first and after the last."""

    nbytes: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes, seconds = self.nbytes, self.seconds
        if not sizes or len(sizes) != len(seconds) or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"a rate needs ascending sizes and as many times, got {sizes} and {seconds}")
        if 0 in seconds and any(seconds):
            raise ValueError(f"a rate is 0 at all sizes or at none, got {seconds}")

    def at(self, nbytes: float) -> float:
        """Return the seconds per byte of so many bytes: between two sizes a straight line in the logarithms."""
        after = bisect_right(self.nbytes, nbytes)
        if after in (0, len(self.nbytes)):
            return self.seconds[min(after, len(self.nbytes) - 1)]
        (x0, x1), (y0, y1) = self.nbytes[after - 1 : after + 1], self.seconds[after - 1 : after + 1]
        return y0 if y0 == y1 else y0 * (y1 / y0) ** (log(nbytes / x0) / log(x1 / x0))


@dataclass(frozen=True)
class Way:
    """The cost of a message in one use of a link: n bytes take alpha_s + n beta."""

    alpha_s: float
    beta: Rate


@dataclass(frozen=True)
class Link:
    """The cost of messages between two ranks: one alone; one each way at once; each further one of a rank."""

    one_way: Way
    both_ways: Way
    further_s: float


@dataclass(frozen=True)
class Kernel:
    """The cost of the shared-memory kernel: a call with its first post; each further post; a byte read or written.

    A byte has one rate where arrays lie in shared memory (direct), another where they pass through its slots (staged).
    """

    first_s: float
    post_s: float
    direct: Rate
    staged: Rate


@dataclass(frozen=True)
class Machine:
    """The constants of one host and of the links between hosts.

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


def from_json(found: Any, kind: Any = Machine) -> Any:
    """Return the constants, or a part of them, that `dataclasses.asdict` made a tree of.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: they are none. A count is at least 1, seconds at least 0, and
            neither is so large that prices overflow.
    """
    if kind in (int, float):
        number = kind(found)
        if not (kind is int) <= number < MOST[kind]:
            raise ValueError(f"wanted {'a count' if kind is int else 'seconds'}, got {found}")
        return number
    if get_origin(kind) is tuple:
        return tuple(from_json(each, get_args(kind)[0]) for each in found)
    return kind(**{name: from_json(found[name], part) for name, part in get_type_hints(kind).items()})


# Microseconds: a message one way, both ways, a further one; the kernel's first post, and a further one
OWN_CORE = (2.4, 3.7, 1.3, 1.5, 0.4)
SHARED_CORE = (11.0, 15.0, 4.0, 8.0, 4.0)  # ranks outnumber cores
THREADS = (40.0, 43.0, 1.0, 23.0, 3.0)  # Python's lock goes from one to another


def built_in(transport: str, ranks_of_a_host: int) -> Machine:
    """Return the built-in constants for a transport's name, and the number of ranks of the host that has most."""
    cores, wire = environment.cores_of_job(), _rate({1: 8.4})
    near = THREADS if transport.startswith("threads") else SHARED_CORE if ranks_of_a_host > cores else OWN_CORE
    one_s, both_s, further_s, first_s, post_s = (each * 1e-6 for each in near)
    one_way = _rate({4: 0.23, 16: 0.20, 64: 0.16, 256: 0.094, 1024: 0.099, 4096: 0.099})
    both_ways = _rate({4: 0.28, 16: 0.19, 64: 0.12, 256: 0.10, 1024: 0.12, 4096: 0.10})
    direct = _rate({16: 0.0056, 64: 0.0068, 256: 0.0080, 1024: 0.0085, 4096: 0.018, 16384: 0.018})
    staged = _rate({4: 0.087, 16: 0.076, 64: 0.030, 256: 0.029, 1024: 0.026, 4096: 0.031, 16384: 0.032})
    return Machine(
        inside=Link(Way(one_s, one_way), Way(both_s, both_ways), further_s),
        across=Link(Way(6.5e-6, wire), Way(9.7e-6, wire), 4.7e-6),
        call_s=2.1e-6,
        add_s=1.2e-6,
        gamma=_rate({16: 0.088, 64: 0.18, 256: 0.12, 1024: 0.10, 4096: 0.04}),
        kernel=Kernel(first_s, post_s, direct, staged),
        cores=cores,
    )


def _rate(nanoseconds: dict[int, float]) -> Rate:
    """Return a rate from nanoseconds a byte, by kilobytes."""
    return Rate(tuple(size << 10 for size in nanoseconds), tuple(each * 1e-9 for each in nanoseconds.values()))
