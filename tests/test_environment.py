"""What the launcher and the machine say: ranks, cores, BLAS threads, memory."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from launching import says

from npdp.base import environment
from npdp.base.environment import BLAS_THREADS, Launch

pytestmark = pytest.mark.usefixtures("bare")


# Ranks
def test_without_a_launcher_there_is_no_launch():
    assert environment.launch() is None
    says(OMPI_COMM_WORLD_RANK=0)  # half of it is not a launch
    assert environment.launch() is None


@pytest.mark.parametrize(("variables", "wanted"), [
    ({"OMPI_COMM_WORLD_RANK": 2, "OMPI_COMM_WORLD_SIZE": 8, "OMPI_COMM_WORLD_LOCAL_SIZE": 4}, Launch(2, 8, 4)),
    ({"OMPI_COMM_WORLD_RANK": 2, "OMPI_COMM_WORLD_SIZE": 8}, Launch(2, 8, 8)),
    ({"PMI_RANK": 1, "PMI_SIZE": 3, "MPI_LOCALNRANKS": 2}, Launch(1, 3, 2)),
    ({"SLURM_PROCID": 5, "SLURM_STEP_NUM_TASKS": 11, "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, Launch(5, 11, 4)),
])  # fmt: skip
def test_each_launcher_is_understood(variables, wanted):
    says(**variables)
    assert environment.launch() == wanted


TELL = "from npdp.base import environment; print(environment.launch() is not None, environment.cores_of_job())"
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 2, "PMIX_NAMESPACE": "first"}
SLURM = {"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 2, "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 1}


def is_rank(**options) -> bool:
    """Return whether a program that this process starts is a rank; who is none has the cores it may run on."""
    command = [sys.executable, "-c", TELL]
    rank, cores = subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.split()
    assert rank == "True" or int(cores) == environment.cores()
    return rank == "True"


@pytest.mark.parametrize(("launched", "another"), [
    (OPEN_MPI, {"PMIX_NAMESPACE": "second"}), (SLURM, {"SLURM_STEP_ID": 2}), (SLURM, {"SLURM_JOB_ID": 8}),
])  # fmt: skip
def test_what_a_rank_starts_is_no_rank_but_what_a_script_or_another_launcher_starts_is_one(launched, another):
    says(**launched)
    assert is_rank()  # nobody has become the rank yet
    environment.become_rank()
    assert environment.launch() is not None and not is_rank()
    says(**another)
    assert is_rank()


def test_a_rank_that_begins_again_is_still_the_rank():
    says(**OPEN_MPI)
    again = "import os, sys; from npdp.base import environment; environment.become_rank(); " \
            f"os.execv(sys.executable, [sys.executable, '-c', '{TELL}'])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")


def test_the_launcher_of_mpich_numbers_its_sockets_alike_but_each_rank_has_its_own():
    mine, another = socket.socketpair()
    with mine, another:
        says(PMI_RANK=0, PMI_SIZE=2, PMI_FD=mine.fileno())
        environment.become_rank()
        assert environment.launch() is not None
        assert not is_rank() and not is_rank(pass_fds=[mine.fileno()])
        os.dup2(another.fileno(), mine.fileno())
        assert is_rank(pass_fds=[mine.fileno()])


# Cores
ASK = """
import os
from npdp.base import environment
os.sched_getaffinity = lambda process: print("asked", process) or {1, 2, 3}
print(environment.cores_of_job())
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")


@needs_proc
@pytest.mark.parametrize(("lines", "name", "family"), [
    ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t: fpu\n", "AMD EPYC", "25/17"),
    ("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\ncpu family\t: 9\nmodel\t: 9\n", "AMD EPYC", "26/2"),
    ("CPU implementer\t: 0x41\nCPU part\t: 0xd40\nmodel name\t: Neoverse\n", "Neoverse", "0x41/0xd40"),
    ("model name\t: RISC\n", "RISC", "/"),
])  # fmt: skip
def test_processors_of_one_name_are_told_apart_by_their_family(lines, name, family, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(lines)
    monkeypatch.setattr(environment, "CPUINFO", str(tmp_path / "cpuinfo"))
    assert (environment.processor(), environment.processor_family()) == (name, family)


def test_the_cores_of_a_job_are_those_of_who_launched_it():
    """Not those of a rank, which may be bound to one, nor of a script in which ranks run."""
    environ = {**os.environ, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    script = 'python=$1; shift; "$python" "$@"; true'
    ask = ["sh", "-c", script, "sh", sys.executable, "-c", ASK]
    done = subprocess.run(ask, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"asked {os.getpid()}\n3\n", done.stderr


def test_a_program_without_a_launcher_has_the_cores_it_may_run_on():
    with mock.patch("npdp.base.environment.cores", return_value=5):
        assert environment.cores_of_job() == 5


@pytest.mark.parametrize("missing", ["builtins.open", "os.sched_getaffinity"])
def test_where_the_system_does_not_show_who_launched_a_job_it_has_all_cores(missing):
    says(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=2)
    with mock.patch("os.cpu_count", return_value=8), mock.patch(missing, side_effect=PermissionError, create=True):
        assert environment.cores_of_job() == 8


# BLAS threads
@pytest.mark.parametrize(("cores", "ranks", "threads"), [(8, 2, 4), (8, 3, 2), (8, 8, 1), (2, 5, 1), (2, 2, 1)])
def test_each_rank_gets_its_share_of_the_cores_and_at_least_one(cores, ranks, threads):
    says(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=ranks, OMPI_COMM_WORLD_LOCAL_SIZE=ranks)
    with mock.patch.multiple(environment, cores_of_job=lambda: cores, cores=lambda: cores):
        environment.set_blas_threads()
    assert {os.environ.get(name) for name in BLAS_THREADS} == {str(threads)}
    assert environment.blas_threads_in_use() == threads


def test_the_ranks_of_this_host_count_and_not_those_of_others():
    says(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=16, OMPI_COMM_WORLD_LOCAL_SIZE=2)
    with mock.patch.multiple(environment, cores_of_job=lambda: 8, cores=lambda: 8):
        environment.set_blas_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "4"


def test_a_rank_that_may_run_on_one_core_only_gets_one_thread():
    with mock.patch.multiple(environment, cores_of_job=lambda: 8, cores=lambda: 1):
        assert environment.blas_threads(2) == 1


@pytest.mark.parametrize("name", BLAS_THREADS)
def test_what_the_user_has_set_stands(name):
    says(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4, **{name: 3})
    environment.set_blas_threads()
    assert {other: os.environ.get(other) for other in BLAS_THREADS} == {**dict.fromkeys(BLAS_THREADS), name: "3"}
    assert environment.blas_threads_in_use() == 3


def test_one_rank_keeps_all_its_cores():
    environment.set_blas_threads()
    says(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=1, OMPI_COMM_WORLD_LOCAL_SIZE=1)
    environment.set_blas_threads()
    assert not set(BLAS_THREADS) & set(os.environ)
    assert environment.blas_threads_in_use() == environment.cores() >= 1


def test_peak_memory_is_this_process_s_own():
    here = environment.peak_memory_bytes()
    assert here > 20e6
    program = "from npdp.base.environment import peak_memory_bytes as peak\nprint(peak())\nx = b'1' * 50_000_000\n" \
              "print(peak())"  # fmt: skip
    low, high = map(int, subprocess.run([sys.executable, "-c", program], capture_output=True).stdout.split())
    assert low < 30e6 and 49e6 < high - low < 60e6
