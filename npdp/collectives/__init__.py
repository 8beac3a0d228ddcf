"""Collectives: schedules as data, the proof that they are right, and the loops that carry them out.

A schedule of your own is made of `add` and `put`, proven by `prove`, and drawn by `show`. These are loaded when they
are first used: what only carries collectives out does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Move": "schedule",
    "WrongSchedule": "wrong",
    "add": "schedule",
    "prove": "verify",
    "prove_each": "verify",
    "put": "schedule",
    "show": "picture",
}
__all__ = [*_HOME]  # noqa: PLE0604

if TYPE_CHECKING:
    from npdp.collectives.picture import show as show
    from npdp.collectives.schedule import (
        Move as Move,
    )
    from npdp.collectives.schedule import (
        add as add,
    )
    from npdp.collectives.schedule import (
        put as put,
    )
    from npdp.collectives.verify import (
        prove as prove,
    )
    from npdp.collectives.verify import (
        prove_each as prove_each,
    )
    from npdp.collectives.wrong import WrongSchedule as WrongSchedule


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'npdp.collectives' has no attribute {name!r}")
    return getattr(import_module(f"npdp.collectives.{_HOME[name]}"), name)
