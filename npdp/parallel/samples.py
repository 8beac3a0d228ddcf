"""The weight of a rank's loss in the global one: the samples of its forward, n_r of N."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from npdp.autograd.engine import LOST, SUMMED
from npdp.base.partition import part
from npdp.data.batch import Batch
from npdp.data.sampler import this_rank
from npdp.nn.parameter import Parameter

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator

IS_A_SUM = (
    'reduction="sum" cannot be used under DataParallel: the loss of each rank is taken as the mean over its samples, '
    "and weighed by their number; use the mean, or scale the learning rate"
)
COUNT_IS_LOST = (
    "backward: a loss with weight or ignore_index counts by itself what it is the mean over, and this was computed "
    "from it: call backward() on the loss itself, the gradients of several add up"
)
COUNTS_DIFFER = (
    "backward: since the last one the model was called with {} and with {} samples of {} and {}, which weigh "
    "differently: give each forward its own backward, and evaluate under no_grad()"
)
NO_COUNT = "backward: the model was called in eval() with arrays, which are not counted there; call train() first"
COUNTED_IN_PARTS = (
    "backward: with accumulate, a loss with weight or ignore_index cannot know what the other micro-batches will count"
)


class LossWeight:
    """Weight of the loss in the backward to come, by the samples of the last forward.

    Attributes:
        batch: the samples of the last forward; where no DataParallel has told of one, those that a loader gave last
            before a backward; None where nobody has said.
    """

    def __init__(self, communicator: Communicator, synchronous: bool) -> None:
        self._communicator, self._synchronous = communicator, synchronous
        self.batch: Batch | None = None
        self._told = False  # of forwards
        self.pending = False  # a forward was noted, and no backward has come since
        self._refusal: str | None = None

    def note(self, batch: Batch) -> None:
        """Note a forward with these samples, which is to be trained on."""
        before = self.batch
        if (
            self.pending
            and before is not None
            and before.count * batch.global_count != batch.count * before.global_count
        ):
            counts = before.count, batch.count, before.global_count, batch.global_count
            self._refusal = COUNTS_DIFFER.format(*counts)
        elif not self.pending:
            self._refusal = None
        self.batch, self.pending, self._told = batch, True, True

    def note_uncounted(self) -> None:
        """Note a forward of unknown samples, which does not matter unless backward follows."""
        if not self.pending:
            self._refusal = NO_COUNT

    def of_backward(self, counted: float | None) -> float:
        """Return the weight of a loss, n_r / N, or where nothing says how many samples, one in P.

        Args:
            counted: what the loss itself says that it is the mean over; see `Reducer.begin`.

        Raises:
            ValueError: the loss is a sum, or of forwards that weigh differently.
        """
        self._communicator.place.part = "backward"
        alone, refusal = self._communicator.world_size == 1, self._refusal
        self.pending, self._refusal = False, None
        self.batch = batch = self.batch if self._told else this_rank.batch
        if counted is not None:
            if counted in (SUMMED, LOST):
                raise ValueError(IS_A_SUM if counted == SUMMED else COUNT_IS_LOST)
            if not alone or this_rank.micro_batches > 1:
                return self._of_counted(counted)
        if refusal is not None and not alone:
            raise ValueError(refusal)
        if batch is None or batch.parts != self._communicator.world_size:
            return 1 / self._communicator.world_size
        return batch.count / batch.global_count if batch.global_count else 0.0

    def _of_counted(self, counted: float) -> float:
        """Return the part of what all ranks have counted; collective."""
        if this_rank.micro_batches > 1:
            raise ValueError(COUNTED_IN_PARTS)
        if not self._synchronous:
            return 1 / self._communicator.world_size
        total = np.array([counted])
        self._communicator.allreduce(total, algorithm="auto")
        return counted / total.item() if total.item() else 0.0


def weight_within_part(batch: Batch, number: int) -> float:
    """Return the weight of a micro-batch in the mean over part `number` of its batch: 1 where it is the whole part."""
    start, stop = part(batch.global_count, batch.parts, number)
    return batch.count / (stop - start) if stop > start else 0.0


class SampleCount:
    """Counter of the samples behind this rank's gradients; a batch of several losses counts once.

    Attributes:
        mine: how many there are.
        hashed: the sum of their hashes, where somebody computes it.
    """

    hashed = 0

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.mine = 0
        self._used = False
        self._batches: list[Batch] = []

    def begin(self, parameters: Iterable[Parameter], batch: Batch | None, ranks: int) -> Batch | None:
        """Begin a backward: return its batch, counted, or a micro-batch; None where it was not cut for so many ranks.

        Counts anew where gradients have been used, or thrown away, since the last one.
        """
        if self._used or all(parameter.raw_grad is None for parameter in parameters):
            self._clear()
        if batch is None or batch.parts != ranks:
            return None
        if not any(counted is batch for counted in self._batches):
            self._batches.append(batch)
            self._count(batch)
        return batch

    def _count(self, batch: Batch) -> None:
        self.mine += batch.count

    def mark_used(self) -> None:
        """Note that the gradients have been used, by one optimiser or several."""
        self._used = True
