"""Choice of a collective's algorithm: the one asked for, else the communicator's, else the cheapest.

A collective is prepared once: what was chosen for its kind, size, dtype, ... is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from npdp.collectives.algorithms import HIERARCHICAL, SHARED_MEMORY, Algorithm, algorithms_of, require
from npdp.collectives.auto import cheapest
from npdp.collectives.constants import Constants, constants
from npdp.collectives.host import Host
from npdp.collectives.host_memory import HostMemory
from npdp.collectives.own import proven
from npdp.collectives.topology import Topology
from npdp.comm.call import Call
from npdp.comm.transport import Buffer, Transport

MOST_PREPARED = 4096  # collectives that are kept


class Prepared(NamedTuple):
    """Prepared steps, shared by all collectives of the same kind, size, ...

    Attributes:
        algorithm, call: what was chosen; what ranks compare.
        host, words: of one through shared memory, what carries it out, and the call as the kernel takes it.
    """

    algorithm: str
    call: Call
    host: Host | None
    words: tuple[int, int, int, int] | None


class Chooser:
    """Chooser of algorithms for one rank of a communicator; its choice is the same on all of them.

    Attributes:
        prepared: collectives by what they are called with; see `Communicator.run`.
    """

    def __init__(self, transport: Transport, topology: Topology, memory: HostMemory) -> None:
        self._transport, self._topology, self._memory = transport, topology, memory
        self._constants: Constants | None = None
        self.prepared: dict[tuple[Any, ...], Prepared] = {}

    @property
    def constants(self) -> Constants:
        """Constants of this machine, from rank 0: measured before, or built in; collective the first time."""
        if self._constants is None:
            self._constants = constants(self._transport, self._topology.hosts)
        return self._constants

    def use(self, constants: Constants) -> None:
        """Choose by other constants from now on; all ranks by the same."""
        self._constants, self.prepared = constants, {}

    def prepare(self, key: tuple[Any, ...], buffer: Buffer) -> Prepared:
        """Return, and keep, what is the same for all collectives of this key."""
        kind, count, _, op, root, order, label, algorithm, default = key
        chosen = self.choose(kind, buffer.nbytes, algorithm, default, root)
        call = Call(kind, count, buffer.dtype.name, op, root, order, label, chosen)
        host = self._memory.host if chosen == SHARED_MEMORY else None
        words = host.words(call, buffer.dtype) if host is not None else None
        if len(self.prepared) == MOST_PREPARED:
            self.prepared.clear()
        prepared = self.prepared[key] = Prepared(chosen, call, host, words)
        return prepared

    def choose(self, kind: str, nbytes: int, algorithm: Algorithm | None, default: Algorithm, root: int = 0) -> str:
        """Return the name of what carries out a collective of so many bytes.

        Args:
            algorithm: the one asked for; where None, `default` if this kind has it, else auto. A function is of the
                kind that it is given to; as a default it is an all-reduce's.
            root: of a broadcast.

        Raises:
            ValueError: there is none of this name, these ranks cannot use it, or a function's schedule is wrong.
        """
        memory, alone = self._memory, self._transport.world_size == 1
        if algorithm is None:
            has_it = kind == "allreduce" if callable(default) else default in algorithms_of(kind)
            algorithm = default if has_it else "auto"
        if callable(algorithm):
            return proven(kind, algorithm, self._transport.world_size, root)
        if algorithm == "auto":
            return cheapest(kind, nbytes, self._topology.hosts, self.constants.machine, memory.host is not None)
        require(kind, algorithm)
        if algorithm == SHARED_MEMORY and not alone and not memory.is_of_all:
            raise ValueError(f"{kind}: {algorithm} needs all ranks on one host, and npdp's C kernels")
        return SHARED_MEMORY if algorithm == HIERARCHICAL and memory.is_of_all else algorithm  # on one host it is that
