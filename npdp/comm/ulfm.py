"""The MPI transport of a world that survives deaths of its ranks, under `mpirun --with-ft ulfm` of Open MPI 5.

    generation 0   ranks 0 1 2 3      MPI's world, and copies of it for data, notes, ...
                       2 dies         each survivor gets RankDied at its next wait, and calls `survivors()`
    generation 1   ranks 0 1 2        was 0, 1, 3: all communicators are new. Nothing old is repaired, or used again

A death on this host is seen by its process (exits.py), within 10 ms of waiting; one on another host by MPI's errors.
Any death ends the generation, whoever died. Where it is seen, the wait looks once more for what it waits for: what a
rank has posted in shared memory outlives it, so that survivors can finish that collective.

An exception is no death: it would come again on the others. The rank that has it ends all, and so do those that see its
mark (ending.py). They meet once more, so that ranks of all hosts know, and end with code 1 together.

MPI_Finalize may hang after a death, and is never called; MPI_Abort and an exit code do not end other ranks here.

Source: Bland et al., Post-failure recovery of MPI communication capability, 2013 (revoke, shrink, agree).
Cost: a new generation in about 10 ms; nothing otherwise.
"""

from __future__ import annotations

import copy
import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, TypeVar

from npdp.base import environment, stop_files
from npdp.base.beside import looking_beside
from npdp.comm.errors import CommunicationError, RankDied
from npdp.comm.failures.call_log import CallLog, LoggedCall
from npdp.comm.failures.ending import announce_failure, failure_is_announced
from npdp.comm.failures.exits import Exits
from npdp.comm.failures.forked import refused_after_fork
from npdp.comm.failures.vain_waits import nobody
from npdp.comm.mpi import MpiTransport
from npdp.comm.survival import FAILED, LEFT, Words
from npdp.comm.transport import Buffer
from npdp.comm.waiting import MESSAGES

LOOKS_EVERY_S = 0.01  # of waiting: a look costs some microseconds
# Until all survivors have met: one may be in the middle of a long forward, and comes when it waits next
LIMIT_S = 600.0
FAILING_LIMIT_S = 1.0  # where all end anyway; beside a rank that has left with a code Shrink does not end
STUCK_S = 5.0  # until MPI has made a new world of ranks that have all come, which takes milliseconds
WATCHED_EVERY_S = 0.25

T = TypeVar("T")


def _noticing(method: Callable[..., T]) -> Callable[..., T]:
    """Have MPI's errors about deaths raised as RankDied."""

    @wraps(method)
    def noticed(self: SurvivingTransport, *arguments: Any, **named: Any) -> T:
        try:
            return method(self, *arguments, **named)
        except self._mpi.Exception as error:
            raise self._meaning(error) from None

    return noticed


