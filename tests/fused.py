"""Programs that train by the fused update and by the replicated one, which must leave the same parameters.

A plan says in letters what a program does: see `follow`.
"""

from functools import cache
from itertools import cycle

import numpy as np
import pytest
from worlds import FEATURES, Layers, assert_close, criterion, loader, mlp, parameters, run

import npdp
from npdp import kernels, nn, optim
from npdp.parallel.replicas import parameters_sha256

SHARED = "shared_memory" if kernels.backend() == "c" else "auto"
algorithms = pytest.mark.parametrize("algorithm", [SHARED, "ring"])
NOT_SEEN = 'with update="fused" the gradient is summed while the parameters are updated, and stored nowhere'
IN_RANK_ORDER = ["auto", "naive", "shared_memory"] if kernels.backend() == "c" else ["naive"]
OPTIMIZERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.2),
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.2, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "schedule": lambda parameters: optim.SGD(parameters, lr=lambda iteration: 0.3 / (1 + iteration), momentum=0.5),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.05, weight_decay=0.01),
    "adamw": lambda parameters: optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
}


def uses(letter):
    """Return how many of the model's layers this rank uses for a letter; None for all."""
    partly = {"f": 1, "o": 1 if npdp.rank() % 2 else None, "e": None if npdp.rank() % 2 else 1}
    return partly.get(letter.lower())


def follow(plan, model, optimizers, batches):
    """Do what each letter says.

    s: a synced backward. f, o, e: the same without the last layer, on all ranks, odd ones, or even ones.
    A capital letter: under no_sync. z: zero_grad. u: a step of each optimiser. 1, 2: of one.
    """
    for letter in plan:
        if letter == "z":
            for optimizer in optimizers:
                optimizer.zero_grad()
        elif letter in "u12":
            for optimizer in optimizers if letter == "u" else [optimizers[int(letter) - 1]]:
                optimizer.step()
        else:
            inputs, labels = next(batches)
            with model.syncing(letter.islower()):
                layers = uses(letter)
                loss = criterion(model(inputs), labels) if layers is None else (model(inputs, layers) ** 2).mean()
                loss.backward()


def trained(update, plan="zsu" * 6, optimizer="momentum", algorithm="auto", batch_size=4, make=mlp, dtype=np.float64):
    """Follow the plan on this rank; return its parameters, and their hash."""
    npdp.init(algorithm)
    model = make(dtype=dtype)
    optimizers = [OPTIMIZERS[optimizer](model.parameters())]
    model = nn.DataParallel(model, update=update)
    follow(plan, model, optimizers, cycle(loader(batch_size)))
    return parameters(model), parameters_sha256(model.named_parameters())


@cache
def replicated(world_size, program, options):
    """Return what the replicated update gives on rank 0, sums in rank order."""
    return run(world_size, lambda: program("replicated", algorithm="naive", **dict(options)))[0]


def assert_same(world_size, tolerance=0, program=trained, algorithm="auto", world=None, **options):
    """Assert that the fused update gives the same parameters on all ranks: the same bits, or within the tolerance."""
    wanted, wanted_sha256 = replicated(world_size, program, frozenset(options.items()))
    outcomes = run(world_size, lambda: program("fused", algorithm=algorithm, **options), **(world or {}))
    got, sha256 = outcomes[0]
    assert {sha256 for _, sha256 in outcomes} == {sha256}, f"ranks differ, {algorithm}, {options}"
    if tolerance:
        assert_close(got, wanted, f"{world_size} ranks, {algorithm}, {options}", tolerance)
    else:
        off = {name: np.abs(array - wanted[name]).max() for name, array in got.items()}
        assert sha256 == wanted_sha256, f"{world_size} ranks, {algorithm}, {options}: off by {off}"


class Wide(Layers):
    """More than the blocks of C and NumPy hold."""


def wide(dtype):
    npdp.manual_seed(2)
    return Wide(nn.Linear(FEATURES, 3000, dtype=dtype), nn.Tanh(), nn.Linear(3000, 7, dtype=dtype))


def made(algorithm=SHARED, optimizer=optim.Adam):
    """Return a model that is updated by a fused step, and its optimiser, after one step."""
    npdp.init(algorithm)
    model = mlp()
    optimizer = optimizer(model.parameters())
    wrapped = nn.DataParallel(model, update="fused")
    inputs, labels = next(iter(loader(6)))
    criterion(wrapped(inputs), labels).backward()
    optimizer.step()
    return wrapped, optimizer
