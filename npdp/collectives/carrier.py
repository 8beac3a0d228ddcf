"""Carries out collectives, and takes the time that they need.

    run                       at once
    persistent_allreduce      at once, each time that what it returns is called
    begin_allreduce, finish   beside the program (overlap.py)

By the algorithm chosen (topology.py) it is either a call of the kernel, which waits by itself, or an iterator of the
messages that are to be waited for (`_work`), here or in the thread beside the program.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import numpy as np

from npdp.collectives.across_hosts import AcrossHosts
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE, SHARED_MEMORY
from npdp.collectives.execute import elementwise, messages, rank_steps
from npdp.collectives.hierarchical import algorithm_across
from npdp.collectives.overlap import Overlap, Work, later
from npdp.collectives.topology import Topology
from npdp.comm.calls import described
from npdp.comm.errors import CommunicationError
from npdp.comm.transport import Buffer, Transport


class Carrier(Topology):
    """Carries out collectives among the ranks of a world, as one of them.

    Attributes:
        other_s: of `collective_s`, the seconds outside the kernel, which takes the time of its collectives itself.
        around: contexts within which each collective is carried out.
    """

    def __init__(self, transport: Transport, algorithm: str = "auto") -> None:
        super().__init__(transport, algorithm)
        self.other_s = 0.0
        self.around: list[Callable[[], AbstractContextManager[None]]] = []
        self._overlap = Overlap(transport.calls.fail)
        self._program_s = 0.0, 0.0  # wait_s and collective_s without what the thread beside it does
        self._by_messages = threading.Lock()  # held while one is under way
        self._across: AcrossHosts | None = None

    # At once
    def run(self, collective: str, buffer: Buffer, op: str, algorithm: str | None, root_or_bucket: int = 0) -> None:
        """Carry out a collective with the algorithm chosen; of a mean, the sum.

        Args:
            op: sum, mean, min, max or prod; with FORTRAN behind it where the buffer is an array in that order.
            root_or_bucket: the root of a broadcast; the number of the bucket, from 1, that an all-reduce sums; 0: none.
        """
        if self.around or self._overlap.busy:
            self._run_apart(collective, buffer, op, algorithm, root_or_bucket)
            return
        algorithm = (  # found at once, as a rule: small collectives take a microsecond
            self._chosen.get((collective, buffer.nbytes, algorithm, self.algorithm))
            or self.chosen(collective, buffer.nbytes, algorithm)
        )
        if self.world_size == 1:
            return
        if algorithm == SHARED_MEMORY:  # as Host.collective does it, with a call less
            status = self._host.kernel.begin(collective, buffer, op, root_or_bucket)  # type: ignore[union-attr]
            if status:
                self._host.finish(status)  # type: ignore[union-attr]
        else:
            work = partial(self._work, collective, algorithm, buffer, op, root_or_bucket)
            self._run_by_messages(collective, algorithm, work)

    def run_in_column(self, collective: str, mine: Buffer, count: int) -> None:
        """Reduce-scatter, summing, or allgather this rank's slice, in place, among those that carry it across hosts.

        Args:
            mine: (k,) the slice, the same on all ranks of this one's `column`, of which there must be some.
            count: elements of the whole, by which all ranks see that they do the same.
        """
        ranks = self.column

        def work() -> Work:
            call = self.transport.calls.begin(described(collective, count, mine.dtype, "sum", 0, "slices"))
            how = collective, algorithm_across(mine.nbytes, len(ranks)), len(ranks), ranks.index(self.rank)
            steps = rank_steps(*how, mine.size, mine.itemsize, among=ranks)
            return messages(steps, self.transport, mine, "sum", call)

        self._run_by_messages(collective, "slices", work)

    def _run_apart(self, collective: str, buffer: Buffer, op: str, algorithm: str | None, root_or_bucket: int) -> None:
        """Carry out a collective within all contexts, after what was begun before it."""
        around, self.around = self.around, []
        try:
            with ExitStack() as stack:
                for context in around:
                    stack.enter_context(context())
                self.finish()  # choosing may be collective too
                self.run(collective, buffer, op, algorithm, root_or_bucket)
        finally:
            self.around = around

    def _run_by_messages(self, collective: str, algorithm: str, work: Callable[[], Work]) -> None:
        before = self._outside_kernel_s()
        if not self._by_messages.acquire(blocking=False):
            raise CommunicationError(
                f"rank {self.rank} calls {collective} by {algorithm}, but its last collective by messages is not done: "
                "it was interrupted by this one, or is under way in another thread"
            )
        try:
            with self.transport.calls:
                for message in work():
                    if message is not None:
                        self.transport.wait(message)
        finally:
            self._by_messages.release()
        self.other_s += self._outside_kernel_s() - before

    def _work(self, collective: str, algorithm: str, buffer: Buffer, op: str, root_or_bucket: int) -> Work:
        """Count a call, and return what carries it out: it yields each message before it must be waited for.

        Where it yields None, it waits for something else next.
        """
        if algorithm == SHARED_MEMORY:
            how = collective, buffer, op, root_or_bucket
            return later(lambda: self._host.collective(*how))  # type: ignore[union-attr]
        if algorithm == HIERARCHICAL and self._across is None:
            self._across = AcrossHosts(self.hosts, self.rank, self.host)
        what = described(collective, buffer.size, buffer.dtype, op, root_or_bucket, algorithm)
        call = self.transport.calls.begin(what)
        if algorithm == NATIVE:
            return later(lambda: self.transport.native_allreduce(buffer, elementwise(op), call))
        if algorithm == HIERARCHICAL:
            return self._across.allreduce(buffer, op, self.transport, call, root_or_bucket)  # type: ignore[union-attr]
        root = root_or_bucket if collective == "broadcast" else 0
        steps = rank_steps(collective, algorithm, self.world_size, self.rank, buffer.size, buffer.itemsize, root)
        return messages(steps, self.transport, buffer, op, call)

    def persistent_allreduce(self, buffer: Buffer, bucket: int = 0) -> Callable[[], None]:
        """Return what sums a 1-D buffer in place, each time that it is called, on all ranks.

        MPI's word for a collective of which all that does not change is settled beforehand. Through shared memory that
        is most of what a small one costs in Python.
        """
        if self.world_size == 1 or self.chosen("allreduce", buffer.nbytes) != SHARED_MEMORY or self._host is None:
            return lambda: self.run("allreduce", buffer, "sum", None, bucket)
        host, algorithm, choices = self._host, self.algorithm, self._chosen
        begin = host.kernel.persistent("allreduce", buffer, "sum", bucket)

        def allreduce() -> None:
            as_settled = self._host is host and self._chosen is choices and self.algorithm == algorithm
            if not as_settled or self.around or self._overlap.busy:
                self.run("allreduce", buffer, "sum", None, bucket)
                return
            status = begin()
            if status:
                host.finish(status)

        return allreduce

    # Beside the program
    def begin_allreduce(self, buffer: Buffer, bucket: int = 0) -> None:
        """Begin to sum a 1-D buffer in place, beside the program; `finish` ends it.

        Until then nobody may touch the buffer. What is begun is carried out in this order, before any other collective.
        """
        if self.around:
            self._run_apart("allreduce", buffer, "sum", None, bucket)
            return
        algorithm = self.chosen("allreduce", buffer.nbytes)
        if not self._overlap.busy:
            self._program_s = self.wait_s, self.collective_s
        before = time.perf_counter()
        with self.transport.calls:
            self._overlap.begin(self._work("allreduce", algorithm, buffer, "sum", bucket), self.transport.wait)
        wait_s, collective_s = self._program_s
        self._program_s = wait_s, collective_s + time.perf_counter() - before

    def finish(self) -> None:
        """Return when all that was begun is done; what the program did meanwhile does not count as waiting."""
        if not self._overlap.busy:
            return
        blocked_s = self._overlap.finish()
        wait_s, collective_s = self._program_s
        self.transport.wait_s += wait_s + blocked_s - self.wait_s
        self.other_s += collective_s + blocked_s - self.collective_s

    # Memory
    def empty(self, count: int, dtype: np.dtype[Any], one_for_all: bool) -> Buffer | None:
        """Return an array in the host's memory, None where there is none or no room; collective."""
        self.finish()
        if self.host is None:
            return None
        before = self._outside_kernel_s()
        array = self.host.arena.empty(count, dtype, one_for_all)
        self.other_s += self._outside_kernel_s() - before
        return array

    def shared_once(self, count: int, dtype: np.dtype[Any]) -> Buffer | None:
        """Return one array for all ranks; None where not all share memory, or there is no room; collective."""
        return self.empty(count, dtype, one_for_all=True) if self.shares_memory else None

    # Time
    @property
    def wait_s(self) -> float:
        """Seconds in which this rank did nothing but wait for others."""
        return self.transport.wait_s + (self._host.kernel.wait_s if self._host is not None else 0.0)

    @property
    def collective_s(self) -> float:
        """Seconds spent in collectives since `clear_times`."""
        return self.other_s + self._kernel_s

    @property
    def communication_s(self) -> float:
        """Seconds in collectives without waiting: sending, copying, adding."""
        return self.collective_s - self.wait_s

    @property
    def _kernel_s(self) -> float:
        return self._host.kernel.collective_s if self._host is not None else 0.0

    def clear_times(self) -> None:
        """Begin to measure anew."""
        self.other_s = self.transport.wait_s = 0.0
        self._program_s = 0.0, 0.0
        if self._host is not None:
            self._host.kernel.clear_times()

    def _outside_kernel_s(self) -> float:
        """Return a time that stands still while the kernel carries out a collective."""
        return time.perf_counter() - self._kernel_s
