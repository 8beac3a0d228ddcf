"""A compressor that sends the k largest numbers and keeps the rest for later: nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.grading.grading import Check, Grading
from npdp.grading.process import Remote, SolutionError

ITERATIONS = 6


class Drive:
    """A compressor of the student's, and what it should still hold."""

    def __init__(self, grading: Grading, count: int, k: int) -> None:
        self.program, self.k = grading.program, k
        compressor = self.program.call("Compressor", count, k)
        if not isinstance(compressor, Remote):
            raise SolutionError(f"Compressor(...) is {compressor!r}, wanted an object of your class")
        self.compressor = compressor
        self.left = np.zeros(count)
        self.where = f"{count} numbers, k = {k}"

    def send(self, gradient: np.ndarray) -> None:
        """Compress one gradient; raise SolutionError where what is sent is not the k largest of what is held."""
        held = self.left + gradient
        indices, values = self._sent(gradient)
        if len(indices) != self.k or len(set(indices)) != self.k or not all(0 <= at < held.size for at in indices):
            raise SolutionError(f"{self.where}: compress returns the indices {indices}, wanted {self.k} different ones")
        for at, value in zip(indices, values):
            if value != held[at]:
                raise SolutionError(
                    f"{self.where}: gradient {gradient.tolist()} comes, {self.left.tolist()} was left before: it sends "
                    f"{value:g} at {at}, wanted {held[at]:g}"
                )
        self.left = held.copy()
        self.left[indices] = 0
        if np.abs(held[indices]).min() < np.abs(self.left).max(initial=0):
            raise SolutionError(
                f"{self.where}: of {held.tolist()} it sends those at {sorted(indices)}, wanted the largest by "
                "absolute value"
            )

    def _sent(self, gradient: np.ndarray) -> tuple[list[int], list[float]]:
        got: Any = self.program.call("compress", gradient, of=self.compressor)
        if not isinstance(got, list) or len(got) != 2:
            raise SolutionError(f"{self.where}: compress returns {got!r}, wanted indices, values")
        indices, values = (np.asarray(part).tolist() for part in got)
        if not isinstance(indices, list) or not isinstance(values, list) or len(indices) != len(values):
            raise SolutionError(f"{self.where}: compress returns {got!r}, wanted as many indices as values")
        return [int(at) for at in indices], [float(value) for value in values]


def once(grading: Grading) -> None:
    """A first gradient, for several sizes; whole numbers of different size."""
    for count, k in ((1, 1), (2, 1), (3, 2), (5, 5), (20, 4)):
        Drive(grading, count, k).send(_gradient(grading, count))


def again(grading: Grading) -> None:
    """Several gradients one after the other: what was left takes part."""
    for count, k in ((2, 1), (3, 2), (20, 4)):
        drive = Drive(grading, count, k)
        for _ in range(ITERATIONS):
            drive.send(_gradient(grading, count))


def flushed(grading: Grading) -> None:
    """After gradients of zeros all has been sent."""
    drive = Drive(grading, 10, 3)
    for _ in range(3):
        drive.send(_gradient(grading, 10))
    for _ in range(4):
        drive.send(np.zeros(10))
    if drive.left.any():
        raise SolutionError(f"{drive.where}: after four gradients of zeros {drive.left.tolist()} is not sent yet")


def apart(grading: Grading) -> None:
    """Two compressors, one for each parameter, share nothing."""
    first, second = Drive(grading, 4, 1), Drive(grading, 4, 1)
    for _ in range(3):
        first.send(_gradient(grading, 4))
        second.send(_gradient(grading, 4))


def _gradient(grading: Grading, count: int) -> np.ndarray:
    signs = grading.random.choice([-1.0, 1.0], count)
    return np.asarray(grading.random.permutation(np.arange(1.0, count + 1)) * signs)


CHECKS = (
    Check("it sends the k largest of a gradient", 3, once),
    Check("what was not sent is added to the next gradient", 4, again),
    Check("in the end nothing is lost", 2, flushed),
    Check("two compressors share nothing", 1, apart),
)
