"""A common address layout: all ranks of a host have the same addresses, where they outnumber its cores.

Linux puts every process somewhere else in memory, so that an intruder does not know where things are. But a processor
remembers where branches went by their addresses alone: ranks that take turns on a core each find that the others have
displaced what was remembered for them, and at the same addresses they find it learnt. Measured: docs/measurements.md.

NPDP_RANDOM_ADDRESSES=1 keeps the address layout random, of mpirun and of all that ranks start too. A
program of one's own gets the same layout where `npdp run` starts it, or `setarch -R mpirun`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from npdp.base import environment

RANDOM = "NPDP_RANDOM_ADDRESSES"
_BEGUN_AGAIN = "NPDP_BEGUN_AGAIN"
ADDR_NO_RANDOMIZE = 0x0040000  # of Linux's <sys/personality.h>
_ASK = 0xFFFFFFFF


def fixer() -> Callable[[], bool]:
    """Return a function for a process to call, so that what it executes next has the common address layout.

    That lasts through fork and exec. Nothing is done where the user wants addresses at random, or the system refuses,
    as in some containers, or is not Linux; the function returns whether it has changed anything. A `preexec_fn` may
    call it: all that must not be done between fork and exec is done here.
    """
    if os.environ.get(RANDOM, "0") not in ("", "0") or not sys.platform.startswith("linux"):
        return lambda: False
    import ctypes  # not at the top: only here, and it takes some milliseconds

    personality = ctypes.CDLL(None).personality
    personality.argtypes = [ctypes.c_ulong]

    def fix() -> bool:
        before: int = personality(_ASK)  # -1, which has every flag, where it is refused
        return not before & ADDR_NO_RANDOMIZE and personality(before | ADDR_NO_RANDOMIZE) >= 0

    return fix


def begin_again_at_same() -> None:
    """Execute this program again in the common address layout, where a launcher has started it and that helps.

    For a program's first step: what it has done until then is done twice. It returns where each rank has a core, where
    the user or the system will not have it, and where the program came from standard input or a pipe, now empty.
    """
    launched = environment.launch()
    alone_on_a_core = launched is None or launched.local_size <= environment.cores_of_job()
    can_be_read_again = sys.argv[0] == "-c" or os.path.isfile(sys.argv[0])
    if alone_on_a_core or not can_be_read_again or os.environ.get(_BEGUN_AGAIN) == str(os.getpid()) or not fixer()():
        return
    os.environ[_BEGUN_AGAIN] = str(os.getpid())  # which exec keeps; of a setgid interpreter it drops the rest
    with contextlib.suppress(OSError):  # an interpreter that is not where it says
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
