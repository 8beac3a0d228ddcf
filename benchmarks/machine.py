"""Where figures are kept, and how they are taken."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from npdp.report import machine

RESULTS = Path(__file__).parent / "results"
SLOWED_BY = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # settings that slow NumPy's matmul
MODULES = {"torch": "torch", "gloo": "torch", "jax": "jax", "horovod": "horovod", "sklearn": "sklearn"}  # contenders'


def clean_environment() -> dict[str, str]:
    """Return the environment for a measured program: BLAS chooses its own kernels."""
    return {name: value for name, value in os.environ.items() if name not in SLOWED_BY}


def installed(contenders: Iterable[str], modules: Mapping[str, str] = MODULES) -> list[str]:
    """Return the contenders whose module is installed, or who need none; say who is left out."""
    there = []
    for who in contenders:
        if who not in modules or importlib.util.find_spec(modules[who]):
            there.append(who)
        else:
            print(f"{who} is left out: {modules[who]} is not installed", file=sys.stderr)
    return there


def keep(name: str, command: str, figures: Any) -> Path:
    """Write figures with the machine's description and the command that gives them; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine.keep(path, command, figures=figures)
    return path
