"""Optimisers, gradient clipping, learning-rate schedules and schedulers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from npdp.base.missing import missing
from npdp.nn.utils.clip import clip_grad_norm_
from npdp.optim import learning_rates
from npdp.optim.adam import Adam, AdamW
from npdp.optim.optimizer import Optimizer
from npdp.optim.sgd import SGD

if TYPE_CHECKING:
    from npdp.optim import lr_scheduler as lr_scheduler

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "learning_rates", "lr_scheduler"]


def __getattr__(name: str) -> Any:  # loaded when first used: most programs have none
    if name == "lr_scheduler":
        return import_module("npdp.optim.lr_scheduler")
    raise missing("npdp.optim", name)
