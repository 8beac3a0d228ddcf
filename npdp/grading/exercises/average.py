"""The mean gradient over parts of unequal size: an average of averages is wrong, a rank without samples is NaN."""

from __future__ import annotations

import numpy as np

from npdp.grading.exercises.arrays import told
from npdp.grading.grading import Check, Grading
from npdp.grading.process import SolutionError

TOLERANCE = 1e-12


def _compare(grading: Grading, counts: list[int]) -> None:
    samples = [grading.random.integers(-9, 10, (count, 3)).astype(np.float64) for count in counts]
    means = [part.mean(axis=0) if len(part) else np.full(3, np.nan) for part in samples]
    network = grading.network(len(counts), ("allreduce",))
    results = network.run("average", list(zip(means, counts)))
    wanted = np.concatenate(samples).mean(axis=0)
    for rank, result in enumerate(results):
        told(f"parts of {counts} samples with the means {[mean.tolist() for mean in means]}: rank {rank} returns",
             result, wanted, TOLERANCE)  # fmt: skip
    if network.calls > 2:
        raise SolutionError(f"{network.calls} all-reduces on {len(counts)} ranks, wanted at most 2")


def equal(grading: Grading) -> None:
    for counts in ([1], [1, 1], [2, 2], [4, 4, 4]):
        _compare(grading, counts)


def unequal(grading: Grading) -> None:
    for counts in ([1, 2], [3, 1], [1, 2, 3], [5, 1, 1, 7]):
        _compare(grading, counts)


def empty(grading: Grading) -> None:
    for counts in ([1, 0], [0, 2], [0, 3, 0], [0, 0, 0, 1]):
        _compare(grading, counts)


CHECKS = (
    Check("parts of the same size", 2, equal),
    Check("parts of unequal size", 4, unequal),
    Check("ranks that have no samples", 4, empty),
)
