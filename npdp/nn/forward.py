"""The current forward of a model, by which layers know of the global batch: its rows, and sums over it.

Dropout masks the rows of this rank's part; batch normalisation sums over all parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from npdp.autograd.tensor import Array

SumOverRanks = Callable[[Array], object]


def alone(array: Array) -> None:
    """Sum over this rank, which has the whole batch."""


class Samples(NamedTuple):
    """Samples of a global batch in a forward: `count` of them, from `first` on.

    `shared` says that other ranks have the others.
    """

    iteration: int
    first: int
    count: int  # type: ignore[assignment]  # not the method of tuples
    shared: bool = False


def samples_of(batch: Any) -> Samples | None:
    """Return the samples of a part of a batch, as the loader's tensors have one (data/batch.py); None of None."""
    return batch and Samples(batch.iteration, batch.first_row, batch.count, batch.parts > 1)


class Forward:
    """Counter of a model's forwards.

    Attributes:
        samples: what this one is about; None: nobody says, all rows of an input are samples.
        number: how many forwards there were before this one.
        counted_arrays: how many of them were on arrays, of which ranks tell each other their rows.
        sum_over_ranks: sums an array (count,) of floats in place over the ranks that share a batch; collective.
    """

    sum_over_ranks: SumOverRanks = staticmethod(alone)

    def __init__(self) -> None:
        self.samples: Samples | None = None
        self.number, self.counted_arrays = -1, 0

    def begin(self, samples: Samples | None = None) -> None:
        """Count a forward, about these samples."""
        self.samples, self.number = samples, self.number + 1

    def __getstate__(self) -> dict[str, Any]:  # of a copy, which is not wrapped
        return {name: value for name, value in vars(self).items() if name != "sum_over_ranks"}
