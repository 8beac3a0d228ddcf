"""A program with seven faults: each check finds one of them, and the last trains with all of it."""

from __future__ import annotations

import warnings

import numpy as np

from npdp.grading.exercises.arrays import told
from npdp.grading.grading import Check, Grading
from npdp.grading.process import SolutionError

TOLERANCE = 1e-12


def ends(grading: Grading) -> None:
    """The ring does not wait for ever."""
    for ranks in (1, 2, 3, 4):
        grading.network(ranks).run("allreduce", [(np.ones(ranks),) for _ in range(ranks)])


def sums(grading: Grading) -> None:
    """Each chunk has every rank's contribution."""
    for ranks, count in ((1, 1), (2, 2), (2, 3), (3, 3), (4, 4), (4, 9)):
        arrays = [grading.random.integers(-9, 10, count).astype(np.float64) for _ in range(ranks)]
        results = grading.network(ranks).run("allreduce", [(array,) for array in arrays])
        for rank, result in enumerate(results):
            told(f"arrays {[array.tolist() for array in arrays]} on {ranks} ranks: rank {rank} has the sum", result,
                 np.sum(arrays, axis=0))  # fmt: skip


def average(grading: Grading) -> None:
    """The sum of the gradients is divided by the number of all samples."""
    for counts in ([2], [1, 1], [1, 3]):
        ranks = len(counts)
        sums_of = [grading.random.integers(-9, 10, 4).astype(np.float64) for _ in range(ranks)]
        results = grading.network(ranks).run("average", list(zip(sums_of, counts)))
        for rank, result in enumerate(results):
            told(f"gradients {[one.tolist() for one in sums_of]}, each the sum over {counts} samples: rank {rank} has "
                 "the average", result, np.sum(sums_of, axis=0) / sum(counts), TOLERANCE)  # fmt: skip


def no_samples(grading: Grading) -> None:
    """A rank with no samples contributes zeros."""
    for count in (2, 1, 0):
        x, w = grading.random.integers(-9, 10, (count, 2)).astype(np.float64), np.array([1.0, 2.0])
        got = grading.program.call("gradient", x, np.ones(count), w)
        wanted = _gradient(x, np.ones(count), w)
        told(f"a rank with {count} samples: the sum of their gradients is", got, wanted, TOLERANCE)


def each_once(grading: Grading) -> None:
    """An epoch's batches have each sample once."""
    for samples, size in ((4, 2), (1, 2), (3, 2), (10, 4)):
        got = grading.program.call("batches", samples, size)
        used = [sample for batch in got for sample in batch] if isinstance(got, list) else got
        if sorted(used) != list(range(samples)):
            twice = sorted({sample for sample in used if used.count(sample) > 1})
            what = f"{twice} come twice" if twice else "some are missing"
            raise SolutionError(f"{samples} samples in batches of {size}: {got}; {what}")


def rate(grading: Grading) -> None:
    """The learning rate grows with the batch."""
    for base, base_batch, batch in ((0.1, 32, 32), (0.1, 32, 64), (0.5, 8, 4)):
        got, wanted = grading.program.call("learning_rate", base, base_batch, batch), base * batch / base_batch
        if not isinstance(got, (int, float)) or abs(got - wanted) > TOLERANCE:
            raise SolutionError(
                f"{base:g} was right for batches of {base_batch}; for {batch} it is {got!r}, wanted {wanted:g}"
            )


def seeds(grading: Grading) -> None:
    """Each rank draws noise of its own, the same again with the same seed; the order of samples is common to all."""
    seed = int(grading.random.integers(1000))
    first, second = grading.network(2).run("noise", [(seed, 4)] * 2)
    told(f"noise({seed}, 4) on rank 0 once more is", grading.network(2).run("noise", [(seed, 4)] * 2)[0], first)
    if np.array_equal(first, second):
        both = f"noise({seed}, 4) is {first.tolist()} on rank 0 and on rank 1"
        raise SolutionError(f"{both}: every rank has the same seed")
    orders = [np.asarray(order).tolist() for order in grading.network(2).run("order", [(seed, 5)] * 2)]
    if orders[0] != orders[1] or sorted(orders[0]) != [0, 1, 2, 3, 4]:
        both = f"order({seed}, 5) is {orders[0]} on rank 0, {orders[1]} on rank 1"
        raise SolutionError(f"{both}, wanted the same on all ranks")


def trains(grading: Grading) -> None:
    """Three ranks end with the parameters of one."""
    x = grading.random.standard_normal((10, 2))
    y = x @ np.array([1.0, -2.0])
    one = grading.network(1).run("train", [(x, y, 4)])[0]
    wanted = np.zeros(2)
    for start in range(0, 10, 4):
        rows = slice(start, start + 4)
        wanted = wanted - 0.1 * 4 / 32 * _gradient(x[rows], y[rows], wanted) / len(x[rows])
    told("one epoch of train on one rank ends with the parameters", one, wanted, TOLERANCE)
    for rank, got in enumerate(grading.network(3).run("train", [(x, y, 4)] * 3)):
        told(f"one epoch of train on three ranks: rank {rank} ends with the parameters", got, wanted, TOLERANCE)


def _gradient(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum over samples of the gradients of (x @ w - y)**2 / 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(x.T @ (x @ w - y))


CHECKS = (
    Check("the ring ends", 2, ends),
    Check("each chunk of the ring is the sum", 1, sums),
    Check("the sum becomes an average", 1, average),
    Check("a rank without samples adds nothing", 1, no_samples),
    Check("the batches have each sample once", 1, each_once),
    Check("the learning rate grows with the batch", 1, rate),
    Check("each rank has noise of its own", 1, seeds),
    Check("three ranks train as one", 2, trains),
)
