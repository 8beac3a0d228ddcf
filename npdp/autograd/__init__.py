"""Reverse-mode automatic differentiation on NumPy arrays: tensors, operations, and their gradient rules."""

from typing import Any

from npdp.autograd.engine import Reducer, backward
from npdp.autograd.recording import is_grad_enabled, no_grad
from npdp.autograd.tensor import Node, Tensor
from npdp.base.missing import missing

# They give Tensor its arithmetic
from npdp.autograd import more_methods, numpy_functions, operators, pytorch_names, split  # isort: skip
from npdp.autograd import pytorch_methods  # isort: skip

__all__ = [
    "Node",
    "Reducer",
    "Tensor",
    "backward",
    "is_grad_enabled",
    "more_methods",
    "no_grad",
    "numpy_functions",
    "operators",
    "pytorch_methods",
    "pytorch_names",
    "split",
]


def __getattr__(name: str) -> Any:
    raise missing("npdp.autograd", name)
