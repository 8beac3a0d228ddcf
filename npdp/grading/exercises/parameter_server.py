"""A parameter server: versions, staleness, and who may go on under a bound; orders of arrival are drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npdp.grading.exercises.arrays import told
from npdp.grading.grading import Check, Grading
from npdp.grading.process import Remote, SolutionError

EVENTS, ETA = 40, 0.5


class Story:
    """A server of the student's, what it should have, and what has happened so far."""

    def __init__(self, grading: Grading, workers: int, bound: float) -> None:
        self.grading, self.bound = grading, bound
        self.program = grading.program
        self.w = grading.random.integers(-9, 10, 2).astype(np.float64)
        self.version, self.done = 0, [0] * workers
        self.held: dict[int, int] = {}  # worker -> the version that it computes on
        server = self.program.call("Server", self.w, workers, ETA, bound)
        if not isinstance(server, Remote):
            raise SolutionError(f"Server(...) is {server!r}, wanted an object of your class")
        self.server = server
        self.heading = f"{workers} workers, staleness {bound:g}"

    def ask(self, method: str, *arguments: Any) -> Any:
        return self.program.call(method, *arguments, of=self.server)

    def pull(self, worker: int) -> None:
        lead = self.done[worker] - min(self.done)
        may, wanted = self.ask("may_pull", worker), lead <= self.bound
        if may is not wanted:
            raise SolutionError(
                f"{self.heading}: worker {worker} has done {self.done[worker]} iterations, the slowest "
                f"{min(self.done)}: may_pull({worker}) is {may!r}, wanted {wanted}"
            )
        if wanted:
            got = self.ask("pull", worker)
            where = f"{self.heading}: after {self.version} pushes pull({worker})"
            if not isinstance(got, list) or len(got) != 2:
                raise SolutionError(f"{where} returns {got!r}, wanted version, parameters")
            if got[0] != self.version:
                raise SolutionError(f"{where} has version {got[0]!r}, wanted {self.version}")
            told(f"{where} has the parameters", got[1], self.w)
            self.held[worker] = self.version

    def push(self, worker: int) -> None:
        gradient = self.grading.random.integers(-9, 10, 2).astype(np.float64)
        computed_on = self.held.pop(worker)
        got, wanted = self.ask("push", worker, computed_on, gradient), self.version - computed_on
        if got != wanted:
            raise SolutionError(
                f"{self.heading}: a gradient computed on version {computed_on} comes at version {self.version}: "
                f"push returns {got!r}, wanted its staleness, {wanted}"
            )
        self.w = self.w - ETA * gradient
        self.version += 1
        self.done[worker] += 1

    def tell(self) -> None:
        """Let events happen in a drawn order; a worker that may not pull tries again later."""
        for _ in range(EVENTS):
            worker = int(self.grading.random.integers(len(self.done)))
            (self.push if worker in self.held else self.pull)(worker)


def one_worker(grading: Grading) -> None:
    Story(grading, 1, 0).tell()


def asynchronous(grading: Grading) -> None:
    for workers in (2, 3, 4):
        Story(grading, workers, math.inf).tell()


def bounded(grading: Grading) -> None:
    for bound in (0, 1, 3):
        for workers in (2, 3):
            Story(grading, workers, bound).tell()


CHECKS = (
    Check("one worker pulls and pushes", 3, one_worker),
    Check("several workers, none of which waits", 3, asynchronous),
    Check("several workers, none more than the bound ahead", 4, bounded),
)
