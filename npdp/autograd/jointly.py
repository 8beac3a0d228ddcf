"""Gradient rules of several inputs that share most of their work.

    jointly     all gradients are worked out at once, as attention's of query, key and value
    one_pass    each rule takes what it needs of one pass: a gradient that nobody wants is not worked out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from npdp.autograd.tensor import Array, Vjp

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


def jointly(gradients: Callable[[Array], Sequence[Array]], count: int) -> tuple[Vjp, ...]:
    """Return the gradient rules of `count` inputs; the first that is asked works out all, for the others to take.

    Args:
        gradients: from the gradient of the output to those of the inputs, arrays that nobody else has.
    """
    worked_out_for: Any = None
    waiting: dict[int, Array] = {}

    def rule(number: int) -> Vjp:
        def vjp(g: Array) -> Array:
            nonlocal worked_out_for
            if worked_out_for is not g or number not in waiting:
                worked_out_for = g
                waiting.update(enumerate(gradients(g)))
            return waiting.pop(number)

        return vjp

    return tuple(rule(number) for number in range(count))
