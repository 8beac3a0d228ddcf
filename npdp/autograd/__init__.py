"""Reverse-mode automatic differentiation on NumPy arrays: tensors, operations, and their gradient rules."""

from npdp.autograd.batch import Batch
from npdp.autograd.engine import Exchange, backward
from npdp.autograd.recording import is_grad_enabled, no_grad
from npdp.autograd.tensor import Node, Tensor

from npdp.autograd import numpy_functions, operators, pytorch_names  # isort: skip  (they give Tensor its arithmetic)

__all__ = [
    "Batch",
    "Exchange",
    "Node",
    "Tensor",
    "backward",
    "is_grad_enabled",
    "no_grad",
    "numpy_functions",
    "operators",
    "pytorch_names",
]
