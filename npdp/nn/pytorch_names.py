"""Methods of modules under PyTorch's names, attached from one table as those of tensors are, and `ModuleDict`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.pytorch_methods import Device
from npdp.base.missing import MISSING, Missing
from npdp.nn.layers import ModuleList
from npdp.nn.module import Module
from npdp.nn.parameter import Parameter


class ModuleDict(ModuleList):
    """Modules by name, whose parameters belong to the module that holds it; that one calls them.

    Args:
        modules: name -> module; the names are those of its parameters: `transformer.wte.weight`.
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add modules, or put them in the place of those of their names."""
        for name, module in dict(modules).items():
            self[name] = module

    def __setitem__(self, name: Any, module: Module) -> None:
        if name in self.keys():
            self._put(name, module)
        else:
            self._hold(name, module)

    def __getitem__(self, name: Any) -> Any:
        return dict(self.named_children())[name]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Return the names, in the order in which they were set."""
        return [name for name, _ in self.named_children()]

    def values(self) -> list[Module]:
        """Return the modules."""
        return list(self.children())

    def items(self) -> list[tuple[str, Module]]:
        """Return names and modules."""
        return list(self.named_children())


def _to(self: Module, *where: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Module:
    """Give all floats below a dtype; before an optimiser has the parameters. The device is the CPU."""
    for given in where:
        if isinstance(given, Tensor):
            dtype = given.dtype
        elif isinstance(given, (np.dtype, type)):
            dtype = given
        elif not isinstance(given, bool):
            Device(given)
    Device(device or "cpu")
    return self if dtype is None else _as_dtype(self, np.dtype(dtype))


def _as_dtype(self: Module, dtype: np.dtype[Any]) -> Module:
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{type(self).__name__}.to: npdp computes in float32 and float64, not in {dtype}")
    floats = [x for x in (*self.parameters(), *self.buffers()) if x.dtype.kind == "f" and x.dtype != dtype]
    for tensor in floats:
        if isinstance(tensor, Parameter) and tensor.flat is not None:
            raise ValueError(f"{type(self).__name__}.to: an optimiser has the parameters; set the dtype before")
        tensor.array, tensor.grad = tensor.array.astype(dtype), None
    return self


def _add_module(self: Module, name: str, module: Module | None) -> None:
    setattr(self, name, module)


def _register_parameter(self: Module, name: str, parameter: Parameter | None) -> None:
    setattr(self, name, parameter)


def _found(self: Module, path: str) -> Any:
    """Return what stands at a path of attributes."""
    for name in path.split(".") if path else ():
        self = getattr(self, name)
    return self


for _name, _method in {
    "to": _to, "cpu": lambda self: self,
    "float": lambda self: _as_dtype(self, np.dtype(np.float32)),
    "double": lambda self: _as_dtype(self, np.dtype(np.float64)),
    "type": lambda self, dtype: _as_dtype(self, np.dtype(dtype)),
    "add_module": _add_module, "register_module": _add_module, "register_parameter": _register_parameter,
    **dict.fromkeys(("get_submodule", "get_parameter", "get_buffer"), _found),
    "share_memory": lambda self: self, "compile": lambda self, **options: None,
    **{name: Missing("Module", name) for name in MISSING["Module"]},
}.items():  # fmt: skip
    setattr(Module, _name, _method)
