"""Parameter groups: parameters with the same settings, laid flat with the optimiser's state for them.

    data     | 0.weight .......... | 0.bias .. | 2.weight ..... | 2.bias |     one set of flat arrays a dtype
    group    |<- numbers 0, 1, 2 ------------------------------>|              this group's parameters
    spans    |<- start   step 5 -------- stop ->|<- step 4 ---->|              equally often updated, in one pass

A step does not loop over parameters: it finds spans of parameters that have a gradient and are equally old, in most
programs one span for all of a group, and updates each in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from npdp.autograd.tensor import Array
from npdp.kernels import SUM_NOT_FINITE, Gradient, Sum
from npdp.nn.parameter import FlatParameters, put_in

Update = Callable[..., int]  # of arrays that it holds, by scalars
MOST_CACHED = 64  # spans whose update is kept: where some parameters have no gradient, these may be others each time


class Span(NamedTuple):
    """Span of a flat array: elements [start, stop), to be updated for the `step`-th time, counted from 1."""

    start: int
    stop: int
    step: int


def within(spans: list[Span], start: int, stop: int) -> list[Span]:
    """Return what of the spans lies in [start, stop), which is one rank's for good: only that one has its state."""
    parts = [span._replace(start=max(span.start, start), stop=min(span.stop, stop)) for span in spans]
    return [span for span in parts if span.start < span.stop]


class ParameterGroup:
    """Parameter group: parameters of one of a user's groups in flat arrays, with the optimiser's state as flat.

    Attributes:
        flat: the parameters' arrays.
        settings: the user's dict in `optimizer.param_groups`: by what they are updated. It may have parameters of
            another dtype as well, which are another `ParameterGroup` then.
        numbers: which of the flat parameters are in this group.
        parameters: those.
        steps: how often each has been updated.
        state: name -> array as long as `flat.data`, of which other groups may use other parts; `move_state` changes it.
    """

    def __init__(self, flat: FlatParameters, settings: dict[str, Any], state: Mapping[str, Array]) -> None:
        self.flat = flat
        self.settings = settings
        numbers: list[int] = sorted(p.number for p in settings["params"] if p.flat is flat)
        self.numbers = numbers
        self.steps = [0] * len(numbers)
        self._names = list(state)
        self.parameters = [flat.parameters[number] for number in numbers]
        self._ends = flat.starts[numbers[0]], flat.starts[numbers[-1] + 1]
        self._unbroken = numbers == list(range(numbers[0], numbers[-1] + 1))
        self.move_state(state)

    def next_spans(self) -> list[Span]:
        """Count a step of the parameters that have gradients, and return their spans."""
        for parameter in self.parameters:
            if parameter.raw_grad is not parameter.grad_buffer or parameter.array is not parameter.data_buffer:
                return self._next_broken_spans()
        if not self._unbroken or self.steps.count(self.steps[0]) != len(self.steps):
            return self._next_broken_spans()
        step = self.steps[0] + 1
        self.steps = [step] * len(self.steps)
        start, stop = self._ends
        return [Span(start, stop, step)]

    def _next_broken_spans(self) -> list[Span]:
        """Do so where some parameters have no gradient, another age, or another owner."""
        used = []
        for index, parameter in enumerate(self.parameters):
            if parameter.array is not parameter.data_buffer:
                parameter.array = put_in(parameter.data_buffer, parameter.array, "data")
            if parameter.raw_grad is None:
                continue
            if parameter.raw_grad is not parameter.grad_buffer:
                put_in(parameter.grad_buffer, parameter.raw_grad, "grad")
            used.append(index)
        return self.next_spans_of(used)

    def next_spans_of(self, indices: Iterable[int]) -> list[Span]:
        """Count a step of these of its parameters, and return their spans, neighbours of one age together."""
        spans: list[Span] = []
        for index in indices:
            self.steps[index] += 1
            number = self.numbers[index]
            start, stop = self.flat.starts[number : number + 2]
            if spans and (spans[-1].stop, spans[-1].step) == (start, self.steps[index]):
                spans[-1] = spans[-1]._replace(stop=stop)
            else:
                spans.append(Span(start, stop, self.steps[index]))
        return spans

    def move_state(self, state: Mapping[str, Array]) -> None:
        """Take these arrays for the state, as they are."""
        self.state: Mapping[str, Array] = MappingProxyType(dict(state))
        self.forget()

    def forget(self) -> None:
        """Forget the updates that are cached, and with them the arrays that they hold."""
        self._cached: dict[tuple[int, int, Sum | None], Update] = {}
        self._moves = self.flat.moves

    def apply(self, make: Callable[..., Update], span: Span, grad: Gradient | None, *scalars: float) -> None:
        """Update a span by what `make` makes of its arrays: `kernels.sgd_updater` or `adam_updater`.

        Raises:
            ValueError: The arrays overlap.
        """
        if self._moves != self.flat.moves:
            self.forget()
        update = None
        if grad is None or isinstance(grad, Sum):  # else it may be another array in each step
            update = self._cached.get((span.start, span.stop, grad))
        status = (update or self._cache(make, span, grad))(*scalars)
        if isinstance(grad, Sum) and status == SUM_NOT_FINITE:
            grad.was_finite = False
        elif status:
            raise ValueError("parameters, gradient and the optimiser's state overlap, wanted separate memory")

    def _cache(self, make: Callable[..., Update], span: Span, grad: Gradient | None) -> Update:
        """Return the update of a span's parameters, gradient and state."""
        gradient = _view(self.flat.grad, span) if grad is None else grad  # what is given is that of the span
        update = make(_view(self.flat.data, span), gradient, *(_view(self.state[name], span) for name in self._names))
        if len(self._cached) >= MOST_CACHED:
            self.forget()
        if not isinstance(grad, np.ndarray):
            self._cached[span.start, span.stop, grad] = update
        return update

    def mark_changed(self) -> None:
        """Note the change in place, so that a graph that still needs the old values says so."""
        for parameter in self.parameters:
            if parameter.raw_grad is not None:
                parameter.version[0] += 1


def _view(array: Array, span: Span) -> Array:
    """Return the view of a span in a flat array; where it is all, the array."""
    return array if span.stop - span.start == array.size else array[span.start : span.stop]
