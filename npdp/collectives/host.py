"""Collectives inside a host: a C kernel over memory that its ranks map (csrc/shared_memory.c), no messages.

    memory  | lines and slots, by which ranks meet | arrays (arena.py) ...

Each rank sums its chunk over all ranks' arrays, straight into all of them. Arrays that lie elsewhere pass through slots
in segments. `Host` is the ranks of a host as one of them sees them.

Cost: S bytes read and S written a rank, as much as copying S bytes; two posts (see the kernel).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from npdp import kernels
from npdp.base.partition import rounded_up
from npdp.collectives.arena import Arena
from npdp.collectives.execute import execute, rank_steps
from npdp.comm.call import FORTRAN, Call, label_number, label_of
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import LoggedCall, different
from npdp.comm.shared_memory import MemoryHandle, SharedMemory, find, make
from npdp.comm.transport import Buffer, Transport
from npdp.comm.waiting import MEMORY, MEMORY_BESIDE_LINK

SLOT_BYTES = 512 << 10  # of a staging slot at most; a rank has room for four: measured, docs/measurements.md


class Host:
    """The ranks of one host, as one of them sees them, with their shared memory.

    Args:
        memory: what all of them map.
        transport: of the world; how it is known whether a rank has failed or left.
        ranks: their numbers in the world.
        first: the byte of the memory from which on arrays may lie.

    Attributes:
        ranks: as given.
        rank: this one's index among them.
        kernel: what carries out their collectives.
        arena: the arrays in their memory.
    """

    def __init__(self, memory: SharedMemory, transport: Transport, ranks: list[int], first: int) -> None:
        from npdp.kernels import shared_memory as kernel  # where there is a compiler

        self.ranks, self.rank = ranks, ranks.index(transport.rank)
        self._peers = [rank for rank in ranks if rank != transport.rank]
        self._transport = transport
        self._codes = kernel  # what its calls return: DONE, WAITING, DIFFERENT or UNFINISHED
        waiting = MEMORY if len(ranks) == transport.world_size else MEMORY_BESIDE_LINK
        spins, yields = waiting.policy(len(ranks))
        self.kernel = kernel.HostRank(memory.memory, self.rank, len(ranks), _slot_bytes(len(ranks)), spins, yields)
        self.arena = Arena(memory, first, self)
        transport.find_elsewhere = self._elsewhere

    def _elsewhere(self, awaited: list[int], call: LoggedCall | None) -> int | None:
        """Return a rank of this host because of which this one waits in vain, in `call`, for those awaited.

        It is in a shared-memory collective that this rank has not begun, and waits there for this one. Either it is
        one of those awaited, or it has not begun `call` either, which then never ends.
        """
        number = 0 if call is None else call.number  # of a message of no call nothing can be told
        ahead = [(index, rank) for index, rank in enumerate(self.ranks) if self.kernel.is_ahead(index)]
        vain = (rank for index, rank in ahead if rank in awaited or 0 <= self.kernel.said(index) < number)
        return next(vain, None)

    def collective(self, kind: str, buffer: Buffer, op: str = "sum", label: str = "", order: str = "C") -> None:
        """Carry out `kind` on a 1-D contiguous buffer, in place, a broadcast from the host's first rank; collective.

        Raises:
            CommunicationError: another rank has called something else, or has left; or the last one was not finished.
        """
        self.carry_out(self.words(Call(kind, 0, "", op, 0, order, label), buffer.dtype), buffer)

    def carry_out(self, words: tuple[int, int, int, int], buffer: Buffer) -> None:
        """Carry out a call on a 1-D contiguous buffer, in place; collective over the host's ranks."""
        status = self.kernel.start(words, buffer)
        if status:
            self.finish(status)

    def words(self, call: Call, dtype: np.dtype[Any]) -> tuple[int, int, int, int]:
        """Return a call as the kernel takes it."""
        root_or_label = call.root if call.kind == "broadcast" else label_number(call.label)
        return self._codes.words_of(call.kind, dtype, call.op, call.order == FORTRAN, root_or_label)

    def finish(self, status: int) -> None:
        """Finish a collective whose kernel call returned this status.

        Raises:
            CommunicationError: as `collective`.
        """
        if status == self._codes.WAITING:
            self.kernel.say(self._transport.calls.begun)
        since = time.perf_counter()
        while status == self._codes.WAITING:
            error = self._transport.ended(self._peers) or self._transport.compare_calls()
            error = error or self._transport.stalls.too_long(since, self._awaited)
            status = self.kernel.test()  # the others may have done their part before they left
            if error is not None and status == self._codes.WAITING:
                raise error
        if status == self._codes.DIFFERENT:
            other = self.kernel.different
            raise different(self._transport.rank, self._called(self.rank), self.ranks[other], self._called(other))
        if status == self._codes.UNFINISHED:
            raise CommunicationError(
                f"rank {self._transport.rank} calls a collective, but its last one, {self._called(self.rank)}, "
                "is not done: it has failed, was interrupted, or is under way in another thread"
            )

    def _awaited(self) -> tuple[list[int], str]:
        late = [rank for index, rank in enumerate(self.ranks) if self.kernel.is_behind(index)]
        return late, self._called(self.rank)

    def _called(self, rank: int) -> str:
        return str(call_of(*self.kernel.call_of(rank)))


def call_of(kind: str, count: int, dtype: str, op: str, fortran: bool, root_or_label: int) -> Call:
    """Return the call that the kernel says that a rank is in."""
    is_broadcast = kind == "broadcast"
    root, label = (root_or_label, "") if is_broadcast else (0, label_of(root_or_label))
    return Call(kind, count, dtype, op, root, FORTRAN if fortran else "C", label)


def _slot_bytes(ranks: int) -> int:
    """Return the bytes of a slot: each rank's chunk of it is whole cache lines."""
    return rounded_up(SLOT_BYTES, 64 * ranks)


def open_host(transport: Transport) -> Host | None:
    """Return this rank's host, or None where a host of this world cannot share memory; collective over the world.

    It takes C kernels and Linux, and that a host's ranks find each other's processes. Those in two containers may not,
    or find others, though both carry the host's name: the token in the memory shows it.
    """
    able = kernels.backend() == "c" and hasattr(os, "memfd_create")
    hosts = gather(transport, [transport.host_number if able else -1 - transport.rank])[:, 0]
    if (hosts < 0).any():
        return None
    ranks = [int(rank) for rank in np.flatnonzero(hosts == hosts[transport.rank])]
    from npdp.kernels import shared_memory as kernel

    header_bytes = rounded_up(kernel.header_bytes(len(ranks), _slot_bytes(len(ranks))), mmap.PAGESIZE)
    made = make(header_bytes) if ranks[0] == transport.rank else None
    handles = gather(transport, made[1] if made else MemoryHandle(0, 0, 0, 0))
    memory = made[0] if made else find(MemoryHandle(*handles[ranks[0]].tolist()), header_bytes)
    found = gather(transport, [memory is not None])
    if memory is None or not found.all():
        return None
    return Host(memory, transport, ranks, header_bytes + mmap.PAGESIZE)  # behind the page with the token


def gather(transport: Transport, numbers: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return every rank's numbers, a row each; by messages, for there is no other way yet."""
    rows = np.zeros((transport.world_size, len(numbers)), np.int64)
    rows[transport.rank] = numbers
    flat = rows.reshape(-1)
    steps = rank_steps("allgather", "ring", transport.world_size, transport.rank, flat.size, flat.itemsize)
    execute(steps, transport, flat, Call("allgather", flat.size, "int64", label="its first that may share memory"))
    return rows
