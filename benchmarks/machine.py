"""Where figures are kept, and how they are taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from npdp.report import machine

RESULTS = Path(__file__).parent / "results"
SLOWED_BY = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # settings that slow NumPy's matmul


def clean_environment() -> dict[str, str]:
    """Return the environment for a measured program: BLAS chooses its own kernels."""
    return {name: value for name, value in os.environ.items() if name not in SLOWED_BY}


def keep(name: str, command: str, figures: Any) -> Path:
    """Write figures with the machine's description and the command that gives them; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine.keep(path, command, figures=figures)
    return path
