"""What all optimisers share: flat state, updates by range, and who carries them out.

A step does not loop over parameters: it finds runs of parameters that have a gradient and are equally old,
in most programs one run for the whole model, and updates each run in one pass. Other ways to train (a server that owns
the parameters, a pass fused with the exchange) put a `stepper` of their own on the flat arrays, which does it instead.
Sparse parameters are apart: of each, the rows that have a gradient are updated; a `row_updater` may do that instead.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import numpy as np

from npdp.autograd.rows import RowGradient, Rows, no_rows
from npdp.autograd.tensor import Array
from npdp.kernels import Gradient, Sum
from npdp.nn.parameter import Allocate, FlatParameters, Parameter, allocate, lay_flat, put_in, row_gradient
from npdp.optim.checks import checked, not_negative

LearningRate = float | Callable[[int], float]
Update = Callable[..., int]  # of arrays that it holds, by scalars
MOST_SETTLED = 64  # runs whose update is kept: where some parameters have no gradient, these may be others each time


class Run(NamedTuple):
    """Elements [start, stop) of a flat array, to be updated for the `step`-th time, counted from 1."""

    start: int
    stop: int
    step: int


def within(runs: list[Run], start: int, stop: int) -> list[Run]:
    """Return what of the runs lies in [start, stop), which is one rank's for good: only that one has its state."""
    parts = [run._replace(start=max(run.start, start), stop=min(run.stop, stop)) for run in runs]
    return [run for run in parts if run.start < run.stop]


class Slab:
    """This optimiser's parameters in one set of flat arrays, with its state for them, as flat.

    Attributes:
        flat: the parameters' arrays.
        numbers: which of its parameters are this optimiser's.
        parameters: those.
        steps: how often each has been updated.
        state: name -> array as long as `flat.data`; `move_state` changes it.
    """

    def __init__(self, flat: FlatParameters, numbers: list[int], names: Iterable[str], allocate: Allocate) -> None:
        self.flat = flat
        self.numbers = numbers
        self.steps = [0] * len(numbers)
        self._names = list(names)
        self.parameters = [flat.parameters[number] for number in numbers]
        self._ends = flat.starts[numbers[0]], flat.starts[numbers[-1] + 1]
        self._unbroken = numbers == list(range(numbers[0], numbers[-1] + 1))
        self.move_state({name: allocate(flat.data.size, flat.dtype) for name in self._names})

    def next_runs(self) -> list[Run]:
        """Count a step of the parameters that have gradients, and return their runs."""
        for parameter in self.parameters:
            if parameter.grad is not parameter.grad_buffer or parameter.data is not parameter.data_buffer:
                return self._next_broken_runs()
        if not self._unbroken or self.steps.count(self.steps[0]) != len(self.steps):
            return self._next_broken_runs()
        step = self.steps[0] + 1
        self.steps = [step] * len(self.steps)
        return [Run(*self._ends, step)]

    def _next_broken_runs(self) -> list[Run]:
        """Do so where some parameters have no gradient, another age, or another owner."""
        used = []
        for index, parameter in enumerate(self.parameters):
            if parameter.data is not parameter.data_buffer:
                parameter.data = put_in(parameter.data_buffer, parameter.data, "data")
            if parameter.grad is None:
                continue
            if parameter.grad is not parameter.grad_buffer:
                put_in(parameter.grad_buffer, parameter.grad, "grad")
            used.append(index)
        return self.next_runs_of(used)

    def next_runs_of(self, indices: Iterable[int]) -> list[Run]:
        """Count a step of these of its parameters, and return their runs, neighbours of one age together."""
        runs: list[Run] = []
        for index in indices:
            self.steps[index] += 1
            number = self.numbers[index]
            start, stop = self.flat.starts[number : number + 2]
            if runs and (runs[-1].stop, runs[-1].step) == (start, self.steps[index]):
                runs[-1] = runs[-1]._replace(stop=stop)
            else:
                runs.append(Run(start, stop, self.steps[index]))
        return runs

    def move_state(self, state: Mapping[str, Array]) -> None:
        """Take these arrays for the state, as they are."""
        self.state: Mapping[str, Array] = MappingProxyType(dict(state))
        self.forget()

    def forget(self) -> None:
        """Forget the updates that were settled, and with them the arrays that they hold."""
        self._settled: dict[tuple[int, int, Sum | None], Update] = {}
        self._moves = self.flat.moves

    def apply(self, make: Callable[..., Update], run: Run, grad: Gradient | None, *scalars: float) -> None:
        """Update a run by what `make` makes of its arrays: `kernels.sgd_updater` or `adam_updater`.

        Raises:
            ValueError: The arrays overlap.
        """
        if self._moves != self.flat.moves:
            self.forget()
        update = None if isinstance(grad, np.ndarray) else self._settled.get((run.start, run.stop, grad))
        if (update or self._settle(make, run, grad))(*scalars):
            raise ValueError("parameters, gradient and the optimiser's state overlap, wanted separate memory")

    def _settle(self, make: Callable[..., Update], run: Run, grad: Gradient | None) -> Update:
        """Return the update of a run's parameters, gradient and state."""
        gradient = _view(self.flat.grad, run) if grad is None else grad  # what is given is that of the run
        update = make(_view(self.flat.data, run), gradient, *(_view(self.state[name], run) for name in self._names))
        if len(self._settled) >= MOST_SETTLED:
            self.forget()
        if not isinstance(grad, np.ndarray):  # it may be another one in each step
            self._settled[run.start, run.stop, grad] = update
        return update

    def mark_changed(self) -> None:
        """Note the change in place, so that a graph that still needs the old values says so."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.version[0] += 1


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
        self.slabs = [
            Slab(flat, sorted(p.number for p in self.parameters if p.flat is flat), self.state_names, allocate)
            for flat in lay_flat(self.parameters, allocate)
        ]
        for slab in self.slabs:
            slab.flat.optimizers.append(weakref.ref(self))
        for parameter in self.sparse_parameters:
            parameter.optimizer = weakref.ref(self)
        flats = [slab.flat for slab in self.slabs]
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
        for slab in self.slabs:
            if slab.flat.stepper is not None:
                slab.flat.stepper(self, slab)
                continue
            for run in slab.next_runs():
                self.update(slab, run)
            slab.mark_changed()
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

    def update(self, slab: Slab, run: Run, grad: Gradient | None = None) -> None:
        """Update one run, in place, from its gradient in the flat array, or from `grad`, as long as the run."""
        raise NotImplementedError

    def update_rows(self, parameter: Parameter, rows: Rows, values: Array) -> None:
        """Update rows of a sparse parameter, in place: to those rows what the dense update does, bit for bit.

        Args:
            parameter: (N, ...), whoever owns it.
            rows: (k,) each once.
            values: (k, ...) the gradient there.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update of rows")


def _view(array: Array, run: Run) -> Array:
    """Return the view of a run in a flat array; where it is all, the array."""
    return array if run.stop - run.start == array.size else array[run.start : run.stop]
