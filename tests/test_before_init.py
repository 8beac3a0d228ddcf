"""Before there is a world: an exception ends all ranks, and one that waits says for whom."""

import signal
import sys

import pytest
from launching import needs_mpi, python

from npdp.base.environment import Launch
from npdp.comm.failures import missing

TRACEBACK = "Traceback (most recent call last)"
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_NAMESPACE": "job"}
BEFORE_INIT = """
import os, sys, time, npdp
from npdp.comm.failures import missing
missing.SAID_AFTER_S = 0.5
rank = npdp.base.environment.launch().rank
if rank == 1:
    {rank_1_does}
npdp.init()
print(f"here {{rank}}\\n", end="", flush=True)
"""


@needs_mpi
def test_an_exception_before_init_ends_all_ranks(tmp_path):
    (tmp_path / "program.py").write_text(BEFORE_INIT.format(rank_1_does="raise KeyError('the fault on purpose')"))
    code, stdout, stderr = python("-m", "npdp", "run", "--ranks", "3", f"{tmp_path}/program.py")
    assert code != 0 and "here" not in stdout
    assert stderr.count(TRACEBACK) == 1 and "KeyError: 'the fault on purpose'" in stderr


@pytest.mark.parametrize("launcher", [MPICH, OPEN_MPI], ids=["MPICH", "Open MPI"])
def test_an_exception_before_init_is_a_signal_where_the_launcher_ends_all_for_nothing_else(launcher, tmp_path):
    code, _, stderr = python("-c", "import npdp; raise KeyError", **launcher)
    assert code == (1 if launcher is OPEN_MPI else -signal.SIGKILL)
    assert stderr.count(TRACEBACK) == 1 and ("rank 1 failed:" in stderr) == (launcher is not OPEN_MPI)


@needs_mpi
def test_a_rank_that_comes_late_to_init_is_named_by_one_that_waits_for_it(tmp_path):
    """It comes when it has been named: the line is in the file then."""
    waits = f"while not open('{tmp_path}/said').read(): time.sleep(0.02)"
    (tmp_path / "program.py").write_text(BEFORE_INIT.format(rank_1_does=waits))
    (tmp_path / "said").touch()
    command = f"{sys.executable} -m npdp run --ranks 3 {tmp_path}/program.py 2> {tmp_path}/said"
    shell = "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[1]])"
    code, stdout, _ = python("-c", shell, command)
    assert code == 0 and sorted(stdout.split("\n")) == ["", "here 0", "here 1", "here 2"]
    assert (tmp_path / "said").read_text() == (
        "npdp: rank 0 waits in init() for rank 1: not come yet, or ended before it\n"
    )


@pytest.mark.parametrize(("here", "missing_ranks", "speaks"), [
    ((0, 1, 2), "rank 3", 0), ((1, 3), "ranks 0, 2", 1), ((0, 1, 2, 3), None, None),
])  # fmt: skip
def test_the_first_rank_that_is_there_says_who_is_not(here, missing_ranks, speaks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(missing, "SAID_AFTER_S", 0)
    monkeypatch.setenv("PMIX_SERVER_TMPDIR", str(tmp_path))
    for _ in range(2):  # then all that are to come have come
        capsys.readouterr()
        for rank in here:
            missing.say_who_is_missing(Launch(rank, 4, 4))
    said = f"npdp: rank {speaks} waits in init() for {missing_ranks}: not come yet, or ended before it\n"
    assert capsys.readouterr().err == (said if missing_ranks else "")


def test_ranks_that_cannot_see_each_other_say_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(missing, "SAID_AFTER_S", 0)
    monkeypatch.delenv("PMIX_SERVER_TMPDIR", raising=False)
    monkeypatch.delenv("NPDP_JOB_FOLDER", raising=False)
    missing.say_who_is_missing(Launch(0, 2, 2))  # no directory
    monkeypatch.setenv("NPDP_JOB_FOLDER", str(tmp_path / "gone"))
    missing.say_who_is_missing(Launch(0, 2, 2))
    monkeypatch.setenv("NPDP_JOB_FOLDER", str(tmp_path))
    missing.say_who_is_missing(Launch(0, 4, 2))  # several hosts
    assert capsys.readouterr().err == ""
