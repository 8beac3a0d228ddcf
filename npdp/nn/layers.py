"""Layers: Linear, activations, and containers of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from npdp.autograd import Tensor, operators
from npdp.base import random
from npdp.base.arguments import at_least_one, require_number
from npdp.kernels import NARROW
from npdp.nn.initializers import uniform_fan_in
from npdp.nn.module import Module, as_tensor
from npdp.nn.parameter import Parameter
from npdp.nn.rules import leaky_relu, linear


class Linear(Module):
    """Linear layer: y = x @ weight.T + bias.

    The weight has PyTorch's shape (out, in) but, unless `out` is small, lies in memory as (in, out): x @ weight.T
    then reads it along its rows, about a tenth faster.

    Args:
        in_features: last axis of the input.
        out_features: last axis of the output.
        bias: whether to add one.
        dtype: of the parameters, float32 or float64.
        generator: for the first values, U(-1/sqrt(in), 1/sqrt(in)) as in PyTorch; else this rank's own.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.in_features = at_least_one(in_features, "Linear: in_features")
        self.out_features = at_least_one(out_features, "Linear: out_features")
        generator = generator or random.default_generator()
        weight = uniform_fan_in((out_features, in_features), in_features, dtype, generator)
        self.weight = Parameter(weight if out_features <= NARROW else np.ascontiguousarray(weight.T).T)  # (out, in)
        self.bias = Parameter(uniform_fan_in((out_features,), in_features, dtype, generator)) if bias else None
        self._no_bias = np.zeros(out_features, dtype)  # bias may be set to None later

    def forward(self, x: Any) -> Tensor:
        x = x if isinstance(x, Tensor) else Tensor(x)
        if x.array.shape[-1:] != (self.in_features,):
            raise ValueError(f"Linear: wanted an input of shape (..., {self.in_features}), got {x.shape}")
        return linear(x, self.weight, self._no_bias if self.bias is None else self.bias)

    def describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        """Take PyTorch's `inplace`, which changes no result: the output is a new tensor."""

    def forward(self, x: Any) -> Tensor:
        return operators.relu(as_tensor(x))


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: Any) -> Tensor:
        return operators.tanh(as_tensor(x))


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Tensor:
        return operators.sigmoid(as_tensor(x))


class LeakyReLU(Module):
    """x where it is above 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        require_number(negative_slope, "LeakyReLU: negative_slope must be a number")
        self.negative_slope = float(negative_slope)

    def forward(self, x: Any) -> Tensor:
        return leaky_relu(x, self.negative_slope)

    def describe(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Softmax(Module):
    """exp(x) over its sum along an axis; `CrossEntropyLoss` takes what comes before it."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Any) -> Tensor:
        return operators.softmax(as_tensor(x), axis=self.dim)

    def describe(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of softmax, for `NLLLoss`."""

    def forward(self, x: Any) -> Tensor:
        return operators.log_softmax(as_tensor(x), axis=self.dim)


class Identity(Module):
    """Identity layer, x itself, in the place of a layer that is left out."""

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """(batch, ...) -> (batch, the product of the rest); or the axes from `start_dim` to `end_dim` made one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Tensor:
        x = as_tensor(x)
        rows: Tensor = x.unsqueeze(1) if x.ndim == self.start_dim == 1 else x.flatten(self.start_dim, self.end_dim)
        return rows


class ModuleList(Module):
    """List of modules, whose parameters belong to the module that holds it; that one calls them.

    Args:
        modules: their names are their numbers: `layers.0.weight`.
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end; return this list."""
        self._hold(len(self), module)
        return self

    def _hold(self, name: int | str, module: object) -> None:
        if "." in str(name) or hasattr(self, str(name)):
            kind = type(self).__name__
            raise ValueError(f"{kind}: wanted a name without dots that is no attribute's, got {name!r}")
        self._put(name, module)

    def _put(self, name: int | str, module: object) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: wanted a Module at {name!r}, got {type(module).__name__}")
        setattr(self, str(name), module)

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, number: int | slice) -> Any:
        """Return a module; of a slice, a list of these same modules, with numbers of their own."""
        return ModuleList(list(self)[number]) if isinstance(number, slice) else list(self)[number]

    def __setitem__(self, number: int, module: Module) -> None:
        """Put a module in the place of another, under its name."""
        name, _ = list(self.named_children())[number]
        self._put(name, module)


class Sequential(ModuleList):
    """Chain of modules: each takes what the one before returns.

    Args:
        modules: each by itself; or one dict, whose names the modules get: `net.fc1`, `fc1.weight`.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else dict(enumerate(modules))
        for name, module in named.items():
            self._hold(name, module)

    def __getitem__(self, number: int | slice) -> Any:
        """Return a module; of a slice, a Sequential of these same modules, under their names."""
        if isinstance(number, slice):
            return Sequential(dict(list(self.named_children())[number]))
        return super().__getitem__(number)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x
