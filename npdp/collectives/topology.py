"""Which rank is on which host, and which ranks carry the same slice between hosts.

    hosts              (0, 0, 1, 1)        of ranks 0, 1, 2, 3
    cross-host groups  (0, 2), (1, 3)      one rank of each host
"""

from __future__ import annotations

from npdp.collectives.cost import Hosts
from npdp.collectives.hierarchical import columns_of
from npdp.collectives.host import gather
from npdp.comm.transport import Transport


class Topology:
    """Where the ranks of a communicator are; found out, collectively, when it is first asked for."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._hosts: Hosts | None = None

    @property
    def hosts(self) -> Hosts:
        """Each rank's host: 0 for the first rank's, 1 for the next one, ..."""
        if self._hosts is None:
            numbers = gather(self._transport, [self._transport.host_number])[:, 0].tolist()
            index_of = {number: index for index, number in enumerate(dict.fromkeys(numbers))}
            self._hosts = tuple(index_of[number] for number in numbers)
        return self._hosts

    @property
    def spans_hosts(self) -> bool:
        """Whether there are ranks on several hosts."""
        return max(self.hosts) > 0

    @property
    def cross_host_group(self) -> tuple[int, ...]:
        """The ranks that carry the same slice as this one across hosts; none where hosts have different numbers."""
        return next((ranks for ranks in columns_of(self.hosts) if self._transport.rank in ranks), ())
