"""Four benchmark models, and one batch for each; the batch is per rank.

    lin10     Linear(10, 1), mean squared error, batch 32
    softmax   784-10, cross entropy, batch 128
    mlp       784-512-512-10 with ReLU, batch 128
    mlpbig    784-2048-2048-10 with ReLU, batch 128

benchmarks/contenders.py does the same in NumPy and in PyTorch. What costs time to load is imported where it is used:
flags are read before NumPy, and other contenders get their widths and batches from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from npdp import nn
    from npdp.parallel.strategy import Strategy

MODELS = {
    "lin10": ([10, 1], 32),
    "softmax": ([784, 10], 128),
    "mlp": ([784, 512, 512, 10], 128),
    "mlpbig": ([784, 2048, 2048, 10], 128),
}
LEARNING_RATE = 0.01

Step = Callable[[], Any]


def batch(name: str, rows: int | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return one batch, float32, of so many rows, or the model's own: numbers for lin10, labels for the others."""
    import numpy as np

    widths, size = MODELS[name][0], rows or MODELS[name][1]
    generator = np.random.default_rng(0)
    x = generator.standard_normal((size, widths[0]), dtype=np.float32)
    if name == "lin10":
        return x, generator.standard_normal((size, 1), dtype=np.float32)
    return x, generator.integers(0, 10, size)


def layers(name: str) -> nn.Module:
    """Return a new model."""
    from npdp.app import models

    features, *hidden, outputs = MODELS[name][0]
    return models.mlp(features, outputs, tuple(hidden)) if hidden else models.softmax(features, outputs)


def iteration(
    name: str, update: str | None, rows: int | None = None, strategy: Strategy | None = None
) -> tuple[nn.Module, Step]:
    """Return a model, and a step through npdp's public API: forward, loss, backward, update.

    Args:
        name: a key of MODELS.
        update: "replicated" or "fused", under DataParallel on the ranks that there are; then it is collective, as is
            the step. None: this rank alone.
        rows: of a rank's batch; the model's own where None.
        strategy: how ranks train together, where not by all-reduce.
    """
    from npdp import Tensor, nn, optim
    from npdp.data.batch import Batch, BatchTensor
    from npdp.parallel.world import init

    model = layers(name)
    criterion = nn.MSELoss() if name == "lin10" else nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)
    x, y = batch(name, rows)
    inputs, labels = Tensor(x), Tensor(y)
    if update is not None:
        model = nn.DataParallel(model, update=update, strategy=strategy, on_nan="raise")  # as npdp train does
        world, count = init(), len(x)  # of those that train; what the loader would yield
        inputs = BatchTensor(x, Batch(count, world.rank * count, world.world_size * count, 0, world.world_size))

    def step() -> None:
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return model, step
