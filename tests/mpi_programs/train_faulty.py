"""Models for `npdp.train --model train_faulty.py:NAME` with a fault on rank 1, in the third iteration.

Each prints when the fault came, on the clock that all processes share.
"""

import sys
import threading
import time

import npdp
from npdp import nn
from npdp.autograd.operation import NOTHING, operation
from npdp.data.datasets import ArrayDataset

_iterations = [0]


def fault(*_):
    print(f"at {time.monotonic()}", flush=True)
    raise KeyError("the fault on purpose")


def _is_due():
    _iterations[0] += 1
    return npdp.rank() == 1 and _iterations[0] == 3


class _Faulty(nn.Module):
    def __init__(self, features, classes, fail):
        self.layer, self.fail = nn.Linear(features, classes), fail

    def forward(self, x):
        return self.fail(self.layer(x)) if self.training and _is_due() else self.layer(x)


@operation(keeps=NOTHING)
def without_gradient(x):
    return x * 1.0, (fault,)


def in_forward(features, classes):
    return _Faulty(features, classes, fault)


def in_backward(features, classes):
    return _Faulty(features, classes, without_gradient)


def in_a_hook(features, classes):
    model = nn.Linear(features, classes)
    model.bias.register_hook(lambda gradient: fault() if _is_due() else None)
    return model


def in_a_thread(features, classes):
    def start(x):
        threading.Thread(target=fault).start()
        return x

    return _Faulty(features, classes, start)


def in_the_loader(features, classes):
    take = ArrayDataset.take

    def faulty_take(self, rows):
        return fault() if _is_due() else take(self, rows)

    ArrayDataset.take = faulty_take
    return nn.Linear(features, classes)


def of_all_ranks(features, classes):
    return nn.Linear(features, classes + 1).layer


def of_rank_1(features, classes):
    if npdp.rank() == 1:
        raise OSError("no space left\non this disk")
    return nn.Linear(features, classes)


def exit_of_rank_1(features, classes):
    if npdp.rank() == 1:
        sys.exit(5)
    return nn.Linear(features, classes)
