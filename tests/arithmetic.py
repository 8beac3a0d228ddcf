"""Small things to compute with, for tests of one rank's arithmetic: leaves, parameters, gradients, optimisers."""

from itertools import pairwise

import numpy as np
import pytest

from npdp import nn, optim
from npdp.autograd import Tensor
from npdp.nn.parameter import Parameter

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd with everything": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class TiedModel(nn.Module):
    """Two layers that share a weight, one of them inside another module."""

    def __init__(self):
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.first = nn.Linear(30, 30)  # wide: its weight may lie in memory as (in, out)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(30, 2))
        self.again = self.first
        self.body[1].tied = self.first.weight

    def forward(self, x):
        return self.body(self.again(self.first(x))) * self.scale


def leaf(*values, dtype=np.float64):
    """Return a tensor of one axis that wants a gradient."""
    return Tensor(np.array(values, dtype), requires_grad=True)


def parameters(*counts, dtype=np.float64):
    """Return a parameter of each size, with the values 1, 2, ..."""
    return [Parameter(np.arange(1, count + 1, dtype=dtype)) for count in counts]


def give_gradients(params, *numbers):
    """Run a backward that leaves each parameter its number as gradient; None leaves none."""
    terms = [(p * n).sum() for p, n in zip(params, numbers, strict=True) if n is not None]
    sum(terms).backward()


def model_of(*sizes):
    """Return linear layers from each size to the next."""
    layers = [nn.Linear(a, b, generator=np.random.default_rng(a)) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers)
