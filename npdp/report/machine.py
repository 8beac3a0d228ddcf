"""Results files: measured figures with their machine and their command."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from npdp.base import environment
from npdp.base.whole_file import whole_file

NAMED = ("npdp", "numpy", "mpi4py")  # whose versions count, where this process has loaded them
STARTED_BY = "NPDP_STARTED_BY"  # the command before that of this process: emulated hosts, say (benchmarks/hosts.py)
FOLDERS = re.compile(r"(^|=)/(?:[^/]*/)*(?=[^/])")  # of a path in full, in an argument


def command_line(program: str, arguments: Sequence[str]) -> str:
    """Return what one types to have this again, with what started it; of a path in full, the file's name alone."""
    words = [os.environ.get(STARTED_BY, ""), program, shlex.join(FOLDERS.sub(r"\1", word) for word in arguments)]
    return " ".join(filter(None, words))


def describe() -> dict[str, Any]:
    """Return the machine, and the versions of what this process has loaded; it loads NumPy, for its BLAS."""
    import numpy  # noqa: F401

    versions = {name: sys.modules[name].__version__ for name in NAMED if name in sys.modules}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": environment.processor(),
        "family": environment.processor_family(),
        "cores": os.cpu_count(),
        "avx512": "avx512f" in environment.of_processor("flags"),
        "system": platform.platform(),
        "versions": {**versions, "python": platform.python_version()},
        "blas": _blas(),
    }


def keep(path: str | Path, command: str, versions: Mapping[str, str] | None = None, **fields: Any) -> None:
    """Write fields as JSON, whole or not at all, with the command that gives them and this machine's description.

    Args:
        versions: of what other processes have loaded, by name.
    """
    machine = describe()
    machine["versions"] |= versions or {}
    document = {"command": command, "machine": machine, **fields}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    with whole_file(str(path)) as file:
        file.write(text.encode())


def _blas() -> list[str]:
    """Return which BLAS kernels are loaded, and with how many threads."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ["unknown: threadpoolctl is not installed"]
    pools = threadpool_info()
    return [f"{pool['internal_api']} {pool.get('architecture', '')} {pool['num_threads']}" for pool in pools]
