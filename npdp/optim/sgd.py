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
from typing import Any

import numpy as np

from npdp import kernels
from npdp.autograd.rows import Rows
from npdp.autograd.tensor import Array
from npdp.nn.parameter import Allocate, Parameter, allocate
from npdp.optim.checks import not_negative, refuse_sparse
from npdp.optim.groups import ParameterGroup, Span
from npdp.optim.optimizer import LearningRate, Optimizer, setting

BLOCK_ELEMENTS = 2**15  # of an update by rows: what is made on the way stays in the cache, 2 to 3 times as quick


class SGD(Optimizer):
    """Stochastic gradient descent; see `Optimizer` for the common arguments."""

    momentum, dampening, nesterov, weight_decay = map(setting, ("momentum", "dampening", "nesterov", "weight_decay"))

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: LearningRate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        allocate: Allocate = allocate,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(parameters, defaults, allocate)

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        momentum, dampening = not_negative("momentum", settings["momentum"]), settings["dampening"]
        if settings["nesterov"] and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum and no dampening, got {momentum} and {dampening}")
        not_negative("weight_decay", settings["weight_decay"])
        for name in ("momentum", "weight_decay"):
            if settings[name]:
                refuse_sparse(settings.get("params", ()), f"SGD with {name}")

    def state_names(self, settings: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if settings["momentum"] else ()

    def update(self, group: ParameterGroup, span: Span, grad: kernels.Gradient | None = None) -> None:
        settings = group.settings
        momentum = settings["momentum"]
        if momentum and not group.state:
            raise ValueError("SGD was made without momentum, so it has no velocity: make a new one for momentum")
        group.apply(
            kernels.sgd_updater,
            span,
            grad,
            self.lr_of(settings),
            momentum,
            1 - settings["dampening"],
            settings["weight_decay"],
            settings["nesterov"],
            span.step == 1,
        )

    def update_rows(self, data: Array, rows: Rows, values: Array, settings: dict[str, Any]) -> None:
        lr, length = self.lr_of(settings), max(1, BLOCK_ELEMENTS // max(1, values[:1].size))
        for start in range(0, len(rows), length):
            block = rows[start : start + length]
            changed = data.take(block, axis=0)
            with np.errstate(all="ignore"):  # as the kernel: the same bits, no warnings
                changed -= data.dtype.type(lr) * values[start : start + length]
            data[block] = changed
