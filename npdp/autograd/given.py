"""What a caller gives where an array is wanted: numbers, arrays, and lists of either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaves(given: Any) -> Iterator[Any]:
    """Yield what stands in lists and tuples, in one another too; of anything else, it."""
    if isinstance(given, (list, tuple)):
        for part in given:
            yield from leaves(part)
    else:
        yield given


def axes_of(given: Any) -> Any:
    """Return axes as NumPy takes them, a list's as a tuple; PyTorch takes both."""
    return tuple(given) if isinstance(given, list) else given


def has_dtype(given: Any) -> bool:
    """Return whether any of it has a dtype, as arrays and NumPy's numbers have; Python's have none."""
    return any(hasattr(part, "dtype") for part in leaves(given))
