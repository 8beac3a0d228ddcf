"""Under mpirun: rank 1 starts a child that would outlive it and hold its output, and ends in some way.

    python orphans.py ENDING CHILD
"""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import npdp

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]


def sleep():
    time.sleep(1000)


CHILDREN = {
    "program": lambda: subprocess.Popen(SLEEP),
    "program_in_a_session_of_its_own": lambda: subprocess.Popen(SLEEP, start_new_session=True),
    "worker": multiprocessing.get_context("fork").Process(target=sleep, daemon=True).start,
    "program_of_a_thread": lambda: threading.Thread(target=subprocess.run, args=(SLEEP,), daemon=True).start(),
}
ENDINGS = {
    "is_killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crashes": lambda: ctypes.string_at(0),
    "raises": lambda: print(1 / 0),
    "leaves": sys.exit,
    "stays": sleep,
}

if __name__ == "__main__":
    ending, child = sys.argv[1:]
    npdp.init()
    if npdp.rank() == 1:
        CHILDREN[child]()
        time.sleep(0.2)  # for a thread to begin
        print("started", flush=True)
        ENDINGS[ending]()
    elif ending != "leaves":
        npdp.barrier()
