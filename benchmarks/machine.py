"""Where figures are kept, and how they are taken. No program: the benchmarks use it."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flags import Parser

from npdp.report import machine

RESULTS = Path(__file__).parent / "results"
SLOWED_BY = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # settings that slow NumPy's matmul

# What a contender is made of, besides NumPy, mpi4py and MPI, by the names under which it is installed
PACKAGES = {
    "torch": ("torch",),
    "gloo": ("torch",),
    "torchrun": ("torch",),
    "horovod": ("horovod", "torch"),
    "jax": ("jax", "jaxlib", "mpi4jax"),
    "sklearn": ("scikit-learn", "scipy"),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
}

# Prints the versions of packages and, where mpi4py is one, of MPI: in a process that is no rank
_VERSIONS = """
import contextlib, importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found[name] = importlib.metadata.version(name)
if "mpi4py" in found:
    with contextlib.suppress(ImportError, RuntimeError):
        import mpi4py
        mpi4py.rc.initialize = False
        from mpi4py import MPI
        found["MPI"] = MPI.Get_library_version().split(",")[0].strip()
print(json.dumps(found))
"""


def clean_environment() -> dict[str, str]:
    """Return the environment for a measured program: BLAS chooses its own kernels."""
    return {name: value for name, value in os.environ.items() if name not in SLOWED_BY}


def output_of(what: str, command: Sequence[str], ranks: int, **variables: str) -> str:
    """Run a command that starts so many ranks, with these variables; return what it prints."""
    from npdp.app import launch

    environment = {**clean_environment(), **launch.settings(ranks), **variables}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if run.returncode:
        raise SystemExit(f"{what} failed:\n{run.stderr[-2000:]}")
    return run.stdout


def medians(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Take the measures in turn, so many times; return each one's median."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}


def versions(contenders: Iterable[str], pythons: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the versions of what contenders are made of, each asked of the Python in which it runs.

    Args:
        contenders: names in PACKAGES; others are npdp, NumPy and MPI.
        pythons: of those that run in another than this one.
    """
    wanted: dict[str, list[str]] = {sys.executable: ["numpy", "mpi4py"]}
    for who in contenders:
        wanted.setdefault((pythons or {}).get(who, sys.executable), []).extend(PACKAGES.get(who, ()))
    found: dict[str, str] = {}
    for python, packages in wanted.items():
        run = subprocess.run([python, "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True)
        found |= json.loads(run.stdout.splitlines()[-1])
    return found


def keep(
    parser: Parser, arguments: argparse.Namespace, name: str, figures: Any, contenders: Iterable[str] = (),
    pythons: Mapping[str, str] | None = None, why_not: str = "",
) -> None:  # fmt: skip
    """Keep figures with the machine's description, versions and the command, where all was measured.

    Else what is kept already stays, and these go where --output says, if anywhere.

    Args:
        parser: of the script.
        arguments: what it read.
        name: of the file in benchmarks/results.
        contenders, pythons: see `versions`.
        why_not: what makes them only some, besides flags.
    """
    some = parser.left_out(arguments) or why_not
    if some and arguments.output is None:
        print(f"not kept, as less was measured than by default: {some}; --output FILE keeps it")
        return
    RESULTS.mkdir(exist_ok=True)
    path = arguments.output or RESULTS / f"{name}.json"
    command = machine.command_line(f"python benchmarks/{parser.prog}", sys.argv[1:])
    machine.keep(path, command, versions(contenders, pythons), figures=figures)
    print("kept in", path)


if __name__ == "__main__":
    sys.exit(__doc__)
