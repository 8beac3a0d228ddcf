"""What a figure was measured on, and how figures are taken."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SLOWED_BY = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # settings that slow NumPy's matmul


def clean_environment() -> dict[str, str]:
    """Return the environment for a measured program: BLAS chooses its own kernels."""
    return {name: value for name, value in os.environ.items() if name not in SLOWED_BY}


def describe() -> dict[str, Any]:
    """Return the machine and the versions."""
    import numpy as np

    import npdp

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    flags = next((line for line in lines if line.startswith("flags")), "")
    versions = {"npdp": npdp.__version__, "numpy": np.__version__, "python": platform.python_version()}
    for name in ("torch", "sklearn"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    try:
        from threadpoolctl import threadpool_info

        pools = threadpool_info()
        blas = [f"{pool['internal_api']} {pool.get('architecture', '')} {pool['num_threads']}" for pool in pools]
    except ImportError:
        blas = ["unknown: threadpoolctl is not installed"]
    return {
        "date": time.strftime("%Y-%m-%d"), "processor": model, "cores": os.cpu_count(), "avx512": "avx512f" in flags,
        "system": platform.platform(), "versions": versions, "blas": blas,
    }  # fmt: skip


def keep(name: str, command: str, figures: Any) -> Path:
    """Write figures with the machine's description and the command that gives them; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"command": command, "machine": describe(), "figures": figures}, indent=1) + "\n")
    return path
