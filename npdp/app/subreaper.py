"""Ends processes that ranks leave behind: a loader's workers, or a program that a rank has started.

A child of a rank holds the pipe by which mpirun reads the rank's output. Where the rank dies before it, mpirun waits
for the end of that pipe, for ever. So the launcher becomes a subreaper: Linux makes it the parent of every process
below it that has lost its own. Those it ends.

    launcher ── mpirun ── rank ── worker        the rank dies:        launcher ── mpirun
                                                                          └────── worker     to be ended

Elsewhere than on Linux, and on other hosts than the launcher's, what ranks leave behind stays. A rank that itself waits
for its child at its end, as for a process of multiprocessing's that is no daemon, still runs, and is waited for.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import sys
from collections.abc import Callable, Iterator

from npdp.base import environment
from npdp.base.beside import looking_beside

PR_SET_CHILD_SUBREAPER = 36
LOOK_EVERY_S = 0.1


@contextlib.contextmanager
def orphans_ended(mpirun: int) -> Iterator[None]:
    """Kill, within, processes that a dead rank leaves behind; at the end, all that is left below this process.

    Args:
        mpirun: the process id of what starts the ranks, a child of this process.
    """
    if not _become_subreaper(True):
        yield
        return
    spared = {*_children(os.getpid()), mpirun}

    def look() -> bool:
        _end_orphans(spared, lambda orphan: _is_of_dead_rank(orphan, mpirun))
        return False

    try:
        with looking_beside(LOOK_EVERY_S, look, "npdp orphans"):
            yield
    finally:
        while _end_orphans(spared, lambda orphan: True):  # the death of one may leave others
            pass
        _become_subreaper(False)


def _end_orphans(spared: set[int], is_left: Callable[[int], bool]) -> bool:
    """Kill children of this process but those to be spared, where they are left over; return whether there was any."""
    left = [child for child in _children(os.getpid()) if child not in spared and is_left(child)]
    for orphan in left:
        try:
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)
        except PermissionError:  # it runs as another user
            spared.add(orphan)
        except (ProcessLookupError, ChildProcessError):  # the system took it away, as where SIGCHLD is ignored
            pass
    return bool(left)


def _become_subreaper(yes: bool) -> bool:
    """Make this process a subreaper, or no longer; return whether it was done."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    done: int = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)
    return done == 0


def _is_of_dead_rank(orphan: int, mpirun: int) -> bool:
    """Return whether the leader of an orphan's process group is gone: mpirun makes each rank the leader of one.

    An orphan with a group of its own may be a daemon that a living rank has started, so it goes with the last rank.
    """
    return not _runs(orphan) or not _runs(_group(orphan)) or (_is_of_rank(orphan) and not _has_rank(mpirun))


def _runs(process: int) -> bool:
    return _stat(process)[0] not in (b"", b"Z")


def _group(process: int) -> int:
    return int(_stat(process)[2])


def _stat(process: int) -> list[bytes]:
    """Return a process's state, parent and process group as the system has them; no state where it is gone."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:3]
    except OSError:
        return [b"", b"0", b"0"]


def _has_rank(process: int) -> bool:
    """Return whether a rank runs below a process."""
    return any(_is_of_rank(child) or _has_rank(child) for child in _children(process))


def _is_of_rank(process: int) -> bool:
    """Return whether a process is a rank, or has a rank's environment."""
    try:
        return any(environment.has_variable(process, names[0]) for names in environment.LAUNCHERS)
    except OSError:
        return False


def _children(process: int) -> list[int]:
    found: list[int] = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            found.extend(map(int, file.read().split()))
    return found
