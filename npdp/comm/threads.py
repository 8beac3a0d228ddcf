"""A world inside one process: a thread per rank, for tests, examples and notebooks, with no launcher.

A send meets its receive: nothing is buffered, whoever comes second copies. That is the strictest thing that
MPI may do, so what runs here needs no luck there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from npdp.comm.errors import CommunicationError, RankDied, WorldEnded
from npdp.comm.failures.board_of_threads import watched
from npdp.comm.failures.call_log import CallLog, LoggedCall, different
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.failures.stalls import Stalls
from npdp.comm.failures.vain_waits import FindElsewhere, nobody, why_in_vain
from npdp.comm.survival import Words
from npdp.comm.thread_deaths import Death, Meeting
from npdp.comm.transport import Buffer, wrong_message
from npdp.comm.waiting import MESSAGES, wait_until

T = TypeVar("T")
Space = tuple[object, ...]  # names a world whose messages meet no others
LOOK_UP_S = 0.05  # how often a waiting rank looks whether another has failed or left


class _Message:
    """A send or a receive that waits for its other half; `arrived` is locked until it has met it."""

    __slots__ = ("arrived", "buffer", "call", "error", "peer")

    def __init__(self, buffer: Buffer, peer: int, call: LoggedCall | None) -> None:
        self.buffer, self.peer, self.call = buffer, peer, call
        self.error: str | None = None
        self.arrived = threading.Lock()
        self.arrived.acquire()


class _Channel:
    """Channel of messages from one rank to another, in order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sends: deque[_Message] = deque()
        self.receives: deque[_Message] = deque()


class ThreadWorld:
    """The shared state of a world of threads; `hosts` has each rank's host, all one where None."""

    def __init__(self, world_size: int, hosts: Sequence[int] | None = None) -> None:
        self.world_size = world_size
        self.hosts = [0] * world_size if hosts is None else list(hosts)
        if len(self.hosts) != world_size or min(self.hosts) < 0:
            raise ValueError(f"{world_size} ranks need as many hosts, numbers from 0 on, got {self.hosts}")
        self.channels: dict[tuple[Space, int, int], _Channel] = defaultdict(_Channel)
        self.calls: dict[tuple[Space, int], CallLog] = {}
        self.lock = threading.Lock()
        self.failure: tuple[int, BaseException] | None = None  # the first rank that failed
        self.left: set[int] = set()
        self.stalls: dict[int, Stalls] = {}
        self.meeting = Meeting(world_size)

    def channel(self, space: Space, source: int, target: int) -> _Channel:
        with self.lock:
            return self.channels[space, source, target]

    def fail(self, rank: int, error: BaseException) -> None:
        with self.lock:
            self.failure = self.failure or (rank, error)


