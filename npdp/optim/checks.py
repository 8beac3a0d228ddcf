"""What an optimiser takes: parameters in an order, and numbers that an update can be made with."""

from __future__ import annotations

import math
from collections.abc import Iterable

from npdp.nn.parameter import Parameter


def checked(parameters: Iterable[Parameter]) -> list[Parameter]:
    """Return the parameters; raise TypeError or ValueError where they are none, or have no order."""
    if isinstance(parameters, (set, frozenset)):
        raise TypeError("an optimiser takes parameters in an order, the same on every rank and in every run, got a set")
    if isinstance(parameters, Parameter) or not (hasattr(parameters, "__iter__") or hasattr(parameters, "__getitem__")):
        got = f"a single {type(parameters).__name__}"
        raise TypeError(f"an optimiser takes Parameters in a list, or as model.parameters() gives them, got {got}")
    found = list(parameters)
    if not found:
        raise ValueError("an optimiser needs at least one parameter, got none")
    for parameter in found:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"an optimiser takes Parameters, got {type(parameter).__name__}")
    return found


def refuse_sparse(parameters: Iterable[Parameter], who: str) -> None:
    """Raise ValueError where one of the parameters is sparse, and `who` would change all of its rows."""
    for parameter in parameters:
        if parameter.sparse:
            raise ValueError(
                f"{who} changes every row in every step: a sparse parameter, here of shape {parameter.shape}, is "
                "updated where it has a gradient only. Use SGD without momentum and weight decay, or make the layer "
                "with sparse=False"
            )


def not_negative(name: str, value: float) -> float:
    """Return `value`; raise ValueError where it is negative or not finite, TypeError where it is no number."""
    wanted = f"{name} must be a finite number, at least 0"
    try:
        usable = 0 <= value < math.inf
    except (TypeError, ValueError):  # a text, a list, an array of several
        raise TypeError(f"{wanted}, got {value!r}") from None
    if not usable:
        raise ValueError(f"{wanted}, got {value}")
    return value
