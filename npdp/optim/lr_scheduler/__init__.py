"""Learning-rate schedulers, PyTorch's names and rules: their `step()` sets `group["lr"]` of each parameter group.

    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for epoch in range(10):
        ...                  # iterations, with optimizer.step()
        scheduler.step()

Beside them are functions of the iteration (optim/learning_rates.py), which hold no state. Most schedulers multiply what
there is, by f(k) / f(k - 1) in their k-th step, so that several may take turns on one optimiser, and a learning rate
that was set by hand goes on from there. On several ranks each calls `step()` alike.
"""

from npdp.optim.lr_scheduler.base import LRScheduler
from npdp.optim.lr_scheduler.formulas import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    StepLR,
)
from npdp.optim.lr_scheduler.one_cycle import OneCycleLR
from npdp.optim.lr_scheduler.plateau import ReduceLROnPlateau
from npdp.optim.lr_scheduler.sequential import SequentialLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
