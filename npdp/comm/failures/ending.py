"""The end of a world when a rank fails: at once, everywhere, with one traceback.

An exception that nobody catches, in any thread, ends all ranks. Where several fail together the first one
speaks: it makes a file in the job's own directory, which the launcher removes at the end. Where there is no such
directory it takes a name that the operating system gives to one process only; that is free again when the process
ends, so a rank that fails a moment later, before it is ended too, may speak as well.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from npdp.base import environment

# As /proc/self/maps writes them: sm_segment.HOST.USER.JOB.RANK of Open MPI, mpich_shm_JOB_NUMBER of MPICH
MPI_SEGMENT = re.compile(r" (/dev/shm/(?:sm_segment\.\S+\.|mpich_shm_\S+_))\d+( \(deleted\))?$")
PR_SET_PDEATHSIG = 1
MARK = "npdp failure of "  # and the job's name: the file of the first rank to fail
ENDS_ITS_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")  # launchers whose ranks are children of theirs: Open MPI, MPICH
MOST_FAIL_TOGETHER = 4096  # ranks of a host, of which each asks who was first
SECOND_WAITS_S = 5.0  # a rank that fails second leaves the ending to the first, but not for ever

_claim: socket.socket | None = None  # kept until this process ends


def end_on_exceptions(rank: int, abort: Callable[[str], None], where: Callable[[], str] = str) -> None:
    """Make every uncaught exception of this process call `abort` with its traceback; SystemExit passes.

    What this process forks is no rank: an exception there is that child's own.

    Args:
        where: returns where the program is, as "backward of iteration 17"; empty where nobody knows.
    """
    process = os.getpid()

    def fail(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if os.getpid() != process:
            sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]
            return
        place = where() and f" in {where()}"
        abort(f"rank {rank} failed{place}:\n" + "".join(traceback.format_exception(kind, error, trace)))

    def fail_in_thread(arguments: Any) -> None:
        if arguments.exc_type is not SystemExit:
            fail(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    sys.excepthook = fail
    threading.excepthook = fail_in_thread


def end_on_exceptions_before_init() -> None:
    """Make an uncaught exception end all ranks before there is a world, too, where the launcher would not.

    The others would wait for this rank in `init()`, for ever. MPICH's launcher ends them where a signal has ended one.
    """
    launched = environment.launch()
    if launched is not None and not launcher_ends_all():
        end_on_exceptions(launched.rank, _be_killed)


def _be_killed(text: str) -> None:
    announce_failure(text)
    os.kill(os.getpid(), signal.SIGKILL)


def launcher_ends_all() -> bool:
    """Return whether the launcher ends all ranks when one leaves with a code that is not 0, as Open MPI's does.

    MPICH's and Intel MPI's let each come to its own end.
    """
    return "PMIX_NAMESPACE" in os.environ


def end_with_launcher() -> None:
    """Have the system kill this rank when the process that started it dies.

    A launcher that is itself killed (kill -9, out of memory) can no longer end its ranks: they would wait for ever, or
    train on unseen.
    """
    if any(name in os.environ for name in ENDS_ITS_RANKS):
        signal_when_parent_dies(signal.SIGKILL, os.getppid())()


def signal_when_parent_dies(number: signal.Signals, parent: int) -> Callable[[], None]:
    """Return what a process calls to get this signal when the thread that started it ends; outside Linux, a no-op.

    It lasts through exec. A `preexec_fn` may call it: all that must not be done between fork and exec is done here.
    A process whose parent has died already ends at once: nobody would signal it any more.

    Args:
        parent: the process id of the calling process's parent.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(128 + number)

    return arrange


def announce_failure(text: str, second_waits_s: float = SECOND_WAITS_S) -> None:
    """Print `text` unless another rank of this job, on this host, has spoken; then let that one end the job."""
    if sys.stdout is not None:  # as after >&-
        sys.stdout.flush()
    if _is_first():
        if isinstance(sys.stderr, io.StringIO) and sys.__stderr__ is not None:
            sys.stderr = sys.__stderr__  # PyTorch would write the buffer out after this process has ended
        sys.stderr.write(text)
        sys.stderr.flush()
    else:
        time.sleep(second_waits_s)


def remove_mpi_segments() -> None:
    """Take away the names of this job's shared memory, which MPI leaves in /dev/shm when a job is aborted.

    Ranks that still use that memory keep it until they end.
    """
    _remove(_mpi_segments()[1])


def need_no_mpi_segments(on_all_ranks: Callable[[bool], bool]) -> None:
    """Take these names away at the start, for a job that is killed has no time for it; collective.

    Nobody needs them once all ranks have mapped the memory, as with Open MPI and MPICH they have when they start. Where
    some have not, the names stay.

    Args:
        on_all_ranks: returns whether what it is given is true on all ranks; no rank goes on before all have come there.
    """
    mapped, named = _mpi_segments()
    if on_all_ranks(named <= mapped):
        _remove(named)


def _remove(paths: set[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # another rank was quicker
            os.unlink(path)


def _mpi_segments() -> tuple[set[str], set[str]]:
    """Return paths of MPI's shared memory: those that this process has mapped; those of the same jobs with a name."""
    try:
        with open("/proc/self/maps") as maps:
            found = [segment for line in maps if (segment := MPI_SEGMENT.search(line))]
    except OSError:  # not Linux: none is known
        found = []
    named = {path for job in {segment[1] for segment in found} for path in glob.glob(glob.escape(job) + "*")}
    return {segment[0].split()[0] for segment in found}, named


def failure_is_announced() -> bool:
    """Return whether a rank of this job, on this host, has failed; False where it has no directory."""
    mark = _mark_of_failure()
    return mark is not None and os.path.exists(mark)


def _mark_of_failure() -> str | None:
    """Return the file that the first rank to fail makes; None where the job has no directory."""
    folder = environment.job_folder()
    return folder and os.path.join(folder, MARK + environment.job_name())


def _is_first() -> bool:
    """Return whether this process is the first of its job, on this host, to ask."""
    mark = _mark_of_failure()
    if mark is None:
        return _takes_the_name()
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:
        return _takes_the_name()
    return True


def _takes_the_name() -> bool:
    """Return whether no other process of this user took the job's name first; without such names, always True.

    Another user may take it too, but is not to silence this one: whoever takes it listens, which tells who that is.
    """
    global _claim
    if not sys.platform.startswith("linux"):
        return True
    name = "\0" + MARK + environment.job_name()
    try:
        _claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _claim.bind(name)
        _claim.listen(MOST_FAIL_TOGETHER)
    except OSError:
        return _user_who_has(name) != os.geteuid()
    return True


def _user_who_has(name: str) -> int | None:
    """Return the user whose process listens under a name; None where none does."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.setblocking(False)  # where more ask than it lets wait, nobody is known
        other.connect(name)
        _, user, _ = struct.unpack("3i", other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(user)
    return None
