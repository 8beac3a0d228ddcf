"""Parameters as one vector, in their order, and back."""

from __future__ import annotations

from collections.abc import Iterable

from npdp.autograd import Tensor, no_grad, operators


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return all elements, (count,), in C order; the gradient passes."""
    return operators.concatenate(*(parameter.reshape(parameter.array.size) for parameter in parameters))


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy a vector's elements, (count,), into the parameters, in place.

    Raises:
        ValueError: there are more or fewer than the parameters have.
    """
    parameters = list(parameters)
    wanted = sum(parameter.array.size for parameter in parameters)
    if vec.shape != (wanted,):
        raise ValueError(f"vector_to_parameters: wanted a vector of {wanted} elements, got shape {vec.shape}")
    start = 0
    with no_grad():
        for parameter in parameters:
            stop = start + parameter.array.size
            parameter.copy_(vec.data[start:stop].reshape(parameter.shape))
            start = stop
