"""One pass backward for all gradient rules of an operation, where they share most of the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from npdp.autograd.tensor import Array

T = TypeVar("T")


def one_pass(backward: Callable[[Array], T]) -> Callable[[Array], T]:
    """Return `backward`, a function of the result's gradient, which is carried out once for each.

    Rules of an operation are called one after the other with the same array; the last one's result is kept for them.
    """
    latest: tuple[Array, T] | None = None

    def remembered(g: Array) -> T:
        nonlocal latest
        if latest is None or latest[0] is not g:
            latest = g, backward(g)
        return latest[1]

    return remembered
