"""The naive all-reduce by messages: sums right, in rank order, and no more messages than needed."""

from __future__ import annotations

import numpy as np

from npdp.grading.exercises.arrays import told
from npdp.grading.grading import Check, Grading
from npdp.grading.process import SolutionError

RANKS, COUNTS = (1, 2, 3, 5), (1, 2, 0, 7)


def sums(grading: Grading) -> None:
    """Whole numbers, whose sum no order can change."""
    for ranks in RANKS:
        for count in COUNTS:
            arrays = [grading.random.integers(-9, 10, count).astype(np.float64) for _ in range(ranks)]
            _compare(grading, arrays)


def order(grading: Grading) -> None:
    """Drawn numbers of single precision: added in rank order, to the last bit."""
    arrays = [grading.random.standard_normal(50).astype(np.float32) for _ in range(4)]
    _compare(grading, arrays)


def traffic(grading: Grading) -> None:
    """The root gets each array once, and sends the sum to each once."""
    ranks, count = 4, 10
    network = grading.network(ranks)
    network.run("naive_allreduce", [(np.ones(count),) for _ in range(ranks)])
    for rank in range(1, ranks):
        to, back = int(network.sent[rank].sum()), int(network.sent[:, rank].sum())
        if (to, back) != (count, count):
            raise SolutionError(f"{ranks} ranks, {count} numbers: rank {rank} sends {to} and receives {back}, "
                         f"wanted {count} each")  # fmt: skip


def _compare(grading: Grading, arrays: list[np.ndarray]) -> None:
    wanted = sum(arrays[1:], start=arrays[0].copy())
    results = grading.network(len(arrays)).run("naive_allreduce", [(array,) for array in arrays])
    for rank, result in enumerate(results):
        told(f"arrays {[array.tolist() for array in arrays]}: rank {rank} returns", result, wanted)


CHECKS = (
    Check("every rank returns the sum, on 1, 2, 3 and 5 ranks", 5, sums),
    Check("added in the order of the ranks, to the last bit", 2, order, True),
    Check("each array travels once to the root, and the sum once back", 3, traffic, True),
)