class ThreadTransport:
    """Transport of one rank of a world of threads."""

    name = "threads of one process"

    def __init__(
        self, world: ThreadWorld, rank: int, ranks: Sequence[int] | None = None, space: Space = ()
    ) -> None:
        """Join `ranks` of the world (all where None) as the `rank`-th of them."""
        self._ranks = list(range(world.world_size)) if ranks is None else list(ranks)
        self.world, self.rank, self.world_size = world, rank, len(self._ranks)
        self.host_number = world.hosts[self._ranks[rank]]
        self.wait_s = 0.0
        self.find_elsewhere: FindElsewhere = nobody
        self._space, self._subworlds = space, Counter[tuple[int, ...]]()
        mine = self._ranks[rank]
        self.launched, self.said = self._ranks, list[Words]()
        self.calls = world.calls[space, mine] = CallLog(rank)
        self.stalls = watched(world, mine).among(self._ranks, self.calls)
        self._to = [world.channel(space, mine, peer) for peer in self._ranks]
        self._from = [world.channel(space, peer, mine) for peer in self._ranks]
        refused_after_fork(self)

    def subworld(self, ranks: Sequence[int]) -> ThreadTransport:
        among = tuple(self._ranks[rank] for rank in ranks)
        self._subworlds[among] += 1  # counted alike on each of them: they all make the same ones, in the same order
        space = (self._space, among, self._subworlds[among])
        made = type(self)(self.world, list(ranks).index(self.rank), among, space)
        made.launched = self.launched  # any death matters
        return made

    def send(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> _Message:
        message, channel = _Message(buffer, peer, call), self._to[peer]
        with channel.lock:
            if channel.receives:
                _meet(message, channel.receives.popleft(), self.rank, peer)
            else:
                channel.sends.append(message)
        return message

    def receive(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> _Message:
        message, channel = _Message(buffer, peer, call), self._from[peer]
        with channel.lock:
            if channel.sends:
                _meet(channel.sends.popleft(), message, peer, self.rank)
            else:
                channel.receives.append(message)
        return message

    def wait(self, handle: _Message) -> None:
        error = None
        if not handle.arrived.acquire(blocking=False):
            before = time.perf_counter()
            error = self._wait_until_met(handle, before)
            self.wait_s += time.perf_counter() - before
        if handle.error:
            error = CommunicationError(handle.error)
        if error is not None:
            raise error

    def wait_any(self, handles: Sequence[_Message]) -> int:
        def arrived() -> int | None:
            return next((number for number, handle in enumerate(handles) if not handle.arrived.locked()), None)

        if arrived() is None:
            before, peers = time.perf_counter(), [handle.peer for handle in handles]
            wait_until(lambda: arrived() is not None, MESSAGES.shared_core, lambda: why_in_vain(self, peers, before))
            self.wait_s += time.perf_counter() - before
        number = arrived()
        assert number is not None
        self.wait(handles[number])
        return number

    def _wait_until_met(self, handle: _Message, since: float) -> BaseException | None:
        """Return when it has; or why it never will."""
        while not handle.arrived.acquire(timeout=LOOK_UP_S):
            error = why_in_vain(self, [handle.peer], since, handle.call)
            if error:  # what came just before counts
                return None if handle.arrived.acquire(blocking=False) else error
        return None

    def compare_calls(self) -> CommunicationError | None:
        for rank, thread in enumerate(self._ranks):
            calls = self.world.calls.get((self._space, thread))
            note = calls.note() if calls is not None else ""
            error = self.calls.compare(rank, note) if note else None
            if error is not None:
                return error
        return None

    def fail(self, error: BaseException) -> None:
        self.world.fail(self._ranks[self.rank], error)

    def ended(self, peers: list[int]) -> BaseException | None:
        if self.world.failure:
            ended = WorldEnded()
            ended.__cause__ = self.world.failure[1]
            return ended
        if died := self.world.meeting.dead.intersection(self.launched):
            return RankDied(sorted(died))
        left = next((peer for peer in peers if self._ranks[peer] in self.world.left), None)
        if left is None:
            return None
        return CommunicationError(
            f"rank {self.rank} waits for rank {left}, which has left: the ranks do not call the same collectives"
        )

    def survivors(self, words: Words = ()) -> ThreadTransport:
        """Return the transport of all ranks that live, after RankDied; collective over them. See ulfm.py."""
        generation, said = self.world.meeting.meet(self._ranks[self.rank], words, self.world)
        ranks = sorted(said)
        made = type(self)(self.world, ranks.index(self._ranks[self.rank]), ranks, ("generation", generation))
        made.said = [said[rank] for rank in ranks]
        return made

    def native_allreduce(self, buffer: Buffer, op: str, call: LoggedCall) -> None:
        raise NotImplementedError("algorithm 'mpi' is MPI's own all-reduce: a world of threads has none")


def _meet(send: _Message, receive: _Message, source: int, target: int) -> None:
    """Copy from a send into its receive, and end both."""
    error, wanted, got = None, receive.buffer, send.buffer
    if send.call is not None and receive.call is not None and send.call != receive.call:
        error = str(different(target, str(receive.call.call), source, str(send.call.call)))
    elif wanted.nbytes != got.nbytes or wanted.dtype != got.dtype:
        error = wrong_message(wanted, got.nbytes, wanted.dtype == got.dtype, target, source)
    else:
        np.copyto(wanted, got)
    for message in (send, receive):
        message.error = error
        message.arrived.release()


def run_threads(
    world_size: int,
    program: Callable[[ThreadTransport], T],
    hosts: Sequence[int] | None = None,
    transport: type[ThreadTransport] = ThreadTransport,
) -> list[T]:
    """Run `program(transport)` on every rank, a thread each; return what each returned, in rank order.

    Args:
        hosts: each rank's host, a number, as if there were several; only ranks of one host share memory.
        transport: the class.

    Raises:
        Exception: the first that a rank raised, that rank in its `npdp_rank`; the other ranks are ended.
    """
    if world_size < 1:
        raise ValueError(f"a world needs at least 1 rank, got {world_size}")
    world = ThreadWorld(world_size, hosts)
    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = program(transport(world, rank))
        except WorldEnded:
            pass
        except Death:
            world.meeting.die(rank)
        except BaseException as error:
            if not isinstance(error, SystemExit) or error.code:
                error.npdp_rank = rank  # type: ignore[attr-defined]
                world.fail(rank, error)
        finally:
            world.left.add(rank)

    ranks = range(world_size)
    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in ranks]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C, or no thread to be had: the ranks end at their next wait
        world.fail(-1, error)
        raise
    if world.failure:
        raise world.failure[1]
    return results
