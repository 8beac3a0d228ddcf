"""What a caller gives: numbers, arrays, and tuples, lists and dicts of either, in one another too."""

from __future__ import annotations

import copy
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
    """Return the same with what `change` makes of all in it; tuples, lists and dicts that hold that are new then."""
    new = change(given)
    if new is not given or not isinstance(given, (tuple, list, dict)):
        return new
    keys = given if isinstance(given, dict) else range(len(given))
    made = {key: changed(given[key], change) for key in keys}
    if all(part is given[key] for key, part in made.items()):
        return given
    if isinstance(given, tuple):
        return given._make(made.values()) if hasattr(given, "_make") else type(given)(made.values())  # a namedtuple
    copied: Any = copy.copy(given)  # also of an OrderedDict, say
    for key, part in made.items():
        copied[key] = part
    return copied


def axes_of(given: Any) -> Any:
    """Return axes as NumPy takes them, a list's as a tuple; PyTorch takes both."""
    return tuple(given) if isinstance(given, list) else given


def has_dtype(given: Any) -> bool:
    """Return whether any of it has a dtype, as arrays and NumPy's numbers have; Python's have none."""
    return any(hasattr(part, "dtype") for part in leaves(given))
