"""Under mpirun: rank 1 is late, or stopped; what is said of it goes to standard error."""

import ctypes
import os
import signal
import sys
import time

import numpy as np

import npdp
from npdp.comm.failures.board import STACK_SIGNAL


def stopped():
    """Rank 1 is stopped, in forward."""
    if npdp.rank() == 1:
        npdp.init().place.part = "forward"
        os.kill(os.getpid(), signal.SIGSTOP)
    npdp.allreduce(np.ones(1000))


def stopped_when_others_have_ended():
    """Rank 1 is stopped, the others wait for it at the end of the program."""
    if npdp.rank() == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGSTOP)


def at_work_when_others_have_ended():
    """Rank 1 goes on for long, on its own: nothing is wrong."""
    if npdp.rank() == 1:
        time.sleep(3)


def in_c():
    """Rank 1 is in C for long, with Python's lock held."""
    if npdp.rank() == 1:
        ctypes.PyDLL(None).sleep(3)
    npdp.barrier()


def with_a_handler():
    """Rank 1 is late, and its program had a handler for the signal before npdp."""
    if npdp.rank() == 1:
        time.sleep(3)
    npdp.barrier()


def in_turn():
    """Each rank is late once."""
    for turn in range(npdp.world_size()):
        if npdp.rank() == turn:
            time.sleep(2.2)
        npdp.barrier()


if sys.argv[1] == "with_a_handler":
    signal.signal(STACK_SIGNAL, lambda *_: os._exit(9))
npdp.init(stall_warning_s=1, stall_abort_s=float(sys.argv[2]))
npdp.barrier()
globals()[sys.argv[1]]()
