"""Stochastic gradient descent with momentum, PyTorch's rule.

    g = grad + weight_decay * parameter
    velocity = momentum * velocity + (1 - dampening) * g        (the first time: g)
    parameter -= lr * (g + momentum * velocity  if nesterov else  velocity)

A velocity nearer to 0 than the smallest normal number is 0 (csrc/update.c).

Source: Sutskever et al., On the importance of initialization and momentum in deep learning, 2013 (Nesterov's form).
Cost: one pass, reading 3 and writing 2 arrays of the model's size; without momentum 2 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from npdp import kernels
from npdp.autograd.rows import Rows
from npdp.autograd.tensor import Array
from npdp.nn.parameter import Allocate, Parameter, allocate
from npdp.optim.checks import checked, not_negative, refuse_sparse
from npdp.optim.groups import ParameterGroup, Span
from npdp.optim.optimizer import LearningRate, Optimizer

BLOCK_ELEMENTS = 2**15  # of an update by rows: what is made on the way stays in the cache, 2 to 3 times as quick


class SGD(Optimizer):
    """Stochastic gradient descent; see `Optimizer` for the common arguments."""

    settings = ("momentum", "dampening", "nesterov", "weight_decay")

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: LearningRate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        allocate: Allocate = allocate,
    ) -> None:
        self.momentum = not_negative("momentum", momentum)
        self.dampening, self.nesterov = dampening, nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum and no dampening, got {momentum} and {dampening}")
        self.state_names = ("velocity",) if momentum else ()
        parameters = checked(parameters)
        for name, value in {"momentum": momentum, "weight_decay": weight_decay}.items():
            if value:
                refuse_sparse(parameters, f"SGD with {name}")
        super().__init__(parameters, lr, weight_decay, allocate)

    def update(self, group: ParameterGroup, span: Span, grad: kernels.Gradient | None = None) -> None:
        if self.momentum and not group.state:
            raise ValueError("SGD was made without momentum, so it has no velocity: make a new one for momentum")
        group.apply(
            kernels.sgd_updater,
            span,
            grad,
            self.current_lr,
            self.momentum,
            1 - self.dampening,
            self.weight_decay,
            self.nesterov,
            span.step == 1,
        )

    def update_rows(self, parameter: Parameter, rows: Rows, values: Array) -> None:
        data, length = parameter.data, max(1, BLOCK_ELEMENTS // max(1, values[:1].size))
        lr = self.current_lr
        for start in range(0, len(rows), length):
            block = rows[start : start + length]
            changed = data.take(block, axis=0)
            with np.errstate(all="ignore"):  # as the kernel: the same bits, no warnings
                changed -= data.dtype.type(lr) * values[start : start + length]
            data[block] = changed
