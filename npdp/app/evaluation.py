"""Loss and accuracy of a model on a data set, over all ranks; each sample counted once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from npdp import nn
from npdp.autograd import Tensor, no_grad
from npdp.base.partition import part
from npdp.collectives.communicator import Communicator
from npdp.data import ArrayDataset, SparseRows
from npdp.data.text import TextDataset

BLOCK_ELEMENTS = 2**20  # of features per forward


class EachToken(nn.Module):
    """Cross entropy over all places of all samples: logits (samples, places, classes), labels (samples, places)."""

    def __init__(self) -> None:
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, logits: Any, labels: Any) -> Tensor:
        return self.criterion(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))  # type: ignore[no-any-return]


def criterion_of(dataset: ArrayDataset, classes: int | None) -> nn.Module:
    """Return the loss for a data set's labels: of numbers, classes, or, of text, a class for each place."""
    if classes is None:
        return nn.MSELoss()
    return EachToken() if isinstance(dataset, TextDataset) else nn.CrossEntropyLoss()


class Score(NamedTuple):
    """Mean loss over a data set; the part of right classes, None for regression."""

    loss: float
    accuracy: float | None


def of_text(score: Score, dataset: ArrayDataset) -> dict[str, float]:
    """Return what else is said of a score on text: bits per byte of it, so that tokenizers can be compared."""
    if not isinstance(dataset, TextDataset):
        return {}
    tokens = len(dataset) * dataset.context
    return {"test_bits_per_byte": score.loss / math.log(2) * tokens / dataset.label_bytes()}


def evaluate(world: Communicator, model: nn.Module, dataset: ArrayDataset, classes: int | None) -> Score:
    """Return the score of `model`, each rank having looked at its part of the data; collective.

    Modules are in training or in evaluation afterwards as they were before, whatever happens.
    """
    world.place.part = "evaluation"
    criterion = criterion_of(dataset, classes)
    sums = np.zeros(2, np.float64)  # of loss, of right answers
    with evaluating(model), no_grad():
        for inputs, labels in blocks(dataset, *part(len(dataset), world.world_size, world.rank)):
            outputs = model(inputs)
            sums[0] += criterion(outputs, labels).item() * len(labels)
            if classes is not None:
                answers = ~np.isnan(outputs.data).any(axis=-1)  # else they would pass for the first class
                right = answers & (outputs.data.argmax(axis=-1) == labels.data)
                sums[1] += right.sum() * len(labels) / (right.size or 1)
    world.allreduce(sums, algorithm="tree")
    loss, accuracy = (sums / (len(dataset) or 1)).tolist()
    return Score(loss, accuracy if classes is not None else None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation; afterwards they are as they were."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def blocks(dataset: ArrayDataset, start: int, stop: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield rows [start, stop) as tensors, in blocks that are kind to memory."""
    rows = max(1, BLOCK_ELEMENTS // max(1, dataset.elements_per_sample))
    for first in range(start, stop, rows):
        x, y = dataset.take(slice(first, min(first + rows, stop)))
        yield x if isinstance(x, SparseRows) else Tensor(x), Tensor(y)
