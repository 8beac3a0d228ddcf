"""DistributedDataParallel in PyTorch's place; it belongs to npdp.parallel, and is loaded when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npdp.parallel.data_parallel import DataParallel as DataParallel
    from npdp.parallel.data_parallel import DistributedDataParallel as DistributedDataParallel


def __getattr__(name: str) -> Any:
    if name in ("DataParallel", "DistributedDataParallel"):
        from npdp.parallel import data_parallel

        return getattr(data_parallel, name)
    raise AttributeError(f"module 'npdp.nn.parallel' has no attribute {name!r}")
