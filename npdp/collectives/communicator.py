"""Communicators: groups of ranks with their collectives, as one rank sees them.

    communicator   transport   moves messages                          (comm/)
                   topology    who is on which host                    topology.py
                   memory      that this host's ranks share            host_memory.py
                   chooser     which algorithm                         chooser.py
                   overlap     what goes on beside the program         overlap.py
                   clock       where the time goes                     clock.py
                   by_messages carries out what goes by messages       by_messages.py

A collective is prepared once for each kind, size, dtype, ... and then carried out: by the kernel, which waits by
itself, or by messages, here or beside the program.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from math import inf, prod
from typing import Any

import numpy as np

from npdp.base.arguments import whole
from npdp.base.partition import part
from npdp.collectives.algorithms import Algorithm
from npdp.collectives.arrays import Array, checked, extents_of, order_of, same_order
from npdp.collectives.by_messages import ByMessages
from npdp.collectives.chooser import Chooser
from npdp.collectives.clock import Clock
from npdp.collectives.host_memory import HostMemory
from npdp.collectives.looking import Firsts, SumAndLook, look_around, of_all
from npdp.collectives.overlap import Overlap
from npdp.collectives.topology import Topology
from npdp.comm.call import BARRIER, Call, bucket
from npdp.comm.transport import Buffer, Transport
from npdp.kernels.memory import allocate


class Communicator:
    """A group of ranks with its collectives, as one of them sees it.

    Attributes:
        transport, topology, memory, chooser, overlap, clock, by_messages: see above.
        rank, world_size: this rank's number; how many there are.
        algorithm: what collectives use where they are not told and have it.
        around: contexts within which each collective is carried out.
        closing: called, in this order, when this rank's program ends well.
        reducers: how many strategies train with these ranks.
        place: where this rank's program is.
    """

    def __init__(self, transport: Transport, algorithm: Algorithm = "auto") -> None:
        self.algorithm, self.place = algorithm, transport.stalls.board.place
        self.narrow(transport)

    def narrow(self, transport: Transport) -> None:
        """Narrow this communicator to the given ranks, in place: all that hold it go on with them."""
        self.transport, self.rank, self.world_size = transport, transport.rank, transport.world_size
        self.topology, self.memory = Topology(transport), HostMemory(transport)
        self.clock = Clock(transport, self.memory)
        self.chooser = Chooser(transport, self.topology, self.memory)
        self.overlap = Overlap(transport.calls.fail)
        self.around: list[Callable[[], AbstractContextManager[None]]] = []
        self.closing: list[Callable[[], None]] = []
        self.reducers = self._buckets = 0
        self.by_messages = ByMessages(transport, self.topology, self.memory, self.clock)
        self._number = np.zeros(1, np.int64)  # for barriers and counts

    # Memory that ranks share
    def shared_empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array in shared memory where there is some; see `npdp.shared_empty`."""
        checked(np.empty(0, dtype), "sum")
        shape = extents_of(shape, dtype)
        array = self.host_empty(prod(shape), dtype, one_for_all=False)
        return (allocate(prod(shape), dtype) if array is None else array).reshape(shape)

    def host_empty(self, count: int, dtype: np.dtype[Any], one_for_all: bool) -> Buffer | None:
        """Return an array in the host's memory, None where there is none or no room; collective."""
        self.finish()
        host = self.memory.host
        if host is None:
            return None
        with self.clock.outside_kernel():
            return host.arena.empty(count, dtype, one_for_all)

    def shared_once(self, count: int, dtype: np.dtype[Any]) -> Buffer | None:
        """Return one array for all ranks; None where not all share memory, or there is no room; collective."""
        return self.host_empty(count, dtype, one_for_all=True) if self.memory.is_of_all else None

    # Collectives on arrays
    def allreduce(self, array: Array, op: str = "sum", algorithm: Algorithm | None = None) -> None:
        """All-reduce in place; see `npdp.allreduce`."""
        buffer = checked(array, op)
        self.run("allreduce", buffer, op, algorithm, order=order_of(array, buffer))
        if op == "mean":
            buffer /= buffer.dtype.type(self.world_size)

    def reduce_scatter(self, array: Array, op: str = "sum", algorithm: Algorithm | None = None) -> Array:
        """Reduce-scatter in place; see `npdp.reduce_scatter`."""
        buffer = checked(array, op)
        self.run("reduce_scatter", buffer, op, algorithm, order=order_of(array, buffer))
        start, stop = part(buffer.size, self.world_size, self.rank)
        chunk = buffer[start:stop]
        if op == "mean":
            chunk /= chunk.dtype.type(self.world_size)
        return chunk

    def allgather(self, chunk: Array, out: Array, algorithm: Algorithm | None = None) -> None:
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
        self.run("allgather", buffer, "sum", algorithm, order=order_of(out, buffer))

    def broadcast(self, array: Array, root: int = 0, algorithm: Algorithm | None = None) -> None:
        """Broadcast in place; see `npdp.broadcast`."""
        buffer = checked(array, "sum")
        if type(root) is not int:
            root = whole(root, f"broadcast: root must be a rank of this world of {self.world_size}")
        if not 0 <= root < self.world_size:
            raise ValueError(f"broadcast: root must be a rank of this world of {self.world_size}, got {root}")
        self.run("broadcast", buffer, "sum", algorithm, root, order_of(array, buffer))

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self._number[0] = 0
        self.run("allreduce", self._number, "sum", "auto", label=BARRIER)

    # Small ones, on numbers and texts
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

    # How one is carried out
    def chosen(self, kind: str, nbytes: int, algorithm: Algorithm | None = None) -> str:
        """Return the algorithm asked for, else the communicator's where this kind has it, else the cheapest.

        Raises:
            ValueError: there is none of this name, or these ranks cannot use it.
        """
        return self.chooser.choose(kind, nbytes, algorithm, self.algorithm)

    def run(
        self,
        kind: str,
        buffer: Buffer,
        op: str,
        algorithm: Algorithm | None,
        root: int = 0,
        order: str = "C",
        label: str = "",
    ) -> None:
        """Carry out a collective on a 1-D contiguous buffer, in place; of a mean, the sum. See `Call` for the rest."""
        if self.around or self.overlap.busy:
            self._run_apart(kind, buffer, op, algorithm, root, order, label)
            return
        # Found at once, as a rule: small collectives take a microsecond
        key = kind, buffer.size, buffer.dtype.num, op, root, order, label, algorithm, self.algorithm
        prepared = self.chooser.prepared.get(key) or self.chooser.prepare(key, buffer)
        if self.world_size == 1:
            return
        if prepared.words is not None:
            host = prepared.host
            status = host.kernel.start(prepared.words, buffer)  # type: ignore[union-attr]
            if status:
                host.finish(status)  # type: ignore[union-attr]
        else:
            self.by_messages.run(prepared.call, partial(self.by_messages.work, prepared, buffer))

    def _run_apart(self, *call: Any) -> None:
        """Carry out a collective within all contexts, after what was begun before it."""
        around, self.around = self.around, []
        try:
            with ExitStack() as stack:
                for context in around:
                    stack.enter_context(context())
                self.finish()  # choosing may be collective too
                self.run(*call)
        finally:
            self.around = around

    def run_across_hosts(self, kind: str, mine: Buffer, count: int) -> None:
        """Reduce-scatter, summing, or allgather this rank's slice, in place, among those that carry it across hosts.

        Args:
            mine: (k,) the slice, the same on all ranks of this one's `cross_host_group`, of which there must be some.
            count: elements of the whole, by which all ranks see that they do the same.
        """
        call = Call(kind, count, mine.dtype.name, algorithm="slices")
        self.by_messages.run(call, lambda: self.by_messages.slice_work(call, mine))

    # Buckets
    def number_reducer(self) -> int:
        """Return the number of a new strategy, which all ranks make in the same order."""
        self.reducers += 1
        return self.reducers

    def number_buckets(self, count: int) -> int:
        """Return the first of so many numbers for buckets: two may be as large, and ranks must not mix them up."""
        first = self._buckets + 1
        self._buckets += count
        return first

    def persistent_allreduce(self, buffer: Buffer, number: int = 0, looking: bool = False) -> SumAndLook:
        """Return what sums a 1-D buffer in place, each time that it is called, on all ranks.

        MPI's word for a collective of which all that does not change is prepared beforehand. Through shared memory that
        is most of what a small one costs in Python. Looking at sums of floats, it says which are not finite.
        """
        label = bucket(number) if number else ""
        key = self._bucket_key(buffer, label)
        prepared = self.chooser.prepare(key, buffer)
        host, words, algorithm, cache = prepared.host, prepared.words, self.algorithm, self.chooser.prepared
        run = partial(self.run, "allreduce", buffer, "sum", None, label=label)
        otherwise: SumAndLook = partial(look_around, self, buffer, run) if looking else run
        if host is None or words is None:
            return otherwise
        start = host.kernel.persistent(words, buffer, looking)

        def allreduce() -> Firsts | None:
            as_prepared = self.chooser.prepared is cache and self.algorithm == algorithm  # `use` makes another
            if not as_prepared or self.around or self.overlap.busy:
                return otherwise()
            status = start()
            return of_all(self, host.kernel.firsts) if status and host.finish(status) else None

        return allreduce

    def _bucket_key(self, buffer: Buffer, label: str) -> tuple[Any, ...]:
        return "allreduce", buffer.size, buffer.dtype.num, "sum", 0, "C", label, None, self.algorithm

    def begin_allreduce(self, buffer: Buffer, number: int = 0) -> None:
        """Begin to sum a 1-D buffer in place, beside the program; `finish` ends it.

        Until then nobody may touch the buffer. What is begun is carried out in this order, before any other collective.
        """
        label = bucket(number) if number else ""
        if self.around:
            self._run_apart("allreduce", buffer, "sum", None, 0, "C", label)
            return
        key = self._bucket_key(buffer, label)
        prepared = self.chooser.prepared.get(key) or self.chooser.prepare(key, buffer)
        if not self.overlap.busy:
            self.clock.begin_overlap()
        before = time.perf_counter()
        with self.transport.calls:
            self.overlap.begin(self.by_messages.work(prepared, buffer), self.transport.wait)
        self.clock.count_program(time.perf_counter() - before)

    def finish(self) -> None:
        """Return when all that was begun is done; what the program did meanwhile does not count as waiting."""
        if self.overlap.busy:
            self.clock.end_overlap(self.overlap.finish())

    # Ends
    def close(self) -> None:
        """Do what is to be done at the end; once."""
        while self.closing:
            self.closing.pop(0)()

    def refuse(self, refusal: Callable[[], AbstractContextManager[None]]) -> None:
        """Refuse all collectives, as what was forked from a rank does: it has the rank's memory, and is none."""
        self.around = [refusal]
        self.memory.forget()
