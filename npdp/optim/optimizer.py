"""What all optimisers share: flat state, updates by range, and who carries them out.

A step updates spans of flat arrays, not single parameters (groups.py). Other ways to train (a server that owns the
parameters, a pass fused with the exchange) put a `stepper` of their own on the flat arrays, which does it instead.
Sparse parameters are apart: of each, the rows that have a gradient are updated; a `row_updater` may do that instead.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import NoReturn

from npdp.autograd.rows import RowGradient, Rows, no_rows
from npdp.autograd.tensor import Array
from npdp.kernels import Gradient
from npdp.nn.parameter import Allocate, FlatParameters, Parameter, allocate, lay_flat, row_gradient
from npdp.optim.checks import checked, not_negative
from npdp.optim.groups import ParameterGroup, Span

LearningRate = float | Callable[[int], float]


class Optimizer:
    """Base of the optimisers: they name their state and write `update`.

    Args:
        parameters: tensors to change, of float32 or float64; laid flat here unless they already are.
        lr: the learning rate, a number or a function of the iteration (counted from 0), see `learning_rates`.
        weight_decay: added to the gradient, times the parameter.
        allocate: gives the memory of parameters, gradients and state.

    Attributes:
        lr: as given; it may be set between steps.
        iteration: number of steps done.
        sparse_parameters: those of `parameters` that are sparse, in their order.
    """

    state_names: tuple[str, ...] = ()
    settings: tuple[str, ...] = ("weight_decay",)  # attributes by which it updates, beside `lr`: alike on all ranks

    def __init__(
        self, parameters: Iterable[Parameter], lr: LearningRate, weight_decay: float, allocate: Allocate = allocate
    ) -> None:
        self.parameters = list(dict.fromkeys(checked(parameters)))  # each once
        self.lr = lr
        self.weight_decay = not_negative("weight_decay", weight_decay)
        self.iteration = 0
        self.sparse_parameters = [parameter for parameter in self.parameters if parameter.sparse]
        if not callable(lr):
            not_negative("lr", lr)
        self.groups = []
        for flat in lay_flat(self.parameters, allocate):
            numbers = sorted(parameter.number for parameter in self.parameters if parameter.flat is flat)
            self.groups.append(ParameterGroup(flat, numbers, self.state_names, allocate))
        for group in self.groups:
            group.flat.optimizers.append(weakref.ref(self))
        for parameter in self.sparse_parameters:
            parameter.optimizer = weakref.ref(self)
        flats = [group.flat for group in self.groups]
        self._holders: list[FlatParameters | Parameter] = [*flats, *self.sparse_parameters]  # of gradients

    @property
    def current_lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr(self.iteration) if callable(self.lr) else self.lr

    def __copy__(self) -> Optimizer:  # on the same parameters and state
        twin: Optimizer = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"{name} cannot be deep-copied or pickled, as it changes parameters where they lie: copy or pickle the "
            f"model, and make a new one for the copy, {name}(copy.parameters(), ...)"
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: every `.grad` is None, and the next backward writes, not adds."""
        if not set_to_none:
            raise ValueError("zero_grad: wanted set_to_none=True, gradients are never zeros instead, got False")
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Update all parameters that have a gradient, in place.

        Raises:
            RuntimeError: gradients that were accumulated under `no_sync` and not exchanged since.
            ValueError: the learning rate is negative or not finite; TypeError where it is no number.
        """
        try:
            usable = 0 <= self.current_lr < math.inf
        except (TypeError, ValueError):  # no number
            usable = False
        if not usable:
            not_negative(f"{type(self).__name__}.step: lr of iteration {self.iteration}", self.current_lr)
        for holder in self._holders:  # before anything is changed
            if holder.unsynced and (why := holder.unsynced()):
                raise RuntimeError(f"{type(self).__name__}.step: {why}")
        rows = self._row_gradients() if self.sparse_parameters else []
        for group in self.groups:
            if group.flat.stepper is not None:
                group.flat.stepper(self, group)
                continue
            for span in group.next_spans():
                self.update(group, span)
            group.mark_changed()
        for sparse, gradient in rows:
            if sparse.row_updater is not None:
                sparse.row_updater(self, sparse, gradient)
            else:
                self.update_rows(sparse, gradient.rows, gradient.values)
            sparse.version[0] += 1
        self.iteration += 1

    def _row_gradients(self) -> list[tuple[Parameter, RowGradient]]:
        """Return the sparse parameters that have a gradient, and it; TypeError where it is no `RowGradient`.

        A `row_updater` is told of each step, be it of no rows: servers wait for all workers, and count steps.
        """
        gradients = [(parameter, row_gradient(parameter)) for parameter in self.sparse_parameters]
        return [
            (parameter, no_rows(parameter.shape, parameter.dtype) if gradient is None else gradient)
            for parameter, gradient in gradients
            if gradient is not None or parameter.row_updater is not None
        ]

    def update(self, group: ParameterGroup, span: Span, grad: Gradient | None = None) -> None:
        """Update one span, in place, from its gradient in the flat array, or from `grad`, as long as the span."""
        raise NotImplementedError

    def update_rows(self, parameter: Parameter, rows: Rows, values: Array) -> None:
        """Update rows of a sparse parameter, in place: to those rows what the dense update does, bit for bit.

        Args:
            parameter: (N, ...), whoever owns it.
            rows: (k,) each once.
            values: (k, ...) the gradient there.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update of rows")
