"""Gradients that are the mean over all ranks already, put aside while a backward computes one rank's share of the next.

    .grad   global | put aside: None | local share, exchanged: global | what was aside is added

Added to in place, what is global already would be summed over the ranks once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from npdp.autograd.rows import RowGradient, no_rows
from npdp.autograd.tensor import Array
from npdp.nn.parameter import Parameter, row_gradient

Gradient = Array | RowGradient  # of a dense parameter, of a sparse one


class Aside:
    """What was in `.grad` of some parameters.

    Attributes:
        held: parameter -> its gradient.
    """

    def __init__(self) -> None:
        self.held: dict[Parameter, Gradient] = {}

    def put(self, parameters: Iterable[Parameter]) -> None:
        """Put the gradients that these have aside; `.grad` of each is None then.

        Raises:
            TypeError: a sparse parameter's gradient is an array; then all are where they were.
        """
        found = [parameter for parameter in parameters if parameter.grad is not None]
        if found:
            self.held |= {parameter: _copied(parameter) for parameter in found}
            for parameter in found:
                parameter.grad = None

    def forget_zeroed(self) -> None:
        """Forget what was aside for parameters whose `.grad` the user has set to None since."""
        self.held = {parameter: before for parameter, before in self.held.items() if parameter.grad is not None}

    def zeros_where_none(self) -> None:
        """Make zeros of each `.grad` that is None: at the next backward that will say that the user has zeroed it."""
        for parameter in self.held:
            if parameter.grad is None:
                _add_to_grad(parameter, _zeros(parameter))

    def put_back(self) -> None:
        """Add all to what is in `.grad` now."""
        for parameter, before in self.held.items():
            _add_to_grad(parameter, before)
        self.held = {}


def _copied(parameter: Parameter) -> Gradient:
    """Return what its gradient is now; rows are never changed in place."""
    gradient = row_gradient(parameter) if parameter.sparse else np.array(parameter.grad)
    assert gradient is not None
    return gradient


def _zeros(parameter: Parameter) -> Gradient:
    return no_rows(parameter.shape, parameter.dtype) if parameter.sparse else np.zeros_like(parameter.data)


def _add_to_grad(parameter: Parameter, before: Any) -> None:
    """Add what was put aside, or zeros."""
    if parameter.sparse:
        gradient = row_gradient(parameter)
        parameter.grad = before if gradient is None else before + gradient
    elif parameter.grad is None:
        np.copyto(parameter.grad_buffer, before)  # type: ignore[arg-type]
        parameter.grad = parameter.grad_buffer
    else:
        parameter.grad += before
