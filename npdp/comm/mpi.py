"""The MPI transport: a world of MPI processes. The only file that imports mpi4py.

Besides messages it brings what MPI lacks: an exception on one rank ends all of them (ending.py), and a rank
that waits for one that has left is told so.
"""

from __future__ import annotations

import copy
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from npdp.base import environment
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.board import ProcessBoard
from npdp.comm.failures.call_log import MESSAGE, CallLog, LoggedCall, different
from npdp.comm.failures.ending import (
    announce_failure,
    end_on_exceptions,
    end_with_launcher,
    need_no_mpi_segments,
    remove_mpi_segments,
)
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.failures.missing import say_who_is_missing
from npdp.comm.failures.stalls import Stalls
from npdp.comm.failures.vain_waits import FindElsewhere, nobody, why_in_vain
from npdp.comm.transport import Buffer, wrong_message
from npdp.comm.waiting import CHECK_AFTER_S, MESSAGES, wait_until

TAG_LEFT = 1
CALL_BYTES = 128  # of what a rank says of a call before MPI carries it out
MOST_ELEMENTS = 2**30  # MPI counts elements in 32 bits; what is larger goes in several calls


# What Open MPI is told where all ranks share a host and the user has not said anything (measured: docs/measurements.md)
ON_ONE_HOST = {
    "OMPI_MCA_btl": "^ofi",  # this component costs a second at start-up
    "OMPI_MCA_mtl": "^ofi",
    "OMPI_MCA_btl_sm_eager_limit": "32768",  # 4096 by default; an exchange of 8 KB then takes 11 us, not 18
}
# And where /dev/shm has room for all ranks' memory, twice, to be safe: without tcp no rank listens on the network. Open
# MPI reaches another job by tcp alone, so for MPI_Comm_spawn, or a rank's own mpirun on several hosts, users set ^ofi.
SHARED_MEMORY_ALONE = {"OMPI_MCA_btl": "^ofi,tcp"}
SEGMENT_BYTES = 2**24  # a rank's memory in /dev/shm, unless the user sets OMPI_MCA_btl_sm_segment_size
# And where they do not share one: a segment of 256 KB leaves at once, without asking whether it may come (by default
# 65536)
ACROSS_HOSTS = {"OMPI_MCA_btl_tcp_eager_limit": "524288"}


def _prepare_open_mpi(launched: environment.Launch) -> None:
    wanted = ON_ONE_HOST if launched.local_size == launched.world_size else ACROSS_HOSTS
    if wanted is ON_ONE_HOST and _shared_memory_suffices(launched.world_size):
        wanted = ON_ONE_HOST | SHARED_MEMORY_ALONE
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _shared_memory_suffices(ranks: int) -> bool:
    """Return whether Open MPI has room for its segments in /dev/shm; not where the user has set where, or how large."""
    if any(name.startswith("OMPI_MCA_btl_sm_") for name in os.environ):
        return False
    try:
        found = os.statvfs("/dev/shm")
    except OSError:  # not Linux
        return False
    return found.f_bavail * found.f_frsize >= 2 * ranks * SEGMENT_BYTES


def _load_mpi() -> Any:
    """Return MPI, to be finalized by this process alone: mpi4py has what it forks do so too, which waits for ever."""
    import mpi4py

    is_first = mpi4py.rc.finalize is None and "mpi4py.MPI" not in sys.modules
    if is_first:
        mpi4py.rc.finalize = False
    from mpi4py import MPI

    if is_first:
        environment.at_last(partial(_finalize, MPI))
    return MPI


def _finalize(mpi: Any) -> None:
    if not (mpi.Is_finalized() or environment.survives_deaths()):  # see ulfm.py
        mpi.Finalize()


