"""Training that survives: checkpoints, and ranks that go on when others die; faults on purpose to see it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npdp.elastic.ledger import expected_checksum as expected_checksum
    from npdp.elastic.loop import run as run
    from npdp.elastic.state import State as State

_HOME = {"expected_checksum": "npdp.elastic.ledger", "State": "npdp.elastic.state", "run": "npdp.elastic.loop"}

__all__ = ["State", "expected_checksum", "run"]


def __getattr__(name: str) -> Any:  # loaded when used: flags are read before NumPy is loaded
    if name not in _HOME:
        raise AttributeError(f"module 'npdp.elastic' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
