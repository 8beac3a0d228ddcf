"""The transport over a process group of PyTorch's (gloo): for ranks that torchrun started, which have no MPI.

    process group   messages between ranks, as gloo carries them; rank, world size
    this host       ranks whose processes end are found by their ids (comm/failures/exits.py)

gloo cannot be asked whether a message has come, only told to wait for it; it says at once when the other process has
ended, and gives up when the process group's own time limit is over.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from npdp.comm.errors import CommunicationError
from npdp.comm.failures.board import ProcessBoard
from npdp.comm.failures.call_log import CallLog, LoggedCall
from npdp.comm.failures.exits import Exits
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.failures.stalls import Stalls
from npdp.comm.failures.vain_waits import FindElsewhere, nobody
from npdp.comm.transport import Buffer

TAGS = range(2**14, 2**31)  # of messages of collectives; a program's own have small ones, as a rule
ONLY_HOOKS = "a world over PyTorch's process group carries all-reduces alone: this needs MPI, or threads"


class TorchTransport:
    """Transport of this process as a rank of a process group on gloo; collective over the group when it is made."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._ranks = group, dist.get_process_group_ranks(group)  # in torch's default group
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)
        self.name = "PyTorch's gloo"
        self.wait_s = 0.0
        self.find_elsewhere: FindElsewhere = nobody
        self.calls = CallLog(self.rank, TAGS)
        host = hashlib.blake2b(socket.gethostname().encode(), digest_size=8).digest()
        self.host_number = int.from_bytes(host, "little") >> 1  # fits into an int64, for messages
        everyones = self._everyones((self.host_number, os.getpid()))
        here = {rank: process for rank, (host_of, process) in enumerate(everyones) if host_of == self.host_number}
        self._exits = Exits({rank: process for rank, process in here.items() if rank != self.rank})
        board = ProcessBoard(self.rank, self._everyones)
        self.stalls = Stalls(board, range(self.world_size), self.rank, self.calls)
        refused_after_fork(self)

    def _everyones(self, mine: Any) -> list[Any]:
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, mine, self._group)
        return found

    def send(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Any:
        tag = TAGS.start if call is None else call.tag
        return dist.isend(torch.from_numpy(buffer), self._ranks[peer], self._group, tag), peer

    def receive(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Any:
        tag = TAGS.start if call is None else call.tag
        return dist.irecv(torch.from_numpy(buffer), self._ranks[peer], self._group, tag), peer

    def wait(self, handle: Any) -> None:
        work, peer = handle
        before = time.perf_counter()
        try:
            work.wait()
        except RuntimeError as error:
            raise CommunicationError(
                f"rank {self.rank} waits for a message from or to rank {peer}, which has ended, or does not call the "
                f"same collectives; gloo says: {str(error).partition('] ')[2] or error}"
            ) from None
        self.wait_s += time.perf_counter() - before

    def ended(self, peers: list[int]) -> CommunicationError | None:
        ended = self._exits.among(peers)
        if ended is None:
            return None
        return CommunicationError(
            f"rank {self.rank} waits for rank {ended}, whose process has ended: "
            "it has failed, or the ranks do not call the same collectives"
        )

    def compare_calls(self) -> CommunicationError | None:
        return None  # inside a host the kernel compares them, across hosts messages of different calls never meet

    def fail(self, error: BaseException) -> None:
        raise error

    def wait_any(self, handles: Sequence[Any]) -> int:
        raise NotImplementedError(ONLY_HOOKS)

    def subworld(self, ranks: Sequence[int]) -> TorchTransport:
        raise NotImplementedError(ONLY_HOOKS)

    def native_allreduce(self, buffer: Buffer, op: str, call: LoggedCall) -> None:
        raise NotImplementedError(ONLY_HOOKS)
