"""The lines between workers and servers: a world of all ranks for what goes to servers, and one for what comes back.

Where all ranks share memory small messages go through mailboxes in it; else through the world's transport.
"""

from __future__ import annotations

import copy

import numpy as np

from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.comm import mailbox
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.threads import ThreadTransport, ThreadWorld
from npdp.comm.transport import NoTransport, Transport


class Lines:
    """Lays the lines; collective.

    Attributes:
        transport: of all ranks, one that can send to itself.
    """

    def __init__(self, world: Communicator) -> None:
        alone = isinstance(world.transport, NoTransport)
        self.transport: Transport = _Alone(ThreadWorld(1), 0) if alone else world.transport
        self._boxes = _boxes(world)
        self._subworlds = [self.transport.subworld(range(world.world_size)) for _ in range(2)]

    def for_a_thread(self) -> tuple[Transport, Transport]:
        """Return the line to servers and the line back, for one thread's use."""
        there, back = (refused_after_fork(copy.copy(subworld)) for subworld in self._subworlds)
        if self._boxes is not None:
            there, back = mailbox.lines([there, back], self._boxes)
        return there, back


class _Alone(ThreadTransport):
    """A world of one, worker and server, that can send to itself; its errors are its own."""

    def ended(self, peers: list[int]) -> BaseException | None:
        return self.world.failure[1] if self.world.failure else None


def _boxes(world: Communicator) -> Array | None:
    """Return memory for mailboxes, where all ranks share it."""
    if not world.memory.is_of_all:
        return None
    boxes = world.shared_once(mailbox.nbytes(world.world_size), np.dtype(np.uint8))
    if boxes is not None:
        boxes[:] = 0  # each rank writes the same
        world.barrier()
    return boxes
