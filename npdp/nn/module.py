"""Modules: layers and models, whose parameters and modules are plain attributes, found by a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.operation import constant
from npdp.autograd.sparse_rows import SparseRows
from npdp.autograd.tensor import Array
from npdp.nn.forward import Forward, samples_of
from npdp.nn.parameter import Parameter
from npdp.nn.state import Mismatch, Order, StateDict, misfits

NOT_NUMBERED = Forward()  # of a module that has made no training forward yet


class Module:
    """Base class of layers and models: set parameters and modules as attributes, write `forward`.

    Names are paths of attributes, as in PyTorch: `0.weight`, `encoder.fc1.bias`.
    """

    training: bool = True
    _buffers: Mapping[str, bool] = MappingProxyType({})  # name -> whether it is in `state_dict`
    _forwards: Forward | None = NOT_NUMBERED

    def forward(self, *inputs: Any, **named: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._forwards is not None:
            self._begin_forward(inputs)
        return self.forward(*inputs, **named)

    def _begin_forward(self, inputs: tuple[Any, ...]) -> None:
        """Count a training forward of an outermost module: the one that is called first."""
        if not self.training:
            return
        if (forwards := self.own_forwards()) is not None:
            of_loader = inputs and isinstance(inputs[0], (Tensor, SparseRows))
            forwards.begin(samples_of(getattr(inputs[0], "batch", None)) if of_loader else None)

    def own_forwards(self) -> Forward | None:
        """Return the counter of an outermost module's forwards; None where there is nothing to count them for."""
        if self._forwards is NOT_NUMBERED:
            forwards = Forward()
            self._forwards = forwards if self.join_forwards(forwards) else None
        return self._forwards

    def join_forwards(self, forwards: Forward, first: int = 0) -> int:
        """Have all modules below take part in these forwards, and count none of their own.

        Dropouts are numbered, from `first` on; the next number is returned.
        """
        self._forwards = None
        for child in self.children():
            first = child.join_forwards(forwards, first)
        return first

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
            if isinstance(parameter, Parameter) and id(parameter) not in seen:
                seen.add(id(parameter))
                yield path, parameter

    def _all_paths(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, tensor) for each place where a parameter, or a buffer, is used."""
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield (f"{path}.{name}" if path else name), value
            yield from module._own_buffers(path, [name for name, kept in module._buffers.items() if kept])

    def _own_buffers(self, path: str, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            if (value := vars(self).get(name)) is not None:
                yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    # Buffers
    def register_buffer(self, name: str, array: Any, persistent: bool = True) -> None:
        """Make an attribute of values that are no parameter: a mask, a running mean; another Tensor may be set later.

        Ranks have rank 0's when a model is wrapped; what a forward makes of them later is each rank's own.

        Args:
            array: a Tensor or an array; None for none as yet.
            persistent: whether `state_dict` has it.
        """
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"register_buffer: wanted the name of an attribute, got {name!r}")
        if name not in self._buffers and hasattr(self, name):
            raise ValueError(f"register_buffer: {type(self).__name__} has {name} already, and it is no buffer")
        object.__setattr__(self, "_buffers", {**self._buffers, name: bool(persistent)})
        setattr(self, name, array)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, buffer), persistent or not; one that is used in several places comes once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, buffer in module._own_buffers(path, module._buffers):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield name, buffer

    def buffers(self) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        for _, buffer in self.named_buffers():
            yield buffer

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

    def state_dict(self, order: Order = "C") -> StateDict:
        """Return a copy of every parameter and persistent buffer, by name; where shared, by all names.

        Args:
            order: of the copies' memory, C's; or "K", as it lies, which is several times as quick.
        """
        return StateDict(dict(self._all_paths()), order)

    def _state(self) -> dict[str, Tensor]:
        """Return the parameters and persistent buffers, each under its first path."""
        first: dict[int, tuple[str, Tensor]] = {}
        for path, tensor in self._all_paths():
            first.setdefault(id(tensor), (path, tensor))
        return dict(first.values())

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Mismatch:
        """Copy values in, in place; nothing is changed where anything does not fit.

        Of a parameter that is used in several places the value under its first path counts; PyTorch's has them all.
        Where not strict, it is the first of its paths that has a value.

        Args:
            strict: refuse where names are missing or not known; else what has no value stays as it is.

        Returns:
            The names of parameters and buffers without a value, and of values without one; two empty lists where
            strict.

        Raises:
            ValueError: names, where strict; shapes that differ, values that do not fit the dtype (floats and whole
                numbers do, rounded), parameters that are read-only. All are named.
            TypeError: these are no arrays by name, but the path of a file, say.
        """
        if not hasattr(state, "items"):
            wanted = "load_state_dict: wanted arrays by name, as `np.load(path)` and `state_dict()` give them"
            raise TypeError(f"{wanted}, got {type(state).__name__}")
        found = {name: np.asarray(value) for name, value in state.items()}
        tensors, paths = self._state(), list(self._all_paths())
        first = {id(tensor): found[path] for path, tensor in reversed(paths) if path in found}
        values = {name: first[id(tensor)] for name, tensor in tensors.items() if id(tensor) in first}
        known = {path for path, _ in paths}
        mismatch = Mismatch([name for name in tensors if name not in values],
                            [name for name in found if name not in known])  # fmt: skip
        faults = misfits(tensors, values)
        if strict:
            faults += [f"missing: {name}" for name in tensors if name not in found]
            faults += [f"not in this model: {name}" for name in mismatch.unexpected_keys]
        if faults:
            raise ValueError(f"load_state_dict of {type(self).__name__}: " + "; ".join(faults))
        for name, value in values.items():
            np.copyto(tensors[name].data, value, casting="same_kind")
            tensors[name].version[0] += 1
        return mismatch

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            self._require_parameter(name, value)
        if name in self._buffers and value is not None:
            value = _buffer(value)
        object.__setattr__(self, name, value)

    def _require_parameter(self, name: str, value: Tensor | Array) -> None:
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter: wanted another one, got {type(value).__name__}; "
                f"to change its values, {name}.copy_(...) inside no_grad()"
            )

    def __getstate__(self) -> dict[str, Any]:  # of a copy, or what is pickled: its forwards are its own
        return {name: value for name, value in vars(self).items() if name != "_forwards"}

    def __repr__(self) -> str:
        children = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        return f"{type(self).__name__}({self.describe()})" if not children else "\n".join(
            [f"{type(self).__name__}(", *children, ")"]
        )  # fmt: skip

    def describe(self) -> str:
        """Return this layer's settings, for `repr`."""
        return ""


def _buffer(values: Any) -> Tensor:
    """Return values as a Tensor that may be written."""
    buffer: Tensor = values if isinstance(values, Tensor) else Tensor(values)
    return buffer if buffer.data.flags.writeable else Tensor(buffer.data.copy())


def as_tensor(values: Any, *beside: Tensor) -> Tensor:
    """Return `values` as a Tensor; a Tensor as it is. What has no dtype takes that of the tensors beside it."""
    if isinstance(values, Tensor):
        return values
    return constant(values, beside) if beside else Tensor(values)
