"""A model's state: copies of parameters and buffers by name, and the check of their fit when loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.tensor import Array

Order = Literal["C", "K"]  # of memory: that of the public shape; or as it lies, which takes no time to copy


class StateDict(dict[str, Array]):
    """State of a model: copies of all parameters and buffers, by name; `tensors` are the originals.

    One that has several names has one copy. `order` is NumPy's, of the copies' memory.
    """

    def __init__(self, tensors: dict[str, Tensor], order: Order = "C") -> None:
        copies = {id(tensor): np.array(tensor.data, order=order) for tensor in set(tensors.values())}
        super().__init__({name: copies[id(tensor)] for name, tensor in tensors.items()})
        self.tensors = tensors

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy, or what is pickled, is values only


class Mismatch(NamedTuple):
    """Names that a model and a state do not share: tensors without a value, values without a tensor."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def misfits(tensors: Mapping[str, Tensor], values: Mapping[str, Array]) -> list[str]:
    """Return what is wrong with values for some of these parameters and buffers."""
    faults = []
    for name, value in values.items():
        tensor = tensors[name]
        if value.shape != tensor.shape:
            faults.append(f"{name}: wanted shape {tensor.shape}, got {value.shape}")
        if not np.can_cast(value.dtype, tensor.dtype, "same_kind"):
            faults.append(f"{name}: wanted numbers that fit {tensor.dtype}, got {value.dtype}")
        if not tensor.data.flags.writeable:
            faults.append(f"{name}: read-only, as this way to train keeps it; load before the model is wrapped")
    return faults
