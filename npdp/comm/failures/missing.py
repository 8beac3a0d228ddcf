"""Detection of ranks that have not come to `npdp.init()`, by a rank that waits for them there.

MPI waits for all ranks when it begins: in silence, and for ever where one has left the program before. It also holds
Python's lock meanwhile, so ranks look for each other before it begins, by files in the job's own directory.
"""

from __future__ import annotations

import os
import sys
import time

from npdp.base import environment

SAID_AFTER_S = 5.0
LOOK_EVERY_S = 0.005


def say_who_is_missing(launched: environment.Launch) -> None:
    """Wait until all ranks have come here, or for 5 s; then the first that is here says who is not.

    Nothing is said where ranks are on several hosts, or the job has no directory: under an mpirun of MPICH or Intel MPI
    that was typed by hand.
    """
    folder = environment.job_folder()
    if folder is None or launched.local_size < launched.world_size:
        return
    until = time.monotonic() + SAID_AFTER_S
    try:
        open(os.path.join(folder, _name(launched.rank)), "w").close()
        while missing := _missing(folder, launched.world_size):
            if time.monotonic() >= until:
                break
            time.sleep(LOOK_EVERY_S)
    except OSError:
        return
    if missing and launched.rank == min({*range(launched.world_size)} - {*missing}) and sys.stderr is not None:
        who = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        sys.stderr.write(f"npdp: rank {launched.rank} waits in init() for {who}: not come yet, or ended before it\n")
        sys.stderr.flush()


def _missing(folder: str, world_size: int) -> list[int]:
    here = {*os.listdir(folder)}
    return [rank for rank in range(world_size) if _name(rank) not in here]


def _name(rank: int) -> str:
    return f"npdp {environment.job_name()} rank {rank}"
