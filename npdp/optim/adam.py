"""Adam and AdamW, PyTorch's rules.

    m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g g
    parameter -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

Adam adds weight_decay * parameter to g; AdamW shrinks the parameter by lr * weight_decay instead.

Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015; Loshchilov and Hutter, Decoupled weight
decay regularization, 2019. Cost: one pass, reading 4 and writing 3 arrays of the model's size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from npdp import kernels
from npdp.nn.parameter import Allocate, Parameter, allocate
from npdp.optim.checks import not_negative, refuse_sparse
from npdp.optim.groups import ParameterGroup, Span
from npdp.optim.optimizer import LearningRate, Optimizer, setting


class Adam(Optimizer):
    """Adam; see `Optimizer` for the common arguments."""

    betas, eps, weight_decay = map(setting, ("betas", "eps", "weight_decay"))
    counts_steps = True
    decoupled = False  # whether weight decay acts on the parameter instead of the gradient

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        allocate: Allocate = allocate,
    ) -> None:
        super().__init__(parameters, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), allocate)

    def check(self, settings: dict[str, Any]) -> None:
        super().check(settings)
        betas = settings["betas"]
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        not_negative("eps", settings["eps"])
        not_negative("weight_decay", settings["weight_decay"])
        refuse_sparse(settings.get("params", ()), type(self).__name__)

    def state_names(self, settings: dict[str, Any]) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"  # m, v

    def update(self, group: ParameterGroup, span: Span, grad: kernels.Gradient | None = None) -> None:
        settings = group.settings
        group.apply(
            kernels.adam_updater,
            span,
            grad,
            self.lr_of(settings),
            *settings["betas"],
            settings["eps"],
            settings["weight_decay"],
            self.decoupled,
            span.step,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, 0.01 by default."""

    decoupled = True

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        allocate: Allocate = allocate,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, allocate)
