"""One training step of the four models as npdp, NumPy by hand, PyTorch, Horovod and JAX do it: from forward to update.

No program: step.py and others use it. The models, their batches and npdp's step are those of `npdp bench iteration`
(npdp/bench/models.py). Every contender is a function (name, rows, wrapped): rows of a rank's batch, None for the
model's own; wrapped: summed over the ranks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from npdp.bench.models import LEARNING_RATE, MODELS, Step, batch, iteration

Gradients = list[np.ndarray]


def npdp_step(name: str, rows: int | None, wrapped: bool) -> Step:
    """Return a step through npdp's public API; wrapped, under DataParallel on the ranks that there are."""
    return iteration(name, "replicated" if wrapped else None, rows)[1]


def fused_step(name: str, rows: int | None, wrapped: bool) -> Step:
    """Return the same with the update fused with the sum of the gradients."""
    return iteration(name, "fused" if wrapped else None, rows)[1]


def server_step(name: str, rows: int | None, wrapped: bool, staleness: float = math.inf) -> Step:
    """Return a worker's step with a parameter server, on the last of the ranks; asynchronous."""
    import npdp

    return iteration(name, "replicated", rows, npdp.ParameterServer(servers=1, staleness=staleness))[1]


def server_sync_step(name: str, rows: int | None, wrapped: bool) -> Step:
    """Return the same, synchronous."""
    return server_step(name, rows, wrapped, 0)


def sum_each(gradients: Gradients) -> None:
    """One Allreduce of mpi4py a parameter."""
    from mpi4py import MPI

    for gradient in gradients:
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, gradient)
        gradient /= MPI.COMM_WORLD.size


def sum_flat(gradients: Gradients) -> None:
    """One Allreduce of mpi4py for all, in a flat buffer that they are copied into."""
    from mpi4py import MPI

    flat = np.concatenate([gradient.reshape(-1) for gradient in gradients])
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, flat)
    flat /= MPI.COMM_WORLD.size
    start = 0
    for gradient in gradients:
        gradient[...] = flat[start : start + gradient.size].reshape(gradient.shape)
        start += gradient.size


def numpy_step(
    name: str, rows: int | None, wrapped: bool, sum_up: Callable[[Gradients], None] = sum_each
) -> Step:
    """Return the step that one writes by hand in NumPy: weights (in, out), gradients allocated anew."""
    widths, _ = MODELS[name]
    generator = np.random.default_rng(1)
    weights = [generator.standard_normal((wide, narrow), dtype=np.float32) * np.float32(wide**-0.5)
               for wide, narrow in pairwise(widths)]  # fmt: skip
    biases = [np.zeros(narrow, np.float32) for narrow in widths[1:]]
    x, y = batch(name, rows)
    size = len(x)
    numbers = np.arange(size)
    lr = np.float32(LEARNING_RATE)

    def forward() -> list[np.ndarray]:
        activations = [x]
        for weight, bias in zip(weights[:-1], biases[:-1]):
            activations.append(np.maximum(activations[-1] @ weight + bias, 0))
        return [*activations, activations[-1] @ weights[-1] + biases[-1]]

    def loss_gradient(outputs: np.ndarray) -> np.ndarray:
        if name == "lin10":
            difference = outputs - y
            (difference * difference).mean()
            return difference * np.float32(2 / size)
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        gradient = shifted / shifted.sum(axis=1, keepdims=True)
        -np.log(gradient[numbers, y]).mean()
        gradient[numbers, y] -= 1
        gradient /= size
        return gradient

    def step() -> None:
        *activations, outputs = forward()
        gradient = loss_gradient(outputs)
        gradients = []
        for layer in reversed(range(len(weights))):
            gradients += [activations[layer].T @ gradient, gradient.sum(axis=0)]
            if layer:
                gradient = (gradient @ weights[layer].T) * (activations[layer] > 0)
        if wrapped:
            sum_up(gradients)
        for layer, to_weight, to_bias in zip(reversed(range(len(weights))), gradients[::2], gradients[1::2]):
            weights[layer] -= lr * to_weight
            biases[layer] -= lr * to_bias

    return step


