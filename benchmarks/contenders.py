"""One training step of the four models, as npdp, NumPy by hand, and PyTorch do it: forward, loss, backward, update.

The models, their batches and npdp's step are those of `npdp bench iteration` (npdp/bench/models.py).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from npdp.bench.models import LEARNING_RATE, MODELS, Step, batch, iteration


def npdp_step(name: str, wrapped: bool = False) -> Step:
    """Return a step through npdp's public API; wrapped, under DataParallel on the ranks that there are."""
    return iteration(name, "replicated" if wrapped else None)[1]


def fused_step(name: str, wrapped: bool = False) -> Step:
    """Return the same with the update fused with the sum of the gradients."""
    return iteration(name, "fused" if wrapped else None)[1]


def numpy_step(name: str, wrapped: bool = False) -> Step:
    """Return the step that one writes by hand in NumPy: weights (in, out), gradients allocated anew.

    Wrapped, gradients are summed over the ranks by one Allreduce of mpi4py for each parameter.
    """
    if wrapped:
        from mpi4py import MPI
    widths, size = MODELS[name]
    generator = np.random.default_rng(1)
    weights = [generator.standard_normal((wide, narrow), dtype=np.float32) * np.float32(wide**-0.5)
               for wide, narrow in pairwise(widths)]  # fmt: skip
    biases = [np.zeros(narrow, np.float32) for narrow in widths[1:]]
    x, y = batch(name)
    rows = np.arange(size)
    lr = np.float32(LEARNING_RATE)

    def step() -> None:
        activations = [x]
        for weight, bias in zip(weights[:-1], biases[:-1]):
            activations.append(np.maximum(activations[-1] @ weight + bias, 0))
        outputs = activations[-1] @ weights[-1] + biases[-1]
        if name == "lin10":
            difference = outputs - y
            (difference * difference).mean()
            gradient = difference * np.float32(2 / size)
        else:
            shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            gradient = shifted / shifted.sum(axis=1, keepdims=True)
            -np.log(gradient[rows, y]).mean()
            gradient[rows, y] -= 1
            gradient /= size
        for layer in reversed(range(len(weights))):
            to_weight, to_bias = activations[layer].T @ gradient, gradient.sum(axis=0)
            if layer:
                gradient = (gradient @ weights[layer].T) * (activations[layer] > 0)
            if wrapped:
                for gradients in (to_weight, to_bias):
                    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, gradients)
                    gradients /= MPI.COMM_WORLD.size
            weights[layer] -= lr * to_weight
            biases[layer] -= lr * to_bias

    return step


def torch_step(name: str, wrapped: bool = False) -> Step:
    """Return a step of PyTorch in eager mode; wrapped, under its DistributedDataParallel."""
    import torch

    widths, _ = MODELS[name]
    layers: list[Any] = []
    for wide, narrow in pairwise(widths):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]
    model: Any = torch.nn.Sequential(*layers[:-1]) if len(layers) > 2 else layers[0]
    criterion = torch.nn.MSELoss() if name == "lin10" else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    x, y = (torch.from_numpy(array) for array in batch(name))
    if wrapped:
        model = torch.nn.parallel.DistributedDataParallel(model)

    def step() -> None:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
