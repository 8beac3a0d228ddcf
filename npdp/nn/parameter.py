"""Parameters, and how they are laid side by side in one array.

    data   | 0.weight ......... | 0.bias .. | 2.weight ...... | 2.bias |
    grad   | 0.weight ......... | 0.bias .. | 2.weight ...... | 2.bias |
             each starts on a cache line; a parameter's data and its `.grad` are views. Behind each is room for
             one number, a flag that an exchange sends along with the gradient

An optimiser then updates a whole model in one pass, and an exchange sends a run of gradients as one buffer,
straight from where backward wrote them. A parameter is laid flat once, by whoever comes first, an optimiser
or data parallel training; both use that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array, Tensor

LINE_BYTES = 64

Allocate = Callable[[int, "np.dtype[Any]"], Array]


class Parameter(Tensor):
    """A leaf that a model owns and an optimiser changes; `requires_grad=False` freezes it.

    A copy (`copy.deepcopy`, pickle) has the values, and is not laid flat.

    Attributes:
        place: (the flat arrays that it lies in, its number there), once it has been laid flat.
        data_buffer: its values there; `data` is this array unless the user has put another in its place.
    """

    place: tuple[FlatParameters, int] | None = None
    data_buffer: Array | None = None

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (np.array(self.data), self.requires_grad)


def allocate(count: int, dtype: np.dtype[Any]) -> Array:
    """Return `count` zeros that start on a cache line."""
    memory = np.zeros(count * dtype.itemsize + LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + count * dtype.itemsize].view(dtype)


class FlatParameters:
    """Parameters of one dtype, laid flat in the given order; their values move there, `.data` becomes a view.

    Attributes:
        parameters: the parameters.
        starts: where each begins in `data` and `grad`; the last entry is where they end.
        data: (count,) all values.
        grad: (count,) all gradients; a parameter's `.grad` is a view of it once backward has written it.
        flags: where each parameter's flag is in `grad`; 0 except during an exchange.
        grad_shared: whether `grad` lies where the ranks of a host share memory.
        unsynced: why these gradients are not ready for an update, if they are not.
        stepper: carries out an optimiser's whole step on them, `stepper(optimizer, slab)`, where that is not left to
            the optimiser: the gradients are still to be summed then.
    """

    def __init__(self, parameters: list[Parameter], allocate: Allocate = allocate) -> None:
        self.parameters = parameters
        self.dtype = parameters[0].dtype
        line = LINE_BYTES // self.dtype.itemsize
        self.starts = [0]
        for parameter in parameters:
            self.starts.append(self.starts[-1] + -(-(parameter.data.size + 1) // line) * line)
        self.flags = [start + parameter.data.size for start, parameter in zip(self.starts, parameters)]
        self.data = allocate(self.starts[-1], self.dtype)
        self.grad = allocate(self.starts[-1], self.dtype)
        self.grad_shared = False
        self.unsynced: str | None = None
        self.stepper: Callable[[Any, Any], None] | None = None
        for number, parameter in enumerate(parameters):
            self._move_in(parameter, number)

    def _move_in(self, parameter: Parameter, number: int) -> None:
        values = self.view(self.data, number)
        values[...] = parameter.data
        parameter.data = parameter.data_buffer = values
        parameter.grad_buffer = self.view(self.grad, number)
        if parameter.grad is not None:
            parameter.grad_buffer[...] = parameter.grad
            parameter.grad = parameter.grad_buffer
        parameter.place = (self, number)

    def move_data(self, data: Array, writeable: bool = True) -> None:
        """Move the values to `data`, an array as long as this one; `.data` is then a view of it, writeable or not."""
        for number, parameter in enumerate(self.parameters):
            values = self.view(data, number)
            values[...] = parameter.data
            values.flags.writeable = writeable
            parameter.data = parameter.data_buffer = values
        self.data = data

    def move_grad(self, grad: Array) -> None:
        """Move the gradients to `grad`, an array as long as this one."""
        grad[:] = 0
        for number, parameter in enumerate(self.parameters):
            before, parameter.grad_buffer = parameter.grad, self.view(grad, number)
            if before is not None:
                parameter.grad_buffer[...] = before
                parameter.grad = parameter.grad_buffer
        self.grad = grad

    def view(self, flat: Array, number: int) -> Array:
        """Return a parameter's part of a flat array, in its shape and in its order in memory."""
        parameter = self.parameters[number]
        start = self.starts[number]
        part = flat[start : start + parameter.data.size]
        if parameter.data.flags.c_contiguous:
            return part.reshape(parameter.shape)
        return part.reshape(parameter.shape[::-1]).T  # type: ignore[no-any-return]


def lay_flat(parameters: Iterable[Parameter], allocate: Allocate = allocate) -> list[FlatParameters]:
    """Lay those parameters flat that are not yet, one set of arrays a dtype; return all that hold any of them."""
    loose: dict[np.dtype[Any], list[Parameter]] = {}
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.place is None:
            loose.setdefault(parameter.dtype, []).append(parameter)
    for group in loose.values():
        FlatParameters(group, allocate)
    found = {id(flat): flat for parameter in parameters if parameter.place for flat in parameter.place[:1]}
    return list(found.values())
