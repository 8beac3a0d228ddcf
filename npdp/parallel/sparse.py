"""The exchange of sparse gradients: each rank touched a few rows of a weight, and all need the sum of all of them.

    rank 0   rows 2 7 9     ┐  how many rows has each?   (an allgather of counts, and now and then of checksums)
    rank 1   rows 7         ┼  values and rows of all    (a line of words from each, as long as the longest)
    rank 2   rows 1 9       ┘  rows 1 2 7 9, values added up in rank order: the same bits everywhere

An all-reduce of the whole weight would move all its rows; this moves those that were touched, once to each rank.
A rank that did not use a parameter has no rows of it; where no rank did, the gradient stays None.

Ranks of one host lay their lines where all can read them; else an allgather brings them.

Cost: P k (width + 1) numbers read, k the rows of the rank that has most; and one pass over them.
"""

from __future__ import annotations

import numpy as np

from npdp.autograd.rows import Distinct, RowGradient
from npdp.autograd.tensor import Array
from npdp.collectives.algorithms import SHARED_MEMORY
from npdp.collectives.communicator import Communicator
from npdp.nn.products import sums_of_rows
from npdp.nn.sparse_parameter import SparseParameter
from npdp.parallel.consistency import checksums_of_rows, differ

WORD = np.dtype(np.int32)  # what lines are made of: values as their bits, rows as numbers
UNUSED = -1  # instead of a count of rows: this rank did not use the parameter


class SparseExchange:
    """Sum over the ranks of the row gradients of sparse parameters.

    Args:
        parameters: in the same order on all ranks.
        world: the ranks.
    """

    def __init__(self, parameters: list[SparseParameter], world: Communicator) -> None:
        self._world, self._parameters = world, parameters
        self._distinct = {parameter: Distinct(len(parameter.array)) for parameter in parameters}
        # Rows of the last exchange; before the first, row 0
        self._touched = {parameter: np.arange(len(parameter.array[:1])) for parameter in parameters}
        self._lines = _Lines(world)

    def sum(self, round_number: int | None) -> int:
        """Leave in each parameter's gradient the sum of all ranks'; return the bytes of this rank's own. Collective.

        Args:
            round_number: of the checksums that go along (consistency.py); None: none do.
        """
        gradients = [parameter.row_gradient() for parameter in self._parameters]
        checksums = [] if round_number is None else checksums_of_rows(self._touched, round_number)
        counts = self._counts(gradients, checksums)
        starts = np.cumsum([0, *(self._words(p) * max(0, *of_ranks) for p, of_ranks in zip(self._parameters, counts))])
        mine, given_bytes = self._lines.mine(int(starts[-1])), 0
        for gradient, start in zip(gradients, starts):
            if gradient is not None:
                _write(mine[start:], gradient)
                given_bytes += gradient.values.nbytes + len(gradient.rows) * WORD.itemsize
        lines = self._lines.everyones()
        for parameter, start, of_ranks in zip(self._parameters, starts, counts):
            if max(of_ranks) != UNUSED:
                parameter.raw_grad = self._sum(parameter, [line[start:] for line in lines], of_ranks)
        return given_bytes

    def _counts(self, gradients: list[RowGradient | None], checksums: list[int]) -> list[list[int]]:
        """Return for each parameter how many rows each rank has; UNUSED where it has no gradient.

        Raises:
            RuntimeError: the ranks' parameters were not the same.
        """
        counts = [UNUSED if gradient is None else len(gradient.rows) for gradient in gradients]
        mine = np.array([*counts, *checksums], np.int64)
        everyones = np.empty((self._world.world_size, len(mine)), np.int64)
        self._world.allgather(mine, everyones)
        of_each: list[list[int]] = everyones.T.tolist()
        if any(min(of_ranks) != max(of_ranks) for of_ranks in of_each[len(counts) :]):
            raise differ(self._world.rank)
        return of_each[: len(counts)]

    @staticmethod
    def _words(parameter: SparseParameter) -> int:
        """Return how many words a row takes in a line: its values, and its number."""
        return parameter.array[:1].nbytes // WORD.itemsize + 1

    def _sum(self, parameter: SparseParameter, lines: list[Array], counts: list[int]) -> RowGradient:
        """Return the sum of the gradients that stand at the beginning of these lines, in so many rows each."""
        width = self._words(parameter) - 1
        counts = [max(0, count) for count in counts]
        values = np.concatenate([line[: count * width] for line, count in zip(lines, counts)])
        rows = np.concatenate([line[count * width :][:count] for line, count in zip(lines, counts)])
        distinct, indices = self._distinct[parameter](rows)
        shape = (len(rows), width * WORD.itemsize // parameter.dtype.itemsize)
        self._touched[parameter] = distinct
        total = sums_of_rows(values.view(parameter.dtype).reshape(shape), indices, len(distinct))
        return RowGradient(distinct, total.reshape(len(distinct), *parameter.shape[1:]), parameter.shape)


class _Lines:
    """Lines of words, one from each rank, for all to read: where ranks share memory no copy is made."""

    def __init__(self, world: Communicator) -> None:
        self._world = world
        self._in_reach = world.algorithm in ("auto", SHARED_MEMORY)
        self._mine = np.empty(0, WORD)  # kept and used again, as memory that ranks share is dear to get
        self._everyones: list[Array] | None = None

    def mine(self, count: int) -> Array:
        """Return this rank's line, of so many words on every rank, to be written; collective where it must grow.

        All ranks have read what was there before: they were in a collective since.
        """
        if count > self._mine.size and self._in_reach:
            self._mine = self._world.shared_empty(count * 5 // 4, WORD)
            self._everyones = self._world.memory.everyones(self._mine)
            self._in_reach = self._everyones is not None
        if self._everyones is None:
            self._mine = np.empty(count, WORD)
        return self._mine

    def everyones(self) -> list[Array]:
        """Return what all ranks have written, in rank order; collective."""
        if self._everyones is not None:
            self._world.barrier()
            return self._everyones
        lines = np.empty((self._world.world_size, self._mine.size), WORD)
        self._world.allgather(self._mine, lines)
        return list(lines)


def _write(line: Array, gradient: RowGradient) -> None:
    """Write values, then rows, at the beginning of a line."""
    values = gradient.values.reshape(-1).view(WORD)
    line[: values.size] = values
    line[values.size :][: len(gradient.rows)] = gradient.rows
