"""The base of the optimisers: parameter groups with their settings, flat state, and the step.

A step updates spans of flat arrays, not single parameters (groups.py). Other ways to train (a server that owns the
parameters, a pass fused with the exchange) put a `stepper` of their own on the flat arrays, which does it instead.
A sparse parameter, which does not lie flat, has a step of its own.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from npdp.autograd.rows import Rows
from npdp.autograd.tensor import Array
from npdp.kernels import Gradient
from npdp.nn.parameter import Allocate, FlatParameters, Parameter, allocate, lay_flat
from npdp.nn.sparse_parameter import SparseParameter
from npdp.nn.state import Order
from npdp.optim.checks import as_groups, not_negative
from npdp.optim.groups import ParameterGroup, Span
from npdp.optim.state import load_state_dict, state_dict

LearningRate = float | Callable[[int], float]


def setting(name: str) -> Any:
    """Return a property of optimisers: a setting of all parameter groups; set, it is set in each."""

    def read(optimizer: Optimizer) -> Any:
        return optimizer.common(name, [settings[name] for settings in optimizer.param_groups])

    def write(optimizer: Optimizer, value: Any) -> None:
        for settings in optimizer.param_groups:
            settings[name] = value

    return property(read, write, doc=f"{name} of all parameter groups; ValueError where they have others.")


class Optimizer:
    """Base class of the optimisers: they name their settings and their state, and write `update`.

    Args:
        parameters: tensors to change, of float32 or float64; laid flat here unless they already are. Or parameter
            groups, as PyTorch's: dicts with such "params" and the settings that are not the defaults.
        defaults: the settings; "lr", the learning rate, is a number or a function of the iteration (counted from 0),
            see `learning_rates`.
        allocate: gives the memory of parameters, gradients and state.

    Attributes:
        param_groups: of each group a dict with its "params" and all settings, which may be set between steps.
        defaults: as given.
        parameters: those of all groups, in order.
        groups: what of each group lies in one set of flat arrays, with its state.
        lr: as given; so is each setting an attribute, where all groups have the same.
        iteration: number of steps done.
        sparse_parameters: those of `parameters` that are sparse, in their order, each with its group's dict.
    """

    lr = setting("lr")
    counts_steps = False  # whether PyTorch's state of a parameter has "step"

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[dict[str, Any]],
        defaults: dict[str, Any],
        allocate: Allocate = allocate,
    ) -> None:
        self.defaults, self._allocate = defaults, allocate
        self.iteration = 0
        self.param_groups: list[dict[str, Any]] = []
        self.parameters: list[Parameter] = []
        self.groups: list[ParameterGroup] = []
        self.sparse_parameters: dict[SparseParameter, dict[str, Any]] = {}
        self.check(defaults)
        self._add(as_groups(parameters))

    def check(self, settings: dict[str, Any]) -> None:
        """Raise ValueError or TypeError where a group's settings cannot be used, or not for its "params"."""
        if not callable(settings["lr"]):
            not_negative("lr", settings["lr"])

    def state_names(self, settings: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of a group's state, PyTorch's; `update` gets the arrays in this order."""
        return ()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take up another parameter group; its "params" are laid flat by themselves unless they already are."""
        self._add(as_groups([param_group]))

    def _add(self, given: list[dict[str, Any]]) -> None:
        added = [{"params": [], **self.defaults, **group} for group in given]
        for settings in added:
            self.check(settings)
        mine = [*self.parameters, *(parameter for settings in added for parameter in settings["params"])]
        if len(set(mine)) < len(mine):
            raise ValueError(f"{type(self).__name__}: a parameter is in more than one parameter group")
        flats, known = lay_flat(mine[len(self.parameters) :], self._allocate), {group.flat for group in self.groups}
        self.parameters = mine
        self.param_groups += added
        for settings in added:
            for flat in flats:
                if any(parameter.flat is flat for parameter in settings["params"]):
                    self.groups.append(ParameterGroup(flat, settings, self._state_in(flat, settings)))
            for parameter in settings["params"]:
                if isinstance(parameter, SparseParameter):
                    self.sparse_parameters[parameter], parameter.optimizer = settings, weakref.ref(self)
        for flat in flats:
            if flat not in known:
                flat.optimizers.append(weakref.ref(self))

    def _state_in(self, flat: FlatParameters, settings: dict[str, Any]) -> dict[str, Array]:
        """Return the arrays of a group's state: where another of these flat parameters has some, those."""
        others = [group.state for group in self.groups if group.flat is flat]
        there = {name: array for state in others for name, array in state.items()}
        names = self.state_names(settings)
        return {name: there[name] if name in there else self._allocate(flat.data.size, flat.dtype) for name in names}

    def common(self, name: str, values: list[Any]) -> Any:
        """Return the value that all parameter groups have; ValueError where they have others."""
        if any(value != values[0] for value in values):
            said = ", ".join(map(str, values))
            raise ValueError(
                f"{type(self).__name__}.{name}: parameter groups have different ones, {said}: see param_groups"
            )
        return values[0]

    def lr_of(self, settings: dict[str, Any]) -> float:
        """Return the learning rate of a group's next step."""
        lr = settings["lr"]
        now: float = lr(self.iteration) if callable(lr) else lr
        return now

    @property
    def current_lr(self) -> float:
        """The learning rate of the next step; ValueError where parameter groups have others."""
        lr: float = self.common("current_lr", [self.lr_of(settings) for settings in self.param_groups])
        return lr

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

    def state_dict(self, order: Order = "C") -> dict[str, Any]:
        """Return state and settings, copied, in PyTorch's layout (state.py): with it training goes on where it was.

        The arrays lie in C order, or as in the optimiser ("K"), which is several times as quick.
        Under local SGD it is this rank's own.

        Raises:
            RuntimeError: servers, or other ranks, have the state, or a part of it.
        """
        return state_dict(self, order)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take state and settings over, PyTorch's too; a learning rate that is a function here stays.

        Raises:
            ValueError: what does not fit, all of it named; nothing is changed then.
            RuntimeError: as `state_dict`: load before the model is wrapped.
        """
        load_state_dict(self, state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: every `.grad` is None, and the next backward writes, not adds."""
        if not set_to_none:
            raise ValueError("zero_grad: wanted set_to_none=True, gradients are never zeros instead, got False")
        for parameter in self.parameters:
            parameter.raw_grad = None

    def step(self) -> None:
        """Update all parameters that have a gradient, in place.

        Under `DataParallel(on_nan="skip")` nothing is changed, `iteration` neither, where gradients are not finite.

        Raises:
            RuntimeError: gradients that were accumulated under `no_sync` and not exchanged since.
            ValueError: the learning rate is negative or not finite; TypeError where it is no number.
        """
        for settings in self.param_groups:
            lr = self.lr_of(settings)
            try:
                usable = 0 <= lr < math.inf
            except (TypeError, ValueError):  # no number
                usable = False
            if not usable:
                not_negative(f"{type(self).__name__}.step: lr of iteration {self.iteration}", lr)
        held = False
        for group in self.groups:  # before anything is changed
            for reducer in group.flat.reducers:
                held |= reducer.holds_back(self.parameters)
        for sparse in self.sparse_parameters:
            held |= sparse.holds_back()
        if held:
            return
        for group in self.groups:
            if group.flat.stepper is not None:
                group.flat.stepper.step(self, group)
                continue
            for span in group.next_spans():
                self.update(group, span)
            group.mark_changed()
        for sparse, settings in self.sparse_parameters.items():
            sparse.step(self, settings)
        self.iteration += 1

    def update(self, group: ParameterGroup, span: Span, grad: Gradient | None = None) -> None:
        """Update one span, in place, from its gradient in the flat array, or from `grad`, as long as the span."""
        raise NotImplementedError

    def update_rows(self, data: Array, rows: Rows, values: Array, settings: dict[str, Any]) -> None:
        """Update rows of a sparse parameter, in place: to those rows what the dense update does, bit for bit.

        Args:
            data: (N, ...) its values, whoever has them.
            rows: (k,) each once.
            values: (k, ...) the gradient there.
            settings: those of its group.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update of rows")
