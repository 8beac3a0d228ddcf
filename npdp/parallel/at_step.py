"""What the strategies share whose gradients meet in the optimiser's step, not in backward.

    backward   gradients are this rank's own, in its flat arrays; several add up
    step       `_step` sums and updates, in place of the optimiser

Meanwhile nobody may look at a gradient, which would be only this rank's share, and parameters are read-only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from npdp.autograd import Batch
from npdp.autograd.tensor import Array
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter, put_in
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.exchange import Exchange
from npdp.parallel.weight import loss_weight


class HiddenGradient(Parameter):
    """What a parameter is while neither backward nor the step is at work: nobody may look at its gradient."""

    why_hidden = ""

    @property
    def grad(self) -> Array | None:
        raise RuntimeError(self.why_hidden)

    @grad.setter
    def grad(self, grad: Array | None) -> None:
        self.__dict__["grad"] = grad

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameter, Parameter.__reduce__(self)[1]


@cache
def _hiding(kind: type[Parameter], why: str) -> type[Parameter]:
    """Return the class of a parameter of this class, which may be the user's own, while its gradient is hidden."""
    bases = (HiddenGradient,) if kind is Parameter else (HiddenGradient, kind)
    return type(kind.__name__, bases, {"why_hidden": why})


class ExchangeAtStep(Exchange):
    """Base: keeps gradients hidden until the optimiser's step; what it then sums is each rank's own.

    Args:
        parameters: to be trained; the optimiser must have laid no others beside them.
        world: the ranks.
        why_hidden: what is said to who looks at a gradient.
    """

    def __init__(self, parameters: list[Parameter], world: Communicator, why_hidden: str) -> None:
        require_own_arrays(parameters)
        super().__init__(parameters, world)
        self._share_gradients()
        # A class and no flag: an attribute that is looked up in every backward must not cost a test
        self._kinds = [(type(p), _hiding(type(p), why_hidden)) for p in parameters]  # type: ignore[arg-type]
        for flat in self.flats:
            flat.stepper = self.step
        self._show_gradients(False)

    def _show_gradients(self, show: bool) -> None:
        for parameter, (shown, hidden) in zip(self.parameters, self._kinds):
            parameter.__class__ = shown if show else hidden

    # What the engine calls
    def begin(self, batch: Batch | None, alone: bool) -> float:
        weight = loss_weight(batch, self.world.world_size)  # refuses what it must before anything is changed
        self._batch = batch
        self._show_gradients(True)
        return weight

    def finish(self) -> None:
        if self.local or not self.syncing:
            self._set_local(not self.syncing)
        self._show_gradients(False)

    def cancel(self) -> None:
        self._show_gradients(False)

    # What the optimiser calls
    def step(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        """Sum and update, in place of the optimiser's own step on this group.

        Raises:
            RuntimeError: a parameter's data is another array now, which nobody here would update.
        """
        for parameter in group.parameters:
            require_not_replaced(parameter)
        self._show_gradients(True)
        try:
            self._step(optimizer, group)
            group.mark_changed()
        finally:
            self._show_gradients(False)

    def _step(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        raise NotImplementedError


def require_not_replaced(parameter: Parameter) -> None:
    """Raise RuntimeError where a parameter's data is another array than the one that is updated."""
    if parameter.data is not parameter.data_buffer:
        raise RuntimeError(
            f"DataParallel: data of the parameter of shape {parameter.shape} was replaced after the model was wrapped; "
            "set values before"
        )


def move_in(group: ParameterGroup) -> list[int]:
    """Put the gradients of a group's parameters where they belong; return the indices of those that have none."""
    unused = []
    for index, parameter in enumerate(group.parameters):
        gradient = parameter.grad
        if gradient is None:
            unused.append(index)
        elif gradient is not parameter.grad_buffer:
            parameter.grad = put_in(parameter.grad_buffer, gradient, "grad")
    return unused


def refuse_sparse(parameters: list[Parameter]) -> None:
    """Raise ValueError where a strategy that only knows whole parameters has sparse ones."""
    if any(parameter.sparse for parameter in parameters):
        raise ValueError(
            "DataParallel: this strategy passes over whole parameters in the optimiser's step, and the model has "
            'sparse ones: use all-reduce with update="replicated", or make its layers with sparse=False'
        )


def require_own_arrays(parameters: list[Parameter]) -> None:
    """Raise ValueError where an optimiser has laid these parameters beside others that are trained otherwise."""
    flats = {parameter.flat for parameter in parameters if parameter.flat is not None}
    others = {p for flat in flats for p in flat.parameters if p.requires_grad} - set(parameters)
    if others:
        raise ValueError(
            f"DataParallel: the optimiser also has {len(others)} parameters of another model; where ranks meet in the "
            "optimiser's step, give each model its own"
        )
