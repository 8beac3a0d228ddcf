"""Checks of an exercise, run one after the other on a student's file, with points and a sentence for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

import numpy as np

from npdp.grading.network import Network
from npdp.grading.process import EndedError, Process, SolutionError

EXERCISES = {
    "naive": "the naive all-reduce, by messages",
    "ring": "the ring all-reduce, as a schedule",
    "tree": "an all-reduce in few steps, as a schedule",
    "halving_doubling": "few steps and few bytes, as a schedule",
    "average": "the mean gradient over parts of unequal size",
    "parameter_server": "a parameter server with bounded staleness",
    "overlap": "buckets that travel while backward goes on",
    "error_feedback": "a compressor that loses nothing",
    "resume": "training that goes on from where it was stopped",
    "mend": "a program with seven faults, to be mended",
}
LIMIT_S = 10.0
MESSAGES = ("send", "receive")


class Grading:
    """A student's file under test: its processes, and a generator to draw cases with."""

    def __init__(self, path: str, seed: int, limit_s: float = LIMIT_S, shown: bool = False) -> None:
        self.path, self.limit_s, self.shown = path, limit_s, shown
        self.random = np.random.default_rng(seed)
        self._processes: list[Process] = []

    @property
    def program(self) -> Process:
        """The program on one rank."""
        return self.processes(1)[0]

    def network(self, ranks: int, functions: Sequence[str] = MESSAGES) -> Network:
        """The program on several ranks, with nothing sent yet; it may use these functions of npdp."""
        return Network(self.processes(ranks), functions)

    def restart(self) -> None:
        """End all processes: what they remember is gone, and calls in flight with it."""
        for process in self._processes:
            process.close()
        self._processes = []

    def processes(self, ranks: int) -> list[Process]:
        """The program's first processes, one a rank; started where they do not run yet."""
        while len(self._processes) < ranks:
            self._processes.append(Process(self.path, self.limit_s, self.shown))
        return self._processes[:ranks]


@dataclass(frozen=True)
class Check:
    """One thing that a program must do.

    Attributes:
        run: raises SolutionError where the program does not do it.
        needs_first: it counts only where the exercise's first check passes: a wrong program may well be quick.
    """

    says: str
    points: int
    run: Callable[[Grading], None]
    needs_first: bool = False


@dataclass
class Result:
    """What came of a check; `message` is empty where it passed."""

    says: str
    of: int
    message: str = ""

    @property
    def points(self) -> int:
        return 0 if self.message else self.of


@dataclass
class Report:
    """What came of an exercise."""

    exercise: str
    file: str
    seed: int
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @cached_property
    def points(self) -> int:
        return sum(result.points for result in self.results)

    @cached_property
    def of(self) -> int:
        return sum(result.of for result in self.results)


def checks_of(exercise: str) -> Sequence[Check]:
    """Return an exercise's checks, in their order."""
    checks: Sequence[Check] = import_module(f"npdp.grading.exercises.{exercise}").CHECKS
    return checks


def grade(exercise: str, path: str, seed: int, limit_s: float = LIMIT_S, shown: bool = False) -> Report:
    """Run all checks of an exercise on a file.

    Args:
        exercise: one of EXERCISES.
        seed: of the cases drawn.
        limit_s: how long a call may take.
        shown: what the program prints is let through.
    """
    report, begun = Report(exercise, path, seed), time.perf_counter()
    grading, gone = Grading(path, seed, limit_s, shown), False
    try:
        for check in checks_of(exercise):
            result = Result(check.says, check.points)
            report.results.append(result)
            if gone or (check.needs_first and report.results[0].message):
                result.message = "not tried, because of what is said above"
                continue
            try:
                check.run(grading)
            except SolutionError as failed:
                result.message, gone = str(failed), isinstance(failed, EndedError)
                grading.restart()
    finally:
        grading.restart()
    report.seconds = time.perf_counter() - begun
    return report