def numpy_flat_step(name: str, rows: int | None, wrapped: bool) -> Step:
    """Return the same, its gradients summed over the ranks in one flat buffer."""
    return numpy_step(name, rows, wrapped, sum_flat)


def ddp(model: Any, optimizer: Any) -> tuple[Any, Any]:
    """PyTorch's DistributedDataParallel."""
    import torch

    return torch.nn.parallel.DistributedDataParallel(model), optimizer


def horovod(model: Any, optimizer: Any) -> tuple[Any, Any]:
    """Horovod's DistributedOptimizer."""
    import horovod.torch as hvd

    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    return model, hvd.DistributedOptimizer(optimizer, model.named_parameters())


def torch_step(
    name: str, rows: int | None, wrapped: bool, wrap: Callable[[Any, Any], tuple[Any, Any]] = ddp
) -> Step:
    """Return a step of PyTorch in eager mode; wrapped, under its DistributedDataParallel."""
    import torch

    widths, _ = MODELS[name]
    layers: list[Any] = []
    for wide, narrow in pairwise(widths):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]
    model: Any = torch.nn.Sequential(*layers[:-1]) if len(layers) > 2 else layers[0]
    criterion = torch.nn.MSELoss() if name == "lin10" else torch.nn.CrossEntropyLoss()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    x, y = (torch.from_numpy(array) for array in batch(name, rows))
    if wrapped:
        model, optimizer = wrap(model, optimizer)

    def step() -> None:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def horovod_step(name: str, rows: int | None, wrapped: bool) -> Step:
    """Return the same under Horovod, with its defaults."""
    import horovod.torch as hvd

    hvd.init()
    return torch_step(name, rows, wrapped, horovod)


def jax_step(name: str, rows: int | None, wrapped: bool) -> Step:
    """Return a step that JAX has compiled, its parameters updated in place (donated); wrapped, with mpi4jax in it."""
    import jax
    import jax.numpy as jnp

    def mean_over_ranks(gradient: Any) -> Any:
        if not wrapped:
            return gradient
        import mpi4jax
        from mpi4py import MPI

        return mpi4jax.allreduce(gradient, op=MPI.SUM, comm=MPI.COMM_WORLD) / MPI.COMM_WORLD.size

    widths, _ = MODELS[name]
    generator = np.random.default_rng(1)
    parameters = [(jnp.asarray(generator.standard_normal((wide, narrow), dtype=np.float32) * wide**-0.5),
                   jnp.zeros(narrow, jnp.float32)) for wide, narrow in pairwise(widths)]  # fmt: skip
    x, y = (jnp.asarray(array) for array in batch(name, rows))

    def loss(parameters: Any) -> Any:
        activation = x
        for weight, bias in parameters[:-1]:
            activation = jnp.maximum(activation @ weight + bias, 0)
        outputs = activation @ parameters[-1][0] + parameters[-1][1]
        if name == "lin10":
            return ((outputs - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], axis=1).mean()

    def updated(parameters: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters)
        return value, jax.tree.map(lambda p, g: p - LEARNING_RATE * mean_over_ranks(g), parameters, gradients)

    update = jax.jit(updated, donate_argnums=0)
    held = [parameters]

    def step() -> None:
        value, held[0] = update(held[0])
        value.block_until_ready()

    return step


CONTENDERS: dict[str, Callable[[str, int | None, bool], Step]] = {
    "npdp": npdp_step,
    "fused": fused_step,
    "server": server_step,
    "server-sync": server_sync_step,
    "numpy": numpy_step,
    "numpy-flat": numpy_flat_step,
    "torch": torch_step,
    "horovod": horovod_step,
    "jax": jax_step,
}

if __name__ == "__main__":
    sys.exit(__doc__)
