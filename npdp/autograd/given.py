"""Nested arguments of a caller: numbers, arrays, and tuples, lists and dicts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def leaves(given: Any) -> Iterator[Any]:
    """Yield what stands in tuples, lists and dicts, in its order; of anything else, it."""
    if not isinstance(given, (tuple, list, dict)):
        yield given
        return
    for part in given.values() if isinstance(given, dict) else given:
        yield from leaves(part)


def changed(given: Any, change: Callable[[Any], Any]) -> Any:
    """Return what `change` makes of a value, and of each in tuples, lists and dicts."""
    if isinstance(given, dict):
        return {key: changed(part, change) for key, part in given.items()}
    if isinstance(given, (tuple, list)):
        made = [changed(part, change) for part in given]
        return made if isinstance(given, list) else tuple(made)
    return change(given)


def axes_of(given: Any) -> Any:
    """Return axes as NumPy takes them, a list's as a tuple; PyTorch takes both."""
    return tuple(given) if isinstance(given, list) else given


def has_dtype(given: Any) -> bool:
    """Return whether any of it has a dtype, as arrays and NumPy's numbers have; Python's have none."""
    return any(hasattr(part, "dtype") for part in leaves(given))
