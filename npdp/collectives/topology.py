"""Where the ranks of a world are, what they share and what messages cost; by it, which algorithm a collective takes.

    hosts      (0, 0, 1, 1)        of ranks 0, 1, 2, 3
    host       ranks 0 and 1       as ranks 0 and 1 see it: who they share memory with
    constants  alpha, beta, ...    measured here, or built in

All is found out when it is first asked for, together with all other ranks.
"""

from __future__ import annotations

from npdp.collectives.algorithms import HIERARCHICAL, SHARED_MEMORY, algorithms_of, require
from npdp.collectives.auto import cheapest
from npdp.collectives.constants import Constants, constants
from npdp.collectives.cost import Hosts
from npdp.collectives.hierarchical import columns_of
from npdp.collectives.host import Host, gather, open_host
from npdp.comm.transport import Buffer, Transport

MOST_CHOSEN = 4096  # sizes and what was chosen for them that are kept


class Topology:
    """What one rank knows of all of them.

    Attributes:
        transport: what moves messages.
        rank, world_size: this rank's number; how many there are.
        algorithm: what collectives use where they are not told and have it.
    """

    def __init__(self, transport: Transport, algorithm: str = "auto") -> None:
        self.transport = transport
        self.rank, self.world_size = transport.rank, transport.world_size
        self.algorithm = algorithm
        self._host: Host | None = None
        self._host_opened = False
        self._hosts: Hosts | None = None
        self._constants: Constants | None = None
        self._chosen: dict[tuple[str, int, str | None, str], str] = {}

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
            index_of = {number: index for index, number in enumerate(dict.fromkeys(numbers))}
            self._hosts = tuple(index_of[number] for number in numbers)
        return self._hosts

    @property
    def spans_hosts(self) -> bool:
        """Whether there are ranks on several hosts; collective the first time."""
        return max(self.hosts) > 0

    @property
    def column(self) -> tuple[int, ...]:
        """The ranks that carry the same slice as this one across hosts; none where hosts have different numbers."""
        return next((column for column in columns_of(self.hosts) if self.rank in column), ())

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

    def everyones(self, array: Buffer) -> list[Buffer] | None:
        """Return all ranks' arrays that were made together with `array` by `shared_empty`; None where out of reach."""
        return self.host.arena.everyones(array) if self.shares_memory and self.host else None

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
                require(collective, algorithm)
                if algorithm == SHARED_MEMORY and self.world_size > 1 and not self.shares_memory:
                    raise ValueError(f"{collective}: {algorithm} needs all ranks on one host, and npdp's C kernels")
                found = algorithm
                if algorithm == HIERARCHICAL and self.shares_memory:  # on one host it is that
                    found = SHARED_MEMORY
            if len(self._chosen) == MOST_CHOSEN:
                self._chosen.clear()
            self._chosen[key] = found
        return found
