"""Reverse-mode automatic differentiation on NumPy arrays: tensors, operations, and their gradient rules."""

from npdp.autograd.engine import Reducer, backward
from npdp.autograd.recording import is_grad_enabled, no_grad
from npdp.autograd.tensor import Node, Tensor

from npdp.autograd import more_methods, numpy_functions, operators, pytorch_names, split  # isort: skip  (they give Tensor its arithmetic)

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
    "pytorch_names",
    "split",
]
