"""How much a rank's loss counts in the global one, by its samples; and how many samples are behind its gradients."""

from __future__ import annotations

from collections.abc import Iterable

from npdp.autograd import Batch
from npdp.autograd.batch import MIXED, SUMMED
from npdp.nn.parameter import Parameter
from npdp.partition import part


def loss_weight(batch: Batch | None, world_size: int) -> float:
    """Return a rank's share of the batch behind its loss, or, where nothing says how many samples, one in P.

    Raises:
        ValueError: the loss is a sum, or of batches that weigh differently.
    """
    if batch is not None and batch.parts == world_size:  # as a rule
        _, total = batch.position
        return batch.count / total if total else 0.0
    if batch is SUMMED:
        raise ValueError(
            'reduction="sum" cannot be used under DataParallel: the exchange takes the loss of each rank as '
            "the mean over its samples, and weighs it by their number; use the mean, or scale the learning rate"
        )
    if batch is MIXED and world_size > 1:
        raise ValueError(
            "backward: this loss was computed from batches of different sizes, which weigh differently on each "
            "rank; give each its own backward, the gradients add up"
        )
    return 1 / world_size


def weight_within_part(batch: Batch, number: int) -> float:
    """Return the weight of a piece in the mean over part `number` of its batch: 1 where it is the whole part."""
    start, stop = part(batch.global_count, batch.parts, number)
    return batch.count / (stop - start) if stop > start else 0.0


class SampleCount:
    """Counts the samples behind this rank's gradients; a batch that several losses were computed from counts once.

    Attributes:
        mine: this rank's.
        total: those of the whole batches, of which it had its part, in one piece or several.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.mine = self.total = 0
        self._used = False
        self._iteration: int | None = None
        self._pieces: list[Batch] = []

    def begin(self, parameters: Iterable[Parameter]) -> None:
        """A backward begins: count anew where gradients have been used, or thrown away, since the last one."""
        if self._used or all(parameter.grad is None for parameter in parameters):
            self._clear()

    def add(self, batch: Batch) -> None:
        """Count a batch, which has been cut for the ranks, or a piece of it."""
        if any(piece is batch for piece in self._pieces):
            return
        self._pieces.append(batch)
        self.mine += batch.count
        if batch.iteration != self._iteration:  # else another piece of the same part
            self._iteration = batch.iteration
            self.total += batch.global_count

    def mark_used(self) -> None:
        """Note that the gradients have been used, by one optimiser or several."""
        self._used = True
