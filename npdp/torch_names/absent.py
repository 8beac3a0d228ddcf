"""Absent devices, and settings that change nothing, as PyTorch has them on a machine without GPUs.

    npdp.cuda.is_available()         False
    npdp.cuda.Stream()               AttributeError: npdp.cuda has no Stream: npdp computes on CPUs: leave it out
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from npdp.base.environment import BLAS_THREADS, cores
from npdp.base.missing import NO_GPU


class Absent(SimpleNamespace):
    """Device that is not there: its questions have answers, seeds are taken, and nothing else works."""

    def __init__(self, name: str) -> None:
        super().__init__(
            is_available=lambda: False, device_count=lambda: 0, is_built=lambda: False, is_initialized=lambda: False,
            is_bf16_supported=lambda: False, manual_seed=lambda seed: None, manual_seed_all=lambda seed: None,
            empty_cache=lambda: None, current_accelerator=lambda: None, _name=name,
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"{self._name} has no {name}: {NO_GPU}")


def get_num_threads() -> int:
    """Return the number of threads of products, as the environment said when NumPy was loaded, or that of the cores."""
    said = next((os.environ[name] for name in BLAS_THREADS if os.environ.get(name)), "")
    return int(said) if said.isdecimal() else cores()


def set_num_threads(count: int) -> None:
    """Limit the threads of products, where the package threadpoolctl is installed.

    Raises:
        RuntimeError: it is not; NumPy's BLAS reads the environment once, when it is loaded.
    """
    if count == get_num_threads():
        return
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        wanted = f"start the program with {BLAS_THREADS[0]}={count}"
        raise RuntimeError(f"set_num_threads: wanted the package threadpoolctl; or {wanted}") from None
    threadpool_limits(count)
    os.environ[BLAS_THREADS[0]] = str(count)  # for what this process starts


NAMES: dict[str, Any] = {
    **{name: Absent(f"npdp.{name}") for name in ("cuda", "mps", "xpu", "accelerator")},
    "backends": SimpleNamespace(
        mps=Absent("npdp.backends.mps"), cudnn=SimpleNamespace(is_available=lambda: False, deterministic=True),
        cuda=SimpleNamespace(matmul=SimpleNamespace()), mkldnn=SimpleNamespace(is_available=lambda: False),
    ),
    "get_num_threads": get_num_threads, "set_num_threads": set_num_threads,
}  # fmt: skip
