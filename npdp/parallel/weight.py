"""How much a rank's loss counts in the global one: what every exchange of gradients multiplies it by."""

from __future__ import annotations

from npdp.autograd import Batch
from npdp.autograd.batch import MIXED, SUMMED
from npdp.partition import part


def loss_weight(batch: Batch | None, world_size: int) -> float:
    """Return a rank's share of the batch behind its loss, or, where nothing says how many samples, one in P.

    Raises:
        ValueError: the loss is a sum, or of batches that weigh differently.
    """
    if batch is not None and batch.parts == world_size:  # as a rule
        _, total = batch.place
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
