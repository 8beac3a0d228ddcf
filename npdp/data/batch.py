"""Rows of the global batch behind the loader's tensors, by which P ranks count, and drop out, as one would.

    global batch of 10 on 3 ranks    | rank 0: rows 0 to 3 | rank 1: rows 4 to 6 | rank 2: rows 7 to 9 |

Only what the loader yields says so; what is computed from it does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npdp.autograd import Tensor
from npdp.autograd.sparse_rows import SparseRows
from npdp.autograd.tensor import Array

UNSHUFFLED = -1  # no seed, and no epoch, is


class Batch(NamedTuple):
    """One rank's rows of a global batch, or one micro-batch of them.

    Attributes:
        count: number of samples here.
        first_row: where they begin in the global batch.
        global_count: samples of the global batch, over all ranks.
        iteration: number of the global batch since training began.
        parts: into how many parts, one a rank, the global batch was cut.
        drawn: what says which samples the global batch has, the same on every rank: (samples of an epoch, checksum of
            their labels, batch_size, seed, epoch, number of the batch), of what is not shuffled with UNSHUFFLED for
            seed and epoch; () where nobody knows.
    """

    count: int  # type: ignore[assignment]  # not the method of tuples
    first_row: int
    global_count: int
    iteration: int
    parts: int = 1
    drawn: tuple[int, ...] = ()


class BatchTensor(Tensor):
    """Tensor that the loader yields: rows of `batch`."""

    def __init__(self, data: Array, batch: Batch) -> None:
        self.array, self.version, self.batch = data, [0], batch


class BatchRows(SparseRows):
    """Sparse rows that the loader yields: those of `batch`."""

    __slots__ = ("batch",)

    def __init__(self, rows: SparseRows, batch: Batch) -> None:
        self.indptr, self.indices, self.values, self.shape = rows.indptr, rows.indices, rows.values, rows.shape
        self.batch = batch


def with_batch(values: Array | SparseRows, batch: Batch) -> BatchTensor | BatchRows:
    """Return what a dataset gave as rows of this batch."""
    return BatchTensor(values, batch) if isinstance(values, np.ndarray) else BatchRows(values, batch)


def batch_of(values: object) -> Batch | None:
    """Return the batch that a loader's tensor says it is a part of; None for anything else."""
    return values.batch if isinstance(values, (BatchTensor, BatchRows)) else None
