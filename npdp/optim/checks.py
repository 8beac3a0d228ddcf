"""Checks of an optimiser's arguments: parameters in an order, and usable numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from npdp.nn.parameter import Parameter
from npdp.nn.sparse_parameter import SparseParameter


def as_groups(parameters: Iterable[Parameter] | Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return parameter groups, each a new dict with a list of "params": those given, or one of all parameters.

    Raises:
        TypeError, ValueError: there are none, or they have no order.
    """
    found = _listed(parameters)
    groups = found if found and isinstance(found[0], dict) else [{"params": found}]
    if strays := [type(group).__name__ for group in groups if not isinstance(group, dict)]:
        raise TypeError(f'an optimiser takes parameter groups as dicts, {{"params": ...}}, got {strays[0]} among them')
    groups = [{**group, "params": _parameters_of(group, number)} for number, group in enumerate(groups)]
    if not any(group["params"] for group in groups):
        raise ValueError("an optimiser needs at least one parameter, got none")
    return groups


def _parameters_of(group: dict[str, Any], number: int) -> list[Parameter]:
    """Return the parameters of a group, each once."""
    if "params" not in group:
        raise ValueError(f'parameter group {number} has no "params", only {", ".join(map(str, group)) or "nothing"}')
    given = group["params"]
    found = [given] if isinstance(given, Parameter) else _listed(given)
    for parameter in found:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"an optimiser takes Parameters, got {type(parameter).__name__}")
    return list(dict.fromkeys(found))


def _listed(given: Any) -> list[Any]:
    """Return what is given in an order, as a list."""
    if isinstance(given, (set, frozenset)):
        raise TypeError("an optimiser takes parameters in an order, the same on every rank and in every run, got a set")
    if isinstance(given, (Parameter, dict)) or not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        got = f"a single {type(given).__name__}"
        raise TypeError(f"an optimiser takes Parameters in a list, or as model.parameters() gives them, got {got}")
    return list(given)


def refuse_sparse(parameters: Iterable[Parameter], who: str) -> None:
    """Raise ValueError where one of the parameters is sparse, and `who` would change all of its rows."""
    for parameter in parameters:
        if isinstance(parameter, SparseParameter):
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