class SurvivingTransport(MpiTransport):
    """Transport of this process as a rank of a world that survives deaths.

    Attributes:
        launched: each rank's number at launch.
        said: what each rank said when they met last.
    """

    check_after_s = LOOKS_EVERY_S

    def __init__(self) -> None:
        super().__init__()
        self.stalls.kills = True
        self._generations: list[SurvivingTransport] = [self]  # shared by all of them
        self._generation = 0
        self.launched, self.said = list(range(self.world_size)), [()] * self.world_size
        self._base, self._communicators = self._making, [self._data, self._control, self._noting]
        self._meet(())
        stop_files.begin()

    # Messages
    send, receive = _noticing(MpiTransport.send), _noticing(MpiTransport.receive)
    wait, wait_any = _noticing(MpiTransport.wait), _noticing(MpiTransport.wait_any)

    def subworld(self, ranks: Sequence[int]) -> SurvivingTransport:
        try:
            made = super().subworld(ranks)
        except self._mpi.Exception as error:
            raise self._meaning(error) from None
        assert isinstance(made, SurvivingTransport)
        self._communicators += [made._data, made._noting]
        made._policy = MESSAGES.policy(len(self._here.intersection(ranks)))
        return made

    def native_allreduce(self, buffer: Buffer, op: str, call: LoggedCall) -> None:
        raise NotImplementedError("algorithm 'mpi' is MPI's own all-reduce: it does not survive deaths, use another")

    def ended(self, peers: list[int]) -> CommunicationError | None:
        if failure_is_announced():
            self._end_all()
        if died := self._exits.all():
            return RankDied([self.launched[rank] for rank in died])
        return self._ended_elsewhere(peers)

    _ended_elsewhere, compare_calls = _noticing(MpiTransport.ended), _noticing(MpiTransport.compare_calls)
    _heard = _noticing(MpiTransport._heard)

    def _meaning(self, error: BaseException) -> BaseException:
        """Return RankDied where this error of MPI's is about a death, else the error itself."""
        mpi = self._mpi
        about_deaths = (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED)
        if error.Get_error_class() not in about_deaths:  # type: ignore[attr-defined]
            return error
        return RankDied([self.launched[rank] for rank in self._exits.all()])

    # Generations
    def survivors(self, words: Words = ()) -> SurvivingTransport:
        """Return the transport of all ranks that live, after RankDied; collective over them.

        This one is of no use any more. Where a rank has failed, all end here.

        Args:
            words: what this rank tells the others.
        """
        tried = self._generations[-1:]
        with _limited(tried), tried[0].stalls.beside(tried[0]._others_that_live, tried[0]._give_up):
            made = self._new_generation(words, tried)
        if FAILED in made.said:
            made._end_now()
        return made

    def _new_generation(self, words: Words, tried: list[SurvivingTransport]) -> SurvivingTransport:
        """Return the transport of all ranks that live.

        Args:
            tried: the generation that is left; those in which a rank died while they were made are added.
        """
        while True:
            newest = tried[-1]
            newest._come()
            for communicator in (*newest._communicators, newest._base):
                communicator.Revoke()  # who waits for messages there gets an error
            made = newest._next(newest._base.Shrink())
            try:
                made._open()
                made._meet(words)
            except self._mpi.Exception as error:
                if not isinstance(made._meaning(error), RankDied):
                    raise
                tried.append(made)
                continue
            self._generations.append(made)
            return made

    def _others_that_live(self) -> tuple[list[int], str]:
        dead = self._exits.all()
        living = [rank for rank in range(self.world_size) if rank != self.rank and rank not in dead]
        return living, "a meeting after a death"

    def _give_up(self, why: object) -> None:
        announce_failure(f"rank {self.launched_as} failed: {why}\n", second_waits_s=0.0)
        os._exit(1)

    def _next(self, base: Any) -> SurvivingTransport:
        """Return the transport of a shrunk communicator, of which nothing is open yet but that."""
        made = copy.copy(self)
        made._generation += 1
        made._base = made._data = made._control = made._noting = made._making = base
        made.rank, made.world_size = base.Get_rank(), base.Get_size()
        made._ranks, made._communicators = list(range(made.world_size)), []
        made.find_elsewhere, made.wait_s = nobody, 0.0
        made.calls, made._notes = CallLog(made.rank, self._tags, made._heard), []
        made._worlds = [(made._ranks, made.calls)]
        return refused_after_fork(made)

    def _open(self) -> None:
        self._data, self._control, self._noting = self._communicators = [self._base.Dup() for _ in range(3)]

    def _meet(self, words: Words) -> None:
        """Tell the others who this rank is, and watch their processes; none goes on before all do."""
        mine = os.getpid(), self.host_number, self.launched_as, words
        everyones = self._base.allgather(mine)
        self.launched, self.said = [of[2] for of in everyones], [of[3] for of in everyones]
        self.stalls = self.stalls.among(self.launched, self.calls)
        here = {rank: of[0] for rank, of in enumerate(everyones) if of[1] == self.host_number and rank != self.rank}
        self._exits, self._here = Exits(here), {self.rank, *here}
        self._policy = MESSAGES.policy(len(self._here))
        self._base.Barrier()

    @property
    def launched_as(self) -> int:
        """This rank's number at launch."""
        return int(self._generations[0].rank)

    # Ends
    def _leave(self) -> None:
        newest = self._generations[-1]
        while not self._mpi.Is_finalized():
            try:
                MpiTransport._leave(newest)
            except self._mpi.Exception as error:
                if not isinstance(newest._meaning(error), RankDied):
                    raise
                newest = newest.survivors(LEFT)
                continue
            break
        stop_files.done()
        libc = ctypes.CDLL(None)
        libc.fflush(None)
        libc.on_exit(libc._exit, None)  # the process ends with its code, and nothing of MPI's is called any more

    def _abort(self, text: str) -> None:
        announce_failure(text, second_waits_s=0.0)
        self._end_all()

    def _end_all(self) -> NoReturn:
        """Tell all ranks that one has failed, and end with them, or alone where they do not come."""
        with looking_beside(FAILING_LIMIT_S, self._end_now, "npdp end"):
            self._new_generation(FAILED, self._generations[-1:])
            self._end_now()

    def _end_now(self) -> NoReturn:
        if sys.stdout is not None:
            sys.stdout.flush()
        os._exit(1)

    def _come(self) -> None:
        """Leave a mark that this rank is where survivors meet, for those of its host."""
        if (folder := environment.job_folder()) is not None:
            open(os.path.join(folder, self._mark(self.launched_as)), "w").close()

    def _all_have_come(self) -> bool:
        """Return whether all ranks that live have; False where some are on another host, which leave no marks here."""
        folder, dead = environment.job_folder(), self._exits.all()
        marks = {self._mark(number) for rank, number in enumerate(self.launched) if rank not in dead}
        return folder is not None and len(self._here) == len(self.launched) and marks <= {*os.listdir(folder)}

    def _mark(self, number: int) -> str:
        return f"npdp {environment.job_name()} rank {number} leaves generation {self._generation}"


@contextmanager
def _limited(where: list[SurvivingTransport]) -> Iterator[None]:
    """End this process where what is done within takes too long, or MPI does not get on though all have come.

    Args:
        where: the last of these is the generation that is left.
    """
    began_s = come_s = time.monotonic()

    def look() -> bool:
        nonlocal come_s
        now = time.monotonic()
        come_s = come_s if where[-1]._all_have_come() else now
        if now - come_s > STUCK_S:
            where[-1]._give_up(
                "MPI makes no new world of the ranks that are left: one has ended by itself, and was not killed"
            )
        elif now - began_s > LIMIT_S:
            where[-1]._give_up(
                f"the ranks that are left have not met within {LIMIT_S:g} s: one is stopped, or computes for long"
            )
        return False

    with looking_beside(WATCHED_EVERY_S, look, "npdp recovery"):
        yield
