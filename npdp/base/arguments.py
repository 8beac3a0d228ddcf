"""Checks of number arguments: the error names the argument, what was wanted and what came."""

from __future__ import annotations

from math import inf
from numbers import Real
from operator import index
from typing import Any


def whole(value: Any, wanted: str, least: float = -inf, below: float = inf) -> int:
    """Return a whole number, NumPy's too, as Python's.

    Args:
        wanted: the argument and what it must be, as the message begins.
        least, below: the smallest that will do, and the first that is too large.

    Raises:
        TypeError: it is no whole number; 3.0 is none.
        ValueError: it is too small or too large.
    """
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{wanted}, got {value!r}") from None
    if not least <= number < below:
        raise ValueError(f"{wanted}, got {value!r}")
    return number


def at_least_one(value: Any, name: str) -> int:
    """Return a whole number of 1 or more, as `whole` does; `name` says whose argument it is, and which."""
    return whole(value, f"{name} must be a whole number, at least 1", 1)


def seed_of(value: Any, name: str) -> int:
    """Return a whole number that generators take for a seed, as `whole` does."""
    return whole(value, f"{name} must be a whole number in [0, 2^64)", 0, 2**64)


def require_number(value: Any, wanted: str) -> None:
    """Raise TypeError where this is no number, Python's or NumPy's; the message begins with what was wanted."""
    if not isinstance(value, Real):
        raise TypeError(f"{wanted}, got {value!r}")
