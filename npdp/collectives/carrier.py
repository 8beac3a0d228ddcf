"""Which way a collective goes, and how long it takes: through shared memory, as messages, or MPI's own.

    chosen                    the algorithm: asked for, else the world's, else the best
    run                       at once
    persistent_allreduce      at once, each time that what it returns is called
    begin_allreduce, finish   beside the program (overlap.py)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np

from npdp.collectives.across_hosts import AcrossHosts
from npdp.collectives.auto import cheapest
from npdp.collectives.choose import HIERARCHICAL, NATIVE, SHARED_MEMORY, algorithms_of, require
from npdp.collectives.constants import Constants, constants
from npdp.collectives.cost import Hosts
from npdp.collectives.execute import carried_out, messages, rank_steps
from npdp.collectives.overlap import Overlap, later
from npdp.collectives.shared_memory import Host, gather, open_host
from npdp.comm.calls import Call, described
from npdp.comm.errors import CommunicationError
from npdp.comm.transport import Buffer, Transport

MOST_CHOSEN = 4096  # sizes and what was chosen for them that are kept


class Carrier:
    """Carries out collectives among the ranks of a world, as one of them.

    Attributes:
        transport: what moves messages.
        rank, world_size: this rank's number; how many there are.
        algorithm: what collectives use where they are not told and have it.
        other_s: of `collective_s`, the seconds outside the kernel, which takes the time of its collectives itself.
        around: contexts within which each collective is carried out.
    """

    def __init__(self, transport: Transport, algorithm: str = "auto") -> None:
        self.transport = transport
        self.rank, self.world_size = transport.rank, transport.world_size
        self.algorithm = algorithm
        self.other_s = 0.0
        self.around: list[Callable[[], AbstractContextManager[None]]] = []
        self._overlap = Overlap(transport.calls.fail)
        self._by_messages = threading.Lock()  # held while one is under way
        self._before_overlap = 0.0, 0.0  # what wait_s and collective_s were
        self._host: Host | None = None
        self._host_opened = False
        self._hosts: Hosts | None = None
        self._across: AcrossHosts | None = None
        self._constants: Constants | None = None
        self._chosen: dict[tuple[str, int, str | None, str], str] = {}

    def clear_times(self) -> None:
        """Begin to measure anew."""
        self.other_s = self.transport.wait_s = 0.0
        self._before_overlap = 0.0, 0.0
        if self._host is not None:
            self._host.kernel.clear_times()

    @property
    def wait_s(self) -> float:
        """Seconds in which this rank did nothing but wait for others."""
        return self.transport.wait_s + (self._host.kernel.wait_s if self._host is not None else 0.0)

    @property
    def collective_s(self) -> float:
        """Seconds spent in collectives since `clear_times`."""
        return self.other_s + (self._host.kernel.collective_s if self._host is not None else 0.0)

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
    def hosts(self) -> Hosts:
        """Each rank's host: 0 for the first rank's, 1 for the next one, ...; collective the first time."""
        if self._hosts is None:
            numbers = gather(self.transport, [self.transport.host_number])[:, 0].tolist()
            places = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
            self._hosts = tuple(places[number] for number in numbers)
        return self._hosts

    @property
    def spans_hosts(self) -> bool:
        """Whether there are ranks on several hosts; collective the first time."""
        return max(self.hosts) > 0

    @property
    def constants(self) -> Constants:
        """What collectives cost here, as rank 0 knows it: measured before, or built in; collective the first time."""
        if self._constants is None:
            self._constants = constants(self.transport, self.hosts)
        return self._constants

    def use(self, constants: Constants) -> None:
        """Choose by other constants from now on; all ranks by the same."""
        self._constants = constants
        self._chosen = {}

    @property
    def shares_memory(self) -> bool:
        """Whether all ranks of this world share memory; collective the first time."""
        host = self.host
        return host is not None and len(host.ranks) == self.world_size

    def shared_once(self, count: int, dtype: np.dtype[Any]) -> Buffer | None:
        """Return one array for all ranks; None where not all share memory, or there is no room; collective."""
        return self.empty(count, dtype, one_for_all=True) if self.shares_memory else None

    def everyones(self, array: Buffer) -> list[Buffer] | None:
        """Return all ranks' arrays that were made together with `array` by `shared_empty`; None where out of reach."""
        return self.host.everyones(array) if self.shares_memory and self.host else None

    def chosen(self, collective: str, nbytes: int, algorithm: str | None = None) -> str:
        """Return the algorithm asked for, else the world's where this collective has it, else the best.

        Raises:
            ValueError: there is none of this name, or this world cannot use it.
        """
        key = (collective, nbytes, algorithm, self.algorithm)
        found = self._chosen.get(key)
        if found is None:
            if algorithm is None:
                algorithm = self.algorithm if self.algorithm in algorithms_of(collective) else "auto"
            if algorithm == "auto":
                found = cheapest(collective, nbytes, self.hosts, self.constants.machine, self.host is not None)
            else:
                usable = algorithm != SHARED_MEMORY or self.world_size == 1 or self.shares_memory
                found = require(collective, algorithm, usable)
                if found == HIERARCHICAL and self.shares_memory:  # on one host it is that
                    found = SHARED_MEMORY
            if len(self._chosen) == MOST_CHOSEN:
                self._chosen.clear()
            self._chosen[key] = found
        return found

    def run(self, collective: str, buffer: Buffer, op: str, algorithm: str | None, which: int = 0) -> None:
        """Carry out a collective with the algorithm chosen; of a mean, the sum.

        Args:
            op: sum, mean, min, max or prod; with FORTRAN behind it where the buffer is an array in that order.
            which: the root of a broadcast; the number of a bucket, counted from 1, that an all-reduce sums.
        """
        if self.around or self._overlap.busy:
            self._run_apart(collective, buffer, op, algorithm, which)
            return
        algorithm = (  # found at once, as a rule: small collectives take a microsecond
            self._chosen.get((collective, buffer.nbytes, algorithm, self.algorithm))
            or self.chosen(collective, buffer.nbytes, algorithm)
        )
        if self.world_size == 1:
            return
        if algorithm == SHARED_MEMORY:  # as Host.collective does it, with a call less
            status = self._host.kernel.begin(collective, buffer, op, which)  # type: ignore[union-attr]
            if status:
                self._host.finish(status)  # type: ignore[union-attr]
        else:
            before = self._outside_kernel_s()
            self._carry_out(collective, algorithm, buffer, op, which)
            self.other_s += self._outside_kernel_s() - before

    def _outside_kernel_s(self) -> float:
        """Return a time that stands still while the kernel carries out a collective."""
        return time.perf_counter() - (self.collective_s - self.other_s)

    def _run_apart(self, collective: str, buffer: Buffer, op: str, algorithm: str | None, which: int) -> None:
        """Carry out a collective within all contexts, after what was begun before it."""
        around, self.around = self.around, []
        try:
            with ExitStack() as stack:
                for context in around:
                    stack.enter_context(context())
                self.finish()  # choosing may be collective too
                self.run(collective, buffer, op, algorithm, which)
        finally:
            self.around = around

    def persistent_allreduce(self, buffer: Buffer, which: int = 0) -> Callable[[], None]:
        """Return what sums a 1-D buffer in place, each time that it is called, on all ranks.

        MPI's word for a collective of which all that does not change is settled beforehand. Through shared memory that
        is most of what a small one costs in Python.
        """
        if self.world_size == 1 or self.chosen("allreduce", buffer.nbytes) != SHARED_MEMORY or self._host is None:
            return lambda: self.run("allreduce", buffer, "sum", None, which)
        host, algorithm, choices = self._host, self.algorithm, self._chosen
        begin = host.kernel.persistent("allreduce", buffer, "sum", which)

        def allreduce() -> None:
            as_settled = self._host is host and self._chosen is choices and self.algorithm == algorithm
            if not as_settled or self.around or self._overlap.busy:
                self.run("allreduce", buffer, "sum", None, which)
                return
            status = begin()
            if status:
                host.finish(status)

        return allreduce

    def _carry_out(self, collective: str, algorithm: str, buffer: Buffer, op: str, which: int) -> None:
        """Carry out a collective by messages, npdp's or MPI's: one at a time."""
        if not self._by_messages.acquire(blocking=False):
            raise CommunicationError(
                f"rank {self.rank} calls {collective} by {algorithm}, but its last collective by messages is not done: "
                "it was interrupted by this one, or is under way in another thread"
            )
        try:
            with self.transport.calls:
                self._exchange_messages(collective, algorithm, buffer, op, which)
        finally:
            self._by_messages.release()

    def _exchange_messages(self, collective: str, algorithm: str, buffer: Buffer, op: str, which: int) -> None:
        if algorithm == NATIVE:
            call = self._call(collective, algorithm, buffer, op, which)
            self.transport.native_allreduce(buffer, carried_out(op), call)
            return
        for message in self._messages(collective, algorithm, buffer, op, which):
            if message is not None:
                self.transport.wait(message)

    def _messages(self, collective: str, algorithm: str, buffer: Buffer, op: str, which: int) -> Iterator[Any]:
        """Carry out a collective, and yield each message that is to be waited for before it can go on, or None."""
        if algorithm == HIERARCHICAL and self._across is None:
            self._across = AcrossHosts(self.hosts, self.rank, self.host)
        call = self._call(collective, algorithm, buffer, op, which)
        if algorithm == HIERARCHICAL:
            return self._across.allreduce(buffer, op, self.transport, call, which)  # type: ignore[union-attr]
        root = which if collective == "broadcast" else 0
        steps = rank_steps(collective, algorithm, self.world_size, root, self.rank, buffer.size, buffer.itemsize)
        return messages(steps, self.transport, buffer, op, call)

    def _call(self, collective: str, algorithm: str, buffer: Buffer, op: str, which: int) -> Call:
        return self.transport.calls.begin(described(collective, buffer.size, buffer.dtype, op, which, algorithm))

    def begin_allreduce(self, buffer: Buffer, which: int = 0) -> None:
        """Begin to sum a 1-D buffer in place, beside the program; `finish` ends it.

        Until then nobody may touch the buffer. What is begun is carried out in this order, before any other collective.
        """
        if self.around:
            self._run_apart("allreduce", buffer, "sum", None, which)
            return
        algorithm = self.chosen("allreduce", buffer.nbytes)
        if not self._overlap.busy:
            self._before_overlap = self.wait_s, self.collective_s
        before = time.perf_counter()
        with self.transport.calls:
            self._overlap.begin(self._work(algorithm, buffer, which), self.transport.wait)
        wait_s, collective_s = self._before_overlap
        self._before_overlap = wait_s, collective_s + time.perf_counter() - before

    def _work(self, algorithm: str, buffer: Buffer, which: int) -> Iterator[Any]:
        """Return an all-reduce to be carried out piece by piece: what it yields is to be waited for."""
        if algorithm == SHARED_MEMORY:
            return later(lambda: self._host.collective("allreduce", buffer, "sum", which))  # type: ignore[union-attr]
        if algorithm == NATIVE:
            call = self._call("allreduce", algorithm, buffer, "sum", which)
            return later(lambda: self.transport.native_allreduce(buffer, "sum", call))
        return self._messages("allreduce", algorithm, buffer, "sum", which)

    def finish(self) -> None:
        """Return when all that was begun is done; what the program did meanwhile does not count as waiting."""
        if not self._overlap.busy:
            return
        blocked_s = self._overlap.finish()
        wait_s, collective_s = self._before_overlap
        self.transport.wait_s += wait_s + blocked_s - self.wait_s
        self.other_s += collective_s + blocked_s - self.collective_s

    def empty(self, count: int, dtype: np.dtype[Any], one_for_all: bool) -> Buffer | None:
        """Return an array in the host's memory, None where there is none or no room; collective."""
        if self._overlap.busy:
            self.finish()
        if self.host is None:
            return None
        before = self._outside_kernel_s()
        array = self.host.empty(count, dtype, one_for_all)
        self.other_s += self._outside_kernel_s() - before
        return array