class MpiTransport:
    """Transport of this process as a rank of MPI's world.

    Raises:
        RuntimeError: the launcher started several ranks but MPI sees one: mpirun and library do not match.
    """

    check_after_s = CHECK_AFTER_S  # of waiting, how often it looks whether it waits in vain

    def __init__(self) -> None:
        launched = environment.launch()
        if launched:
            _prepare_open_mpi(launched)
            if "mpi4py.MPI" not in sys.modules:  # which begins MPI
                say_who_is_missing(launched)
        self._mpi = mpi = _load_mpi()
        self.rank, self.world_size = mpi.COMM_WORLD.Get_rank(), mpi.COMM_WORLD.Get_size()
        if launched and launched.world_size != self.world_size:
            remove_mpi_segments()  # what Open MPI makes for a process without mpirun it leaves behind
            library = mpi.Get_library_version().split(",")[0].strip()
            raise RuntimeError(
                f"the launcher started {launched.world_size} ranks, MPI sees {self.world_size}: mpirun belongs to "
                f"another MPI than {library}; use the mpirun installed beside it"
            )
        self._policy = MESSAGES.policy(launched.local_size if launched else self.world_size)
        self._data = mpi.COMM_WORLD.Dup()
        self._control = mpi.COMM_WORLD.Dup()
        self._noting = self._data.Dup()  # for notes: one that is read late is not to be taken for data
        # For making subworlds: Open MPI does so by messages, for which it takes any that nobody has read yet
        self._making = mpi.COMM_WORLD.Dup()
        need_no_mpi_segments(lambda mine: bool(mpi.COMM_WORLD.allreduce(mine, mpi.LAND)))
        self._tags = range(MESSAGE.tag + 1, mpi.COMM_WORLD.Get_attr(mpi.TAG_UB) + 1)
        self._ops = {"sum": mpi.SUM, "min": mpi.MIN, "max": mpi.MAX, "prod": mpi.PROD}
        self._ranks = list(range(self.world_size))  # in MPI's world
        self.name = "MPI (" + " ".join(mpi.Get_library_version().replace(",", " ").split()[:3]) + ")"
        host = hashlib.blake2b(mpi.Get_processor_name().encode(), digest_size=8).digest()
        self.host_number = int.from_bytes(host, "little") >> 1  # fits into an int64, for messages
        self.find_elsewhere: FindElsewhere = nobody
        self.wait_s = 0.0
        self.calls = CallLog(self.rank, self._tags, self._heard)
        self.stalls = Stalls(ProcessBoard(self.rank, mpi.COMM_WORLD.allgather), self._ranks, self.rank, self.calls)
        self._worlds = [(self._ranks, self.calls)]  # this one, and all that are made of it: compared at the end
        self._notes: list[Any] = []  # requests of those that this rank has sent, kept until the next are sent
        end_on_exceptions(self.rank, self._abort, lambda: str(self.stalls.board.place))
        end_with_launcher()
        environment.at_last(self._leave)
        refused_after_fork(self)
        environment.become_rank()

    def send(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Any:
        tag = buffer.dtype.num if call is None else call.tag  # where there is no call the tag tells the dtype
        return self._data.Isend(buffer, peer, tag), None, peer, call

    def receive(self, buffer: Buffer, peer: int, call: LoggedCall | None = None) -> Any:
        tag = self._mpi.ANY_TAG if call is None else call.tag
        return self._data.Irecv(buffer, peer, tag), buffer, peer, call

    def wait(self, handle: Any) -> None:
        request, wanted, peer, call = handle
        status = self._mpi.Status()  # one transport may serve two threads
        try:
            if not request.Test(status):
                self._wait(lambda: request.Test(status), [peer], call)
        except self._mpi.Exception as error:
            if error.Get_error_class() != self._mpi.ERR_TRUNCATE:
                raise
            raise CommunicationError(wrong_message(wanted, None, True, self.rank, peer)) from None
        if wanted is not None:
            self._check(wanted, peer, status)

    def wait_any(self, handles: Sequence[Any]) -> int:
        requests, status, found = [request for request, *_ in handles], self._mpi.Status(), [-1]

        def arrived() -> bool:
            found[0], done = self._mpi.Request.Testany(requests, status)
            return bool(done)

        if not arrived():
            self._wait(arrived, [peer for _, _, peer, _ in handles])
        _, wanted, peer, _ = handles[found[0]]
        self._check(wanted, peer, status)
        return found[0]

    def _check(self, wanted: Buffer, peer: int, status: Any) -> None:
        """Raise CommunicationError where what came is not what was wanted."""
        tag = status.Get_tag()
        same_dtype = tag == wanted.dtype.num or tag >= MESSAGE.tag
        got_bytes = status.Get_count(self._mpi.BYTE)
        if got_bytes != wanted.nbytes or not same_dtype:
            raise CommunicationError(wrong_message(wanted, got_bytes, same_dtype, self.rank, peer))

    def subworld(self, ranks: Sequence[int]) -> MpiTransport:
        made = copy.copy(self)
        made._ranks = [self._ranks[rank] for rank in ranks]
        group = self._making.Get_group().Incl(made._ranks)
        made._data, made._noting = self._making.Create_group(group), self._making.Create_group(group)
        made.rank, made.world_size = list(ranks).index(self.rank), len(ranks)
        made.find_elsewhere, made.wait_s = nobody, 0.0
        made.calls, made._notes = CallLog(made.rank, self._tags, made._heard), []
        made.stalls = self.stalls.among(made._ranks, made.calls)
        self._worlds.append((made._ranks, made.calls))
        return refused_after_fork(made)

    def native_allreduce(self, buffer: Buffer, op: str, call: LoggedCall) -> None:
        self._require_same(call)
        for start in range(0, buffer.size, MOST_ELEMENTS):
            part = buffer[start : start + MOST_ELEMENTS]
            request = self._data.Iallreduce(self._mpi.IN_PLACE, part, self._ops[op])
            try:
                if not request.Test():
                    self._wait(request.Test, list(range(self.world_size)), call)
            except BaseException:
                self.calls.keep(part, request)
                raise

    def _require_same(self, call: LoggedCall) -> None:
        """Raise CommunicationError where ranks are about to call MPI in different calls: it would add what comes."""
        mine = f"{call.number} {call.call}".encode().ljust(CALL_BYTES)[:CALL_BYTES]
        everyones = bytearray(CALL_BYTES * self.world_size)
        request = self._data.Iallgather(mine, everyones)
        try:
            self._wait(request.Test, list(range(self.world_size)), call)
        except BaseException:
            self.calls.keep(mine, everyones, request)
            raise
        for rank in range(self.world_size):
            theirs = bytes(everyones[rank * CALL_BYTES : (rank + 1) * CALL_BYTES])
            if theirs != mine:
                (my_number, my_what), (number, what) = (note.decode().strip().split(" ", 1) for note in (mine, theirs))
                which = ("", "") if my_what != what else (f" as number {my_number}", f" as number {number}")
                raise different(self.rank, my_what + which[0], rank, what + which[1])

    def blocking_allreduce(self, buffer: Buffer, op: str) -> Callable[[], object]:
        """Return a call of MPI_Allreduce on a buffer, in place, for comparison: nothing can interrupt it."""
        parts = [buffer[start : start + MOST_ELEMENTS] for start in range(0, buffer.size, MOST_ELEMENTS)]
        calls = [partial(self._data.Allreduce, self._mpi.IN_PLACE, part, self._ops[op]) for part in parts]
        return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]

    def _wait(self, done: Callable[[], bool], peers: list[int], call: LoggedCall | None = None) -> None:
        before = time.perf_counter()
        wait_until(done, self._policy, lambda: why_in_vain(self, peers, before, call), self.check_after_s)
        self.wait_s += time.perf_counter() - before

    def fail(self, error: BaseException) -> None:
        sys.excepthook(type(error), error, error.__traceback__)

    def ended(self, peers: list[int]) -> CommunicationError | None:
        left = next((peer for peer in peers if self._control.Iprobe(self._ranks[peer], TAG_LEFT)), None)
        if left is None:
            return None
        return CommunicationError(
            f"rank {self.rank} waits for rank {left}, which has left the program: "
            "the ranks do not call the same collectives"
        )

    def compare_calls(self) -> CommunicationError | None:
        if self.calls.note_is_due():
            others, mine = set(range(self.world_size)) - {self.rank}, self.calls.note().encode()
            self._notes = [self._noting.Isend(mine, peer) for peer in others]
        return self._heard()

    def _heard(self) -> CommunicationError | None:
        """Read the others' notes; return the error to raise where one of them is in something else."""
        status = self._mpi.Status()
        while (coming := self._noting.Improbe(status=status)) is not None:
            note = bytearray(status.Get_count(self._mpi.BYTE))
            coming.Recv(note)
            error = self.calls.compare(status.Get_source(), note.decode())
            if error is not None:
                return error
        return None

    def _leave(self) -> None:
        """At the normal end of the program: tell the others, and wait for them, using no core; compare all calls."""
        if self._mpi.Is_finalized():
            return
        others = [peer for peer in range(self.world_size) if peer != self.rank]
        notices = [self._control.isend(self._last_notes(peer), peer, TAG_LEFT) for peer in others]
        barrier = self._control.Ibarrier()
        wait_until(barrier.Test, MESSAGES.shared_core, partial(self.stalls.at_the_end, others, self.fail))
        errors = [self._compared(peer, self._control.recv(source=peer, tag=TAG_LEFT)) for peer in others]
        self._mpi.Request.Waitall(notices)
        if (error := next(filter(None, errors), None)) is not None:
            self.fail(error)

    def _last_notes(self, peer: int) -> list[str]:
        return [calls.last_note() for ranks, calls in self._worlds if peer in ranks]

    def _compared(self, peer: int, notes: list[str]) -> CommunicationError | None:
        """Return the error to raise where a rank that leaves has called something else, in a world that it shares."""
        shared = [(ranks.index(peer), calls) for ranks, calls in self._worlds if peer in ranks]
        found = (calls.compare_all(rank, note) for (rank, calls), note in zip(shared, notes))
        return next(filter(None, found), None)

    def _abort(self, text: str) -> None:
        """End all ranks; the first to fail prints its traceback."""
        announce_failure(text)
        remove_mpi_segments()
        self._mpi.COMM_WORLD.Abort(1)
