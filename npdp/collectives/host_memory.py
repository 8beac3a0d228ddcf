"""Shared memory of a host's ranks, made, collectively, when it is first asked for."""

from __future__ import annotations

from npdp.collectives.host import Host, open_host
from npdp.comm.transport import Buffer, Transport


class HostMemory:
    """Shared memory of the host of one rank of a communicator.

    Attributes:
        opened: the same as `host`, but None before it is asked for.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._is_open = transport.world_size == 1
        self.opened: Host | None = None

    @property
    def host(self) -> Host | None:
        """The ranks of this rank's host and their memory; None where they share none."""
        if not self._is_open:
            self._is_open = True
            self.opened = open_host(self._transport)
        return self.opened

    @property
    def is_of_all(self) -> bool:
        """True if all ranks of the communicator share it."""
        host = self.host
        return host is not None and len(host.ranks) == self._transport.world_size

    def everyones(self, array: Buffer) -> list[Buffer] | None:
        """Return all ranks' arrays that were made together with `array` by `shared_empty`; None where out of reach."""
        return self.host.arena.everyones(array) if self.is_of_all and self.host else None

    def forget(self) -> None:
        """Drop the memory: there is none from now on."""
        self.opened, self._is_open = None, True
