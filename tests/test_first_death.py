"""The launcher's word for a rank that ended without one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from npdp.app.first_death import FirstDeath
from npdp.base import environment

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no descriptors of processes here")
RANK = """
import os, sys, time
from npdp.comm.failures.board import ProcessBoard
board = ProcessBoard(int(sys.argv[1]), lambda mine: [mine] * 3)
board.place.iteration, board.place.part = 16, "exchange"
print(flush=True)
time.sleep(60)
"""


def rank(number, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, str(number)], stdout=subprocess.PIPE,
        env={**os.environ, environment.JOB_FOLDER: str(folder)},
    )  # fmt: skip
    process.stdout.readline()
    return process


@pytest.fixture
def ranks(tmp_path):
    started = [rank(number, tmp_path) for number in range(3)]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def first_of(ranks, folder, *killed):
    with FirstDeath(str(folder)) as death:
        while len(death._boards) < len(ranks):
            time.sleep(0.01)
        for number in killed:
            ranks[number].kill()
            ranks[number].wait()
        death._thread.join(20)
    return death


def test_it_is_who_ended_first_with_where_that_rank_was(ranks, tmp_path):
    death = first_of(ranks, tmp_path, 1)
    assert death.said(128 + signal.SIGKILL) == "rank 1 ended first, in exchange of iteration 17: killed by SIGKILL"
    assert death.said(7) == "rank 1 ended first, in exchange of iteration 17, without a word; mpirun's exit code is 7"
    assert death.said(128 + 90).endswith("without a word; mpirun's exit code is 218")


def test_of_a_job_that_ends_well_or_is_ended_from_outside_nothing_is_said(ranks, tmp_path):
    death = first_of(ranks, tmp_path, 1)
    assert death.said(0) is None and death.said(128 + signal.SIGTERM) is None


def test_nothing_is_said_where_a_rank_has_spoken(ranks, tmp_path):
    (tmp_path / "ompi.7").mkdir()
    (tmp_path / "ompi.7" / "npdp failure of job 7").touch()
    assert first_of(ranks, tmp_path, 1).said(1) is None


def test_where_no_rank_ends_nothing_is_said_and_nothing_is_waited_for(tmp_path):
    with FirstDeath(str(tmp_path)) as death:
        pass
    assert death.said(1) is None
