"""Base class of the strategies whose gradients meet in the optimiser's step, not in backward.

    backward   gradients are this rank's own, in its flat arrays; several add up
    step       `update` sums and updates, in place of the optimiser

Meanwhile nobody may look at a gradient, which would be only this rank's share, and parameters are read-only.
"""

from __future__ import annotations

from npdp.autograd import Tensor
from npdp.collectives.communicator import Communicator
from npdp.nn.parameter import Parameter, put_in
from npdp.optim.groups import ParameterGroup
from npdp.optim.optimizer import Optimizer
from npdp.parallel.strategy import Strategy, share_gradients


class AtStep(Strategy):
    """Base class of strategies whose gradients, each rank's own, stay hidden until the optimiser's step."""

    steps = True
    why_hidden = ""  # what is said to who looks at a gradient

    def attach(self, parameters: list[Parameter], communicator: Communicator) -> None:
        require_own_arrays(parameters)
        super().attach(parameters, communicator)
        share_gradients(self)
        for parameter in parameters:
            parameter.hide_grad(self.why_hidden)

    def begin(self, loss: Tensor, counted: float | None, alone: bool) -> float:
        return self.loss_weight.of_backward(counted)

    def exchange(self) -> None:
        """Do nothing: gradients stay on this rank."""

    def step(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        """Sum and update, in place of the optimiser's own step on this group.

        Raises:
            RuntimeError: a parameter's data is another array now, which nobody here would update.
        """
        for parameter in group.parameters:
            require_not_replaced(parameter)
        self.step_on(optimizer, group)
        group.mark_changed()

    def step_on(self, optimizer: Optimizer, group: ParameterGroup) -> None:
        """Sum the gradients of a group's parameters, and update them."""
        raise NotImplementedError


def require_not_replaced(parameter: Parameter) -> None:
    """Raise RuntimeError where a parameter's data is another array than the one that is updated."""
    if parameter.array is not parameter.data_buffer:
        raise RuntimeError(
            f"DataParallel: data of the parameter of shape {parameter.shape} was replaced after the model was wrapped; "
            "set values before"
        )


def move_in(group: ParameterGroup) -> list[int]:
    """Put the gradients of a group's parameters where they belong; return the indices of those that have none."""
    unused = []
    for index, parameter in enumerate(group.parameters):
        gradient = parameter.raw_grad
        if gradient is None:
            unused.append(index)
        elif gradient is not parameter.grad_buffer:
            parameter.raw_grad = put_in(parameter.grad_buffer, gradient, "grad")
    return unused


def require_own_arrays(parameters: list[Parameter]) -> None:
    """Raise ValueError where an optimiser has laid these parameters beside others that are trained otherwise."""
    flats = {parameter.flat for parameter in parameters if parameter.flat is not None}
    others = {p for flat in flats for p in flat.parameters if p.requires_grad} - set(parameters)
    if others:
        raise ValueError(
            f"DataParallel: the optimiser also has {len(others)} parameters of another model; where ranks meet in the "
            "optimiser's step, give each model its own"
        )
