"""Clock of a rank's time in collectives, and of its waiting in them.

    collective_s        = kernel's own, which takes its time itself | other_s, outside it
    wait_s              = kernel's own                              | the transport's
    communication_s     = collective_s - wait_s: sending, copying, adding
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npdp.collectives.host_memory import HostMemory
    from npdp.comm.transport import Transport


class Clock:
    """Clock of one rank's time in collectives.

    Attributes:
        other_s: of `collective_s`, the seconds outside the kernel.
    """

    def __init__(self, transport: Transport, memory: HostMemory) -> None:
        self._transport, self._memory = transport, memory
        self.other_s = 0.0
        self._program_s = 0.0, 0.0  # wait_s and collective_s without what goes on beside the program

    @property
    def wait_s(self) -> float:
        """Seconds in which this rank did nothing but wait for others."""
        host = self._memory.opened
        return self._transport.wait_s + (host.kernel.wait_s if host is not None else 0.0)

    @property
    def collective_s(self) -> float:
        """Seconds spent in collectives since `clear`."""
        return self.other_s + self.kernel_s

    @property
    def communication_s(self) -> float:
        """Seconds in collectives without waiting."""
        return self.collective_s - self.wait_s

    @property
    def kernel_s(self) -> float:
        """Seconds that the kernel has counted itself."""
        host = self._memory.opened
        return host.kernel.collective_s if host is not None else 0.0

    def clear(self) -> None:
        """Begin to measure anew."""
        self.other_s = self._transport.wait_s = 0.0
        self._program_s = 0.0, 0.0
        if self._memory.opened is not None:
            self._memory.opened.kernel.clear_times()

    @contextmanager
    def outside_kernel(self) -> Iterator[None]:
        """Count, within, the time in which the kernel carries out no collective."""
        before = time.perf_counter() - self.kernel_s
        yield
        self.other_s += time.perf_counter() - self.kernel_s - before

    def count(self, spent_s: float, wait_s: float) -> None:
        """Count seconds spent with others, of which so many waiting, that somebody else has measured."""
        self.other_s += spent_s
        self._transport.wait_s += wait_s

    # What goes on beside the program counts only as far as the program is kept from its own work
    def begin_overlap(self) -> None:
        """Note that a collective begins beside the program."""
        self._program_s = self.wait_s, self.collective_s

    def count_program(self, seconds: float) -> None:
        """Count seconds in which the program itself was at what goes on beside it."""
        wait_s, collective_s = self._program_s
        self._program_s = wait_s, collective_s + seconds

    def end_overlap(self, blocked_s: float) -> None:
        """Note that all beside the program is done, and how long it has waited for that."""
        wait_s, collective_s = self._program_s
        self._transport.wait_s += wait_s + blocked_s - self.wait_s
        self.other_s += collective_s + blocked_s - self.collective_s
