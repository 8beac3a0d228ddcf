"""Which rank is what: workers first, then servers; or, with no servers, every rank both.

    mpirun -n 4, servers=1     rank 0  worker 0    rank 1  worker 1    rank 2  worker 2    rank 3  server 0
    mpirun -n 3, servers=0     rank 0  worker 0    rank 1  worker 1    rank 2  worker 2
                                       server 0            server 1            server 2    (a thread each)
"""

from __future__ import annotations

from typing import NamedTuple


class Roles(NamedTuple):
    """The roles of all ranks, and of this one.

    Attributes:
        rank: this one.
        world_size: how many ranks there are.
        workers: how many of them are workers.
    """

    rank: int
    world_size: int
    workers: int

    @property
    def is_worker(self) -> bool:
        """Whether this rank is one."""
        return self.rank < self.workers

    @property
    def is_server(self) -> bool:
        """Whether this rank is one."""
        return self.rank in self.servers

    @property
    def servers(self) -> range:
        """The rank of each server."""
        return range(self.workers if self.workers < self.world_size else 0, self.world_size)

    @property
    def server(self) -> int:
        """The number of the server that this rank is, where it is one."""
        return self.servers.index(self.rank)
