"""What a student's process may not do: load npdp, start processes, write files, reach for the network or for C.

An audit hook cannot be taken off again. It says what was tried and ends the process, so no `except` can hide it. It
keeps honest people honest, and makes cheating harder than the exercise: it is no jail for hostile programs.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

MEMORY_BYTES, CPU_S = 4 << 30, 120  # of a student's process, which may never end by itself
FORBIDDEN = {
    "ctypes.": "calls C functions", "socket.": "uses the network", "subprocess.": "starts a program",
    "os.system": "starts a program", "os.exec": "starts a program", "os.posix_spawn": "starts a program",
    "os.spawn": "starts a program", "os.fork": "starts a process", "os.kill": "sends signals", "os.link": "makes links",
    "os.symlink": "makes links", "os.rename": "moves files", "os.remove": "removes files", "pty.": "starts a program",
}  # fmt: skip
MODULES = ("npdp", "_posixshmem", "_multiprocessing")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
NPDP = str(Path(__file__).resolve().parent.parent)


def seal(told: Callable[[str], None]) -> None:
    """Forbid, from now on and for good; `told` hears what was tried, before the process ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        tried = _tried(event, arguments)
        if tried is not None:
            try:
                told(tried)
            finally:
                os._exit(3)

    sys.addaudithook(hook)


def _tried(event: str, arguments: tuple[object, ...]) -> str | None:
    """Return what an event tries that is forbidden, None where it is not."""
    if event == "import":
        name = str(arguments[0])
        forbidden = name.split(".")[0] in MODULES
        return f"imports {name}: the exercise is to write it yourself" if forbidden else None
    if event == "open":
        path, flags = arguments[0], arguments[2]
        if isinstance(flags, int) and flags & WRITES and path not in (os.devnull,):
            return f"writes the file {path}"
        if isinstance(path, (str, bytes)) and os.path.realpath(os.fsdecode(path)).startswith(NPDP + os.sep):
            return f"reads npdp's own {os.path.basename(os.fsdecode(path))}: the exercise is to write it yourself"
        return None
    return next((what for name, what in FORBIDDEN.items() if event.startswith(name)), None)
