"""Trainings in which one rank, in the third iteration, does something else than the others."""

import numpy as np

import npdp
from npdp import nn, optim
from npdp.parallel.consistency import REPLICAS_EVERY

ODD_RANK = 1  # does something else than the others; of three ranks there is one before it and one behind


def goes_on(differs, model, optimizer, loss) -> None:
    """Train until parameters have been compared again; in the third iteration one rank does `differs`, not its step."""
    for iteration in range(2 * REPLICAS_EVERY):
        optimizer.zero_grad()
        loss(model).backward()
        if iteration == 2 and npdp.rank() == ODD_RANK:
            differs(model, optimizer)
        else:
            optimizer.step()


def trains(differs, update: str = "replicated") -> None:
    npdp.manual_seed(0)
    model = nn.DataParallel(nn.Linear(3, 2), update=update)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = np.random.default_rng(npdp.rank()).standard_normal((2, 4, 3), dtype=np.float32)
    goes_on(differs, model, optimizer, lambda model: nn.MSELoss()(model(x), y[:, :2]))


# What one rank does instead of its step
def skips_the_step(model, optimizer) -> None:
    pass


def has_another_learning_rate(model, optimizer) -> None:
    optimizer.lr *= 1.25
    optimizer.step()


def has_another_momentum(model, optimizer) -> None:
    optimizer.momentum /= 2
    optimizer.step()


def sets_a_value(model, optimizer) -> None:
    optimizer.step()
    with npdp.no_grad():
        for parameter in model.parameters():
            parameter += 1
