"""Topology of a communicator: each rank's host, and the cross-host groups, which carry a slice between hosts.

    hosts              (0, 0, 1, 1)        of ranks 0, 1, 2, 3
    cross-host groups  (0, 2), (1, 3)      one rank of each host
"""

from __future__ import annotations

from npdp.collectives.cost import Hosts
from npdp.collectives.hierarchical import columns_of
from npdp.collectives.host import gather
from npdp.comm.transport import Transport


class Topology:
    """The hosts of a communicator's ranks; found out, collectively, when first asked for."""

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
        """True if there are ranks on several hosts."""
        return max(self.hosts) > 0

    @property
    def cross_host_group(self) -> tuple[int, ...]:
        """The ranks that carry this rank's slice across hosts; none where hosts have unequal numbers of ranks."""
        return next((ranks for ranks in columns_of(self.hosts) if self._transport.rank in ranks), ())
