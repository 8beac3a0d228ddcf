"""Where gradients and parameters lie between workers and servers; all ranks agree.

    gradients   parameters   where                                  a push brings    an answer brings
    SENT        SENT         ranks share no memory                  the gradient     the parameters
    SHARED      SENT         no room there for the parameters       nothing          the parameters
    SHARED      COPIED       a worker may compute meanwhile         nothing          nothing: the server wrote them
    SHARED      SHARED       all workers wait for an update         nothing          nothing
"""

from __future__ import annotations

from enum import Enum, auto
from functools import cached_property
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import FlatParameters, allocate
from npdp.parallel.parameter_server.roles import Roles


class Way(Enum):
    """How an array gets from a worker to a server, or back."""

    SENT = auto()  # in messages
    COPIED = auto()  # by the server, in memory that both map
    SHARED = auto()  # it is one array in memory that both map


SENT, COPIED, SHARED = Way


class Layout:
    """Lays out some flat arrays; collective. Parameters move, and are read-only from then on.

    Args:
        flat: the arrays, as this rank has them.
        world: of all ranks.
        roles: which of them is what.
        in_step: whether all workers wait while a server updates.

    Attributes:
        gradients, parameters: how they get from workers to servers, and back.
    """

    def __init__(self, flat: FlatParameters, world: Communicator, roles: Roles, in_step: bool) -> None:
        self.flat, self._roles = flat, roles
        gradients, parameters = world.memory.everyones(flat.grad), None
        if gradients is not None:
            parameters = (_one_for_all if in_step else one_for_each)(world, flat.data.size, flat.dtype)
        self.gradients = SENT if gradients is None else SHARED
        self.parameters = SENT if parameters is None else SHARED if in_step else COPIED
        self._gradients, self._parameters = gradients or [], parameters or [flat.data] * world.world_size
        flat.move_data(self._parameters[world.rank], writeable=False)
        world.barrier()

    def range_of(self, server: int) -> tuple[int, int]:
        """Return [start, stop) of a server's shard: equal in bytes, in whole cache lines."""
        return self.flat.part_in_lines(len(self._roles.servers), server)

    # What this rank's server has
    @property
    def own_range(self) -> tuple[int, int]:
        """[start, stop) of its shard."""
        return self.range_of(self._roles.server)

    @cached_property
    def data(self) -> Array:
        """(stop - start,) What it updates: for all optimisers the same array, as an answer is all of it."""
        mine: Array = self.flat.data[slice(*self.own_range)]
        if self.parameters is SHARED or not self._roles.is_worker:
            return mine
        apart = allocate(mine.size, mine.dtype)  # this rank's own are a worker's
        apart[:] = mine
        return apart

    def gradients_in(self) -> list[Array]:
        """Return (stop - start,) where each worker's gradient is after a push."""
        start, stop = self.own_range
        if self.gradients is SENT:
            return [allocate(stop - start, self.flat.dtype) for _ in range(self._roles.workers)]
        return [gradient[start:stop] for gradient in self._gradients[: self._roles.workers]]

    def copies(self) -> list[Array]:
        """Return (stop - start,) what each worker has of the parameters, where they are COPIED; else []."""
        start, stop = self.own_range
        return [p[start:stop] for p in self._parameters[: self._roles.workers]] if self.parameters is COPIED else []


def one_for_each(world: Communicator, count: int, dtype: np.dtype[Any]) -> list[Array] | None:
    """Return an array of each rank, in memory that all map; None where they share none; collective."""
    mine = world.host_empty(count, dtype, one_for_all=False)
    everyones = None if mine is None else world.memory.everyones(mine)
    if mine is None or everyones is None:
        return None
    everyones[world.rank] = mine  # who holds it holds the memory
    return everyones


def _one_for_all(world: Communicator, count: int, dtype: np.dtype[Any]) -> list[Array] | None:
    """Return the same array for each rank; None where they share no memory; collective."""
    once = world.shared_once(count, dtype)
    return None if once is None else [once] * world.world_size
