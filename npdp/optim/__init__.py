"""Optimisers, gradient clipping, learning-rate schedules and schedulers."""

from npdp.nn.utils.clip import clip_grad_norm_
from npdp.optim import learning_rates, lr_scheduler
from npdp.optim.adam import Adam, AdamW
from npdp.optim.optimizer import Optimizer
from npdp.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "learning_rates", "lr_scheduler"]
