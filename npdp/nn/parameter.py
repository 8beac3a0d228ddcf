"""Parameters, and their layout side by side in one flat array.

    data   | 0.weight ......... | 0.bias .. | 2.weight ...... | 2.bias |
    grad   | 0.weight ......... | 0.bias .. | 2.weight ...... | 2.bias |
             each starts on a cache line; a parameter's data and its `.grad` are views. Behind each is room for
             some numbers that a reducer sends along with the gradients

An optimiser then updates a whole model in one pass, and an exchange sends a span of gradients as one buffer,
straight from where backward wrote them. A parameter is laid flat once, by whoever comes first, an optimiser
or data parallel training; both use that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npdp.autograd.tensor import Array, Tensor, TensorLike
from npdp.autograd.values import Values, plain
from npdp.base.partition import part, rounded_up
from npdp.kernels.memory import LINE_BYTES as LINE_BYTES
from npdp.kernels.memory import allocate as allocate

SPARE = 2  # places behind each parameter, for what is sent along
READ_ONLY = (
    'parameters are read-only with update="fused" and under a parameter server, for ranks hold them in common: '
    "set values before the model is wrapped"
)

Allocate = Callable[[int, "np.dtype[Any]"], Array]


class Parameter(Tensor):
    """Parameter: a leaf that a model owns and an optimiser changes; `requires_grad=False` freezes it.

    A copy (`copy.deepcopy`, pickle) has the values, and is not laid flat. `p += x` and its like, inside `no_grad()`,
    change the values in place.

    Args:
        data: its first values.
        requires_grad: whether it is trained.

    Attributes:
        flat: the flat arrays that it lies in, once it has been laid flat.
        number: its number among their parameters.
    """

    flat: FlatParameters | None = None
    number: int = -1
    lies_flat = True  # whether it is to be laid flat

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)

    @property
    def data(self) -> Any:
        return self.array.view(Values)

    @data.setter
    def data(self, data: Any) -> None:
        self.array = plain(data, self.array)

    def reduce_by(self, reducer: Any) -> None:
        """Have a reducer make the gradient that of all ranks, in each backward that reaches this parameter."""
        self.reducer = reducer

    def hide_grad(self, why: str | None) -> None:
        """Have `.grad` raise RuntimeError with this reason; None: show it again."""
        self.why_hidden = why

    def require_writeable(self) -> None:
        """Raise ValueError where ranks hold the values in common, and only the optimiser may write them."""
        if self.data_buffer is not None and not self.array.flags.writeable:
            raise ValueError(READ_ONLY)

    def _write(self, change: Callable[[Array], object], values: Any = None) -> Tensor:
        self.require_writeable()
        return super()._write(change, values)

    # Operators in place write, where `p = p - lr * p.grad` would only bind a name to a result
    def __iadd__(self, other: TensorLike) -> Tensor:
        return self._change(np.add, other)

    def __isub__(self, other: TensorLike) -> Tensor:
        return self._change(np.subtract, other)

    def __imul__(self, other: TensorLike) -> Tensor:
        return self._change(np.multiply, other)

    def __itruediv__(self, other: TensorLike) -> Tensor:
        return self._change(np.divide, other)

    def _change(self, ufunc: np.ufunc, other: TensorLike) -> Tensor:
        return self._write(lambda data: ufunc(data, np.asarray(other), out=data, dtype=data.dtype), other)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (np.array(self.array), self.requires_grad)


def put_in(buffer: Array | None, array: Array, what: str) -> Array:
    """Copy what the user has put in the place of a parameter's own array into that; return it.

    Raises:
        ValueError: it has another shape.
    """
    assert buffer is not None
    if np.shape(array) != buffer.shape:
        raise ValueError(f"{what} of a parameter of shape {buffer.shape} was set to an array of {np.shape(array)}")
    np.copyto(buffer, array, casting="same_kind")
    return buffer


class FlatParameters:
    """Parameters of one dtype, laid flat in the given order; their values move there, `.data` becomes a view.

    Attributes:
        parameters: the parameters.
        starts: where each begins in `data` and `grad`; the last entry is where they end.
        data: (count,) all values.
        grad: (count,) all gradients; a parameter's `.grad` is a view of it once backward has written it.
        spare: where the SPARE places behind each parameter begin in `grad`; 0 except during an exchange.
        grad_shared: whether `grad` lies where the ranks of a host share memory.
        reducers: those of its parameters; an optimiser asks each, before a step, whether gradients are ready for it.
        stepper: of these, what carries out an optimiser's whole step, `stepper.step(optimizer, group)`, where that is
            not left to the optimiser: the gradients are still to be summed then.
        state_elsewhere: why an optimiser's state for them is not all on this rank; None where it is.
        optimizers: weak references to the optimisers that have some of these parameters.
        moves: how often `data` or `grad` became another array.
    """

    def __init__(self, parameters: list[Parameter], allocate: Allocate) -> None:
        self.parameters = parameters
        self.dtype = parameters[0].dtype
        line = LINE_BYTES // self.dtype.itemsize
        self.starts = [0]
        for parameter in parameters:
            self.starts.append(self.starts[-1] + rounded_up(parameter.array.size + SPARE, line))
        self.spare = [start + parameter.array.size for start, parameter in zip(self.starts, parameters)]
        self.grad_shared = False
        self._in_c_order = [parameter.array.flags.c_contiguous for parameter in parameters]  # the user may set others
        self.reducers: list[Any] = []
        self.stepper: Any = None
        self.state_elsewhere: str | None = None
        self.optimizers: list[Any] = []
        self.moves = 0
        data, grad = (allocate(self.starts[-1], self.dtype) for _ in range(2))
        self.move_data(data)
        self.move_grad(grad)
        for number, parameter in enumerate(parameters):
            parameter.flat, parameter.number = self, number

    def reduce_by(self, reducer: Any) -> None:
        """Note a reducer of some of the parameters; it carries out the optimiser's steps where it says `steps`."""
        self.reducers.append(reducer)
        self.stepper = reducer if reducer.steps else self.stepper

    def leave_reducers(self, grad: Array) -> None:
        """Have no reducer any more, and move the gradients to `grad`, an array of zeros as long as this one."""
        self.reducers, self.stepper, self.grad_shared = [], None, False
        self.move_grad(grad)

    def share_grad(self, grad: Array) -> None:
        """Move the gradients to `grad`, which lies where the ranks of a host share memory."""
        grad[:] = 0
        self.move_grad(grad)
        self.grad_shared = True  # another reducer may have some of these parameters, and views of this array

    def move_data(self, data: Array, writeable: bool = True) -> None:
        """Move the values to `data`, an array as long as this one; `.data` is then a view of it, writeable or not."""
        for number, parameter in enumerate(self.parameters):
            values = self.view(data, number)
            values[...] = parameter.array
            values.flags.writeable = writeable
            parameter.array = parameter.data_buffer = values
        self.data = data
        self.moves += 1

    def move_grad(self, grad: Array) -> None:
        """Move the gradients to `grad`, an array of zeros as long as this one."""
        for number, parameter in enumerate(self.parameters):
            before, parameter.grad_buffer = parameter.raw_grad, self.view(grad, number)
            if before is not None:
                parameter.grad_buffer[...] = before
                parameter.raw_grad = parameter.grad_buffer
        self.grad = grad
        self.moves += 1

    def part_in_lines(self, parts: int, number: int) -> tuple[int, int]:
        """Return [start, stop) of a part of the arrays, in whole cache lines: who writes one disturbs no other."""
        line = LINE_BYTES // self.dtype.itemsize
        start, stop = part(self.starts[-1] // line, parts, number)
        return start * line, stop * line

    def view(self, flat: Array, number: int) -> Array:
        """Return a parameter's part of a flat array, in its shape and in its order in memory."""
        parameter = self.parameters[number]
        start = self.starts[number]
        part = flat[start : start + parameter.array.size]
        if self._in_c_order[number]:
            return part.reshape(parameter.shape)
        turned: Array = part.reshape(parameter.shape[::-1]).T
        return turned


def lay_flat(parameters: Iterable[Parameter], allocate: Allocate = allocate) -> list[FlatParameters]:
    """Lay those parameters flat that are not yet, one set of arrays a dtype; return all that hold any of them."""
    loose: dict[np.dtype[Any], list[Parameter]] = {}
    parameters = [parameter for parameter in parameters if parameter.lies_flat]
    for parameter in parameters:
        if parameter.flat is None:
            loose.setdefault(parameter.dtype, []).append(parameter)
    for group in loose.values():
        FlatParameters(group, allocate)
    return list(dict.fromkeys(parameter.flat for parameter in parameters if parameter.flat is not None))
