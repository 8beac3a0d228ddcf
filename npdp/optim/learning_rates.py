"""Learning-rate schedules: pure functions of the iteration, counted from 0.

    optim.SGD(parameters, lr=warm_up(cosine(0.1, iterations=1000), iterations=50))

Being functions they hold no state: iteration k has its learning rate, whatever came before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from npdp.base.arguments import at_least_one

LearningRateSchedule = Callable[[int], float]


def constant(lr: float) -> LearningRateSchedule:
    """Constant schedule: the same at every iteration."""
    return lambda iteration: lr


def step(lr: float, every: int, factor: float = 0.1) -> LearningRateSchedule:
    """Step schedule: multiplied by `factor` every `every` iterations."""
    every = at_least_one(every, "learning_rates.step: every")
    return lambda iteration: lr * factor ** (iteration // every)


def cosine(lr: float, iterations: int, lowest: float = 0.0) -> LearningRateSchedule:
    """Cosine schedule: from `lr` down to `lowest` along half a cosine, and `lowest` ever after.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.
    """

    def at(iteration: int) -> float:
        done = min(1.0, iteration / max(1, iterations))
        return lowest + (lr - lowest) * (1 + math.cos(math.pi * done)) / 2

    return at


def warm_up(lr_schedule: LearningRateSchedule | float, iterations: int) -> LearningRateSchedule:
    """Warm-up: rises linearly to the schedule's own value over the first `iterations`."""
    after = lr_schedule if callable(lr_schedule) else constant(lr_schedule)
    return lambda iteration: after(iteration) * min(1.0, (iteration + 1) / max(1, iterations))


def scaled_linearly(lr: float, global_batch_size: int, reference_batch_size: int) -> float:
    """Return `lr` scaled with the batch: k times the batch, k times the learning rate.

    Source: Goyal et al., Accurate, large minibatch SGD, 2017; use it with `warm_up`.
    """
    return lr * global_batch_size / reference_batch_size
