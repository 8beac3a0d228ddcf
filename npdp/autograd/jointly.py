"""Gradient rules of several inputs that are worked out at once: attention's of query, key and value, say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from npdp.autograd.tensor import Array, Vjp


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
