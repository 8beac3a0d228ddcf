"""Facts about this process from the launcher and the machine, read from the environment alone.

Nothing here imports NumPy or MPI: `import npdp` runs it before either is loaded.
"""

import atexit
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

VERDICT = "NPDP_VERDICT"  # the file in which ranks leave their exit code where one line says it all; set by launch.py
JOB_FOLDER = "NPDP_JOB_FOLDER"  # a directory of this job's ranks, removed when it ends; set by launch.py
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")

SPARES = "NPDP_SPARES"  # how many ranks wait, and use no core; set by `npdp train --spares`

CPUINFO = "/proc/cpuinfo"

# (rank, world size, ranks on this host) as each launcher names them
LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),  # srun
)

FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"  # set by `mpirun --with-ft ulfm`
RANK_PROCESS = "NPDP_RANK_PROCESS"  # which process is the rank, and by which launch; see `become_rank`
JOBS = ("PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_STEP_ID", "PMI_PORT", "PMI_FD")  # one or the other names the job


class Launch(NamedTuple):
    """A launched process: its rank, the number of ranks, and the number of them on this host."""

    rank: int
    world_size: int
    local_size: int


def launch() -> Launch | None:
    """Return what the launcher said, or None where there was none, or it said so to the rank that started this one."""
    names = _launchers_names()
    if names is None:
        return None
    rank, world_size, local_size = names
    size = int(os.environ[world_size])
    local = os.environ.get(local_size, "").split("(")[0].split(",")[0]  # Slurm writes 4(x2),3
    return Launch(int(os.environ[rank]), size, int(local) if local.isdigit() else size)


def _launchers_names() -> tuple[str, str, str] | None:
    """Return how the launcher of this process names what it says, None where none has started it as a rank."""
    if _is_started_by_rank():
        return None
    return next((names for names in LAUNCHERS if all(os.environ.get(name, "").isdigit() for name in names[:2])), None)


def become_rank() -> None:
    """Note that this process is the rank; what it starts inherits the launcher's variables, and is none.

    MPI would wait for ever there. A script in which the launcher has started a rank does not call this, and so the
    program that it starts, or becomes, is a rank; so are those of a launcher that a rank starts: theirs is another job.
    """
    os.environ[RANK_PROCESS] = f"{os.getpid()} {_line()} {_job()}"


def _is_started_by_rank() -> bool:
    process, *launched = os.environ.get(RANK_PROCESS, "").split(" ", 2)
    if len(launched) < 2 or process == str(os.getpid()):
        return False
    line, job = launched
    return job == _job() and _line() in ("", line)


def _job() -> str:
    return " ".join(os.environ.get(name, "") for name in JOBS)


def _line() -> str:
    """Return the socket by which MPICH's launcher hears this process; empty where there is none, or it is not open."""
    try:
        status = os.fstat(int(os.environ["PMI_FD"]))
    except (KeyError, ValueError, OSError):
        return ""
    return str(status.st_ino) if stat.S_ISSOCK(status.st_mode) else ""


def job_folder() -> str | None:
    """Return a directory that this host's ranks of this job alone use: its launcher's, or None where there is none."""
    return os.environ.get("PMIX_SERVER_TMPDIR") or os.environ.get(JOB_FOLDER)


def job_name() -> str:
    """Return what this job's ranks on this host have in common, and no other's that run now have."""
    return os.environ.get("PMIX_NAMESPACE") or os.environ.get("PMI_JOBID") or f"child of {os.getppid()}"


def is_one_of_several() -> bool:
    """Return whether a launcher has started this process as one of several ranks."""
    launched = launch()
    return launched is not None and launched.world_size > 1


def survives_deaths() -> bool:
    """Return whether mpirun was told to let ranks live on when others die: `mpirun --with-ft ulfm` of Open MPI 5."""
    return launch() is not None and os.environ.get(FAULT_TOLERANCE) in ("1", "true")


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_job() -> int:
    """Return how many cores this host's ranks may run on between them: those of who launched them.

    A rank by itself may be bound to one. All of the host's where the system does not show who launched it.
    """
    names = _launchers_names()
    if names is None:
        return cores()
    process = os.getpid()
    try:
        while has_variable(process, names[0]):  # a rank, or a script that it runs in
            process = _parent(process)
        return len(os.sched_getaffinity(process))
    except (OSError, AttributeError):
        return os.cpu_count() or 1


def has_variable(process: int, variable: str) -> bool:
    """Return whether a process was started with this variable in its environment."""
    with open(f"/proc/{process}/environ", "rb") as file:
        return any(entry.startswith(variable.encode() + b"=") for entry in file.read().split(b"\0"))


def _parent(process: int) -> int:
    with open(f"/proc/{process}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def processor() -> str:
    """Return the processor's name."""
    name = of_processor("model name")
    if not name:
        import platform  # not at the top: it takes a millisecond

        name = platform.processor()
    return name or "?"


def processor_family() -> str:
    """Return the numbers of an x86 or ARM processor's kind: virtual machines give all of a maker's the same name."""
    kind = of_processor("cpu family"), of_processor("model")
    return "/".join(kind if any(kind) else (of_processor("CPU implementer"), of_processor("CPU part")))


def of_processor(name: str) -> str:
    """Return what Linux says of the first core under this name; empty where it says nothing."""
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as lines:
            pairs = (line.partition(":") for line in lines)
            return next((value.strip() for found, _, value in pairs if found.strip() == name), "")
    except OSError:
        return ""  # not Linux


def blas_threads(ranks_on_host: int) -> int:
    """Return each rank's share of the host's cores, at least 1 and never more than it may run on."""
    return max(1, min(cores(), cores_of_job() // ranks_on_host))


def set_blas_threads(ranks_on_host: int | None = None) -> None:
    """Give this rank's BLAS its share of the cores, unless the user has set a number of threads.

    It works only before NumPy is loaded: BLAS reads these variables once.
    """
    if any(name in os.environ for name in BLAS_THREADS):
        return
    if ranks_on_host is None:
        launched = launch()
        ranks_on_host = launched.local_size - int(os.environ.get(SPARES, "0")) if launched else 1
    if ranks_on_host > 1:
        for name in BLAS_THREADS:
            os.environ[name] = str(blas_threads(ranks_on_host))


def blas_threads_in_use() -> int:
    """Return how many threads this rank's BLAS was told to use; all its cores where nobody said anything."""
    told = next((os.environ[name] for name in BLAS_THREADS if os.environ.get(name, "").isdigit()), "")
    return int(told or cores())


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held so far (VmHWM); 0 where the system does not say.

    `getrusage` begins with what the launcher held before this program began, so it is not used.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


_last: list[tuple[int, Callable[[], None]]] = []  # and the process at whose end it is called


def at_last(function: Callable[[], None]) -> None:
    """Call this at the end of this process, after all that was registered with `atexit` since npdp was imported.

    What was given last is called first, as `atexit` does it. What this process forks does not call it.
    """
    _last.append((os.getpid(), function))


@atexit.register
def _end() -> None:
    for process, function in reversed(_last):
        if process == os.getpid():
            function()


def cache_folder() -> Path:
    """Return where npdp keeps what it can make again, `$XDG_CACHE_HOME/npdp` or `~/.cache/npdp`; it need not be there.

    Raises:
        RuntimeError: nobody knows the home directory.
    """
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(folder) if os.path.isabs(folder) else Path.home() / ".cache") / "npdp"
