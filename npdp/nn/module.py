"""A module: parameters and other modules as plain attributes, found by looking."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.operation import constant
from npdp.autograd.tensor import Array
from npdp.nn.parameter import Parameter


class StateDict(dict[str, Array]):
    """A copy of every parameter's values, by name; `parameters` are those that it was copied from."""

    def __init__(self, parameters: dict[str, Parameter]) -> None:
        super().__init__({name: np.array(parameter.data, order="C") for name, parameter in parameters.items()})
        self.parameters = parameters

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy, or what is pickled, is values only


class Mismatch(NamedTuple):
    """Names that a model and a state do not share: of parameters without a value, of values without a parameter."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of layers and models: set parameters and modules as attributes, write `forward`.

    Names are paths of attributes, as in PyTorch: `0.weight`, `encoder.fc1.bias`.
    """

    training: bool = True
    _holders: tuple[weakref.ref[Module], ...] = ()  # the modules that this was set in, the first one first

    def forward(self, *inputs: Any, **named: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.forward(*inputs, **named)

    # What it is made of
    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (attribute, module) in the order in which they were set."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        """Yield the modules that are its attributes, in the order in which they were set."""
        for _, child in self.named_children():
            yield child

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (path, module) for this module and all below it."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, parameter); one that is used in several places comes once, under its first path."""
        seen: set[int] = set()
        for path, parameter in self._all_paths():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield path, parameter

    def _all_paths(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, parameter) for each place where a parameter is used."""
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    # What it does
    def train(self, mode: bool = True) -> Module:
        """Switch this module and all below it to training (dropout drops) or, with False, to evaluation."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch to evaluation."""
        return self.train(False)

    def apply(self, function: Callable[[Module], object]) -> Module:
        """Call `function` with each module below this one, and then with it; return this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Say of all parameters whether they are trained; before a model is wrapped."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: every `.grad` is None, never zeros instead."""
        if not set_to_none:
            raise ValueError("zero_grad: wanted set_to_none=True, gradients are never zeros instead, got False")
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> StateDict:
        """Return a copy of every parameter, by name, in C order."""
        return StateDict(dict(self.named_parameters()))

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Mismatch:
        """Copy values in, in place; nothing is changed where anything does not fit.

        Of a parameter that is used in several places the value under its first path counts; PyTorch's has them all.
        Where not strict, it is the first of its paths that has a value.

        Args:
            strict: refuse where names are missing or not known; else what has no value stays as it is.

        Returns:
            The names of parameters without a value, and of values without a parameter; two empty lists where strict.

        Raises:
            ValueError: names, where strict; shapes that differ, values that do not fit the dtype (floats and whole
                numbers do, rounded), parameters that are read-only. All are named.
            TypeError: these are no arrays by name, but the path of a file, say.
        """
        if not hasattr(state, "items"):
            wanted = "load_state_dict: wanted arrays by name, as `np.load(path)` and `state_dict()` give them"
            raise TypeError(f"{wanted}, got {type(state).__name__}")
        found = {name: np.asarray(value) for name, value in state.items()}
        parameters, paths = dict(self.named_parameters()), list(self._all_paths())
        first = {id(parameter): found[path] for path, parameter in reversed(paths) if path in found}
        values = {name: first[id(parameter)] for name, parameter in parameters.items() if id(parameter) in first}
        known = {path for path, _ in paths}
        mismatch = Mismatch([name for name in parameters if name not in values],
                            [name for name in found if name not in known])  # fmt: skip
        faults = _misfits(parameters, values)
        if strict:
            faults += [f"missing: {name}" for name in parameters if name not in found]
            faults += [f"not in this model: {name}" for name in mismatch.unexpected_keys]
        if faults:
            raise ValueError(f"load_state_dict of {type(self).__name__}: " + "; ".join(faults))
        for name, value in values.items():
            np.copyto(parameters[name].data, value, casting="same_kind")
            parameters[name].version[0] += 1
        return mismatch

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            self._require_parameter(name, value)
        object.__setattr__(self, name, value)
        if isinstance(value, Module):
            value._note_holder(self)
            value._number_dropouts()

    def _require_parameter(self, name: str, value: Tensor | Array) -> None:
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter: wanted another one, got {type(value).__name__}; "
                f"to change its values, {name}.copy_(...) inside no_grad()"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_holders"}

    def __setstate__(self, state: dict[str, Any]) -> None:  # a copy, or what was pickled
        vars(self).update(state)
        for _, child in self.named_children():
            child._note_holder(self)

    # Dropouts have numbers, by which their masks differ
    def _note_holder(self, holder: Module) -> None:
        others = [known for known in self._holders if known() is not None and known() is not holder]
        object.__setattr__(self, "_holders", (*others, weakref.ref(holder)))

    def _roots(self, found: dict[int, list[Module]]) -> list[Module]:
        """Return the outermost modules that this is a part of, itself if of none; `found` has those of others."""
        if id(self) not in found:
            above = [holder for known in self._holders if (holder := known()) is not None]
            holding = [holder for holder in above if any(child is self for _, child in holder.named_children())]
            found[id(self)] = [root for holder in holding for root in holder._roots(found)] or [self]
        return found[id(self)]

    def _dropouts(self) -> list[Module]:
        return [module for module in self.modules() if hasattr(module, "layer_number")]

    def _number_dropouts(self) -> None:
        """Give each layer with a `layer_number` its number in the whole model: the same on every rank.

        Where models share parts, the one that took them first numbers them, and the others go on from there.
        """
        found: dict[int, list[Module]] = {}
        roots = {id(root): root for dropout in self._dropouts() for root in dropout._roots(found)}
        numbers: dict[int, int] = {}
        count = 0
        for root in roots.values():
            numbered = root._dropouts()
            numbers = {id(module): count + index for index, module in enumerate(numbered)} | numbers
            for module in numbered:
                object.__setattr__(module, "layer_number", numbers[id(module)])
            count += len(numbered)

    def __repr__(self) -> str:
        children = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        return f"{type(self).__name__}({self.describe()})" if not children else "\n".join(
            [f"{type(self).__name__}(", *children, ")"]
        )  # fmt: skip

    def describe(self) -> str:
        """Return this layer's settings, for `repr`."""
        return ""


def _misfits(parameters: Mapping[str, Parameter], values: Mapping[str, Array]) -> list[str]:
    """Return what is wrong with values for some of these parameters."""
    faults = []
    for name, value in values.items():
        parameter = parameters[name]
        if value.shape != parameter.shape:
            faults.append(f"{name}: wanted shape {parameter.shape}, got {value.shape}")
        if not np.can_cast(value.dtype, parameter.dtype, "same_kind"):
            faults.append(f"{name}: wanted numbers that fit {parameter.dtype}, got {value.dtype}")
        if not parameter.data.flags.writeable:
            faults.append(f"{name}: read-only, as this way to train keeps it; load before the model is wrapped")
    return faults


def as_tensor(values: Any, *beside: Tensor) -> Tensor:
    """Return `values` as a Tensor; a Tensor as it is. What has no dtype takes that of the tensors beside it."""
    if isinstance(values, Tensor):
        return values
    return constant(values, beside) if beside else Tensor(values)
