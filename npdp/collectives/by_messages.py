"""Carries out collectives by messages, one at a time: by an iterator that yields each message that is to be waited for.

Where it yields None, it waits for something else next. So it can go on here, or beside the program (overlap.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from npdp.collectives.across_hosts import AcrossHosts
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE
from npdp.collectives.chooser import Prepared
from npdp.collectives.clock import Clock
from npdp.collectives.execute import elementwise, messages, rank_steps
from npdp.collectives.hierarchical import algorithm_across
from npdp.collectives.host_memory import HostMemory
from npdp.collectives.overlap import Work, later
from npdp.collectives.topology import Topology
from npdp.comm.call import Call
from npdp.comm.errors import CommunicationError
from npdp.comm.transport import Buffer, Transport


class ByMessages:
    """Executor of one rank's collectives by messages."""

    def __init__(self, transport: Transport, topology: Topology, memory: HostMemory, clock: Clock) -> None:
        self._transport, self._topology, self._memory, self._clock = transport, topology, memory, clock
        self._under_way = threading.Lock()
        self._across: AcrossHosts | None = None

    def run(self, call: Call, work: Callable[[], Work]) -> None:
        """Carry out what `work` makes, to its end.

        Raises:
            CommunicationError: the last one is not done.
        """
        if not self._under_way.acquire(blocking=False):
            raise CommunicationError(
                f"rank {self._transport.rank} calls {call.kind} by {call.algorithm}, but its last collective by "
                "messages is not done: it was interrupted by this one, or is under way in another thread"
            )
        clock = self._clock
        before = time.perf_counter() - clock.kernel_s  # whose part the kernel counts itself
        try:
            with self._transport.calls:
                for message in work():
                    if message is not None:
                        self._transport.wait(message)
        finally:
            self._under_way.release()
            clock.other_s += time.perf_counter() - clock.kernel_s - before

    def work(self, prepared: Prepared, buffer: Buffer) -> Work:
        """Count a call, and return what carries it out."""
        algorithm, call, host, words = prepared
        if host is not None and words is not None:
            return later(lambda: host.carry_out(words, buffer))
        transport = self._transport
        if algorithm == HIERARCHICAL and self._across is None:
            self._across = AcrossHosts(self._topology.hosts, transport.rank, self._memory.host)
        logged = transport.calls.begin(call)
        if algorithm == NATIVE:
            return later(lambda: transport.native_allreduce(buffer, elementwise(call.op), logged))
        if algorithm == HIERARCHICAL:
            return self._across.allreduce(buffer, call.op, transport, logged)  # type: ignore[union-attr]
        where = transport.world_size, transport.rank, buffer.size, buffer.itemsize
        return messages(rank_steps(call.kind, algorithm, *where, call.root), transport, buffer, call.op, logged)

    def slice_work(self, call: Call, mine: Buffer) -> Work:
        """Count a call, and return what carries it out on a slice, among the ranks that carry it across hosts."""
        ranks = self._topology.cross_host_group
        how = call.kind, algorithm_across(mine.nbytes, len(ranks)), len(ranks), ranks.index(self._transport.rank)
        steps = rank_steps(*how, mine.size, mine.itemsize, among=ranks)
        return messages(steps, self._transport, mine, "sum", self._transport.calls.begin(call))
