"""Training that goes on from where it was stopped, in another process: the same samples, the same bits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from npdp.grading.grading import Check, Grading
from npdp.grading.process import Remote, SolutionError

STEPS, STEPS_OF_AN_EPOCH, SAMPLES = 14, 4, 10
LONGEST_STATE = 20_000  # characters of JSON
Step = tuple[list[int], list[float]]  # the samples of a step, the parameters after it


class Trainer:
    """The starter's training, as the grader knows it."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.x = np.random.default_rng(0).standard_normal((SAMPLES, 2))
        self.y = self.x @ np.array([1.0, -2.0])
        self.w, self.velocity = np.zeros(2), np.zeros(2)
        self.order: list[int] = []

    def step(self) -> Step:
        if not self.order:
            self.order = self.generator.permutation(SAMPLES).tolist()
        batch, self.order = self.order[:3], self.order[3:]
        error = self.x[batch] @ self.w - self.y[batch]
        self.velocity = 0.9 * self.velocity + self.x[batch].T @ error / len(batch)
        self.w = self.w - 0.1 * self.velocity
        return batch, self.w.tolist()


def _undisturbed(seed: int) -> list[Step]:
    trainer = Trainer(seed)
    return [trainer.step() for _ in range(STEPS)]


def _made(value: Any, what: str) -> Remote:
    if not isinstance(value, Remote):
        raise SolutionError(f"{what} is {value!r}, wanted an object of your class")
    return value


def _steps(grading: Grading, trainer: Remote, wanted: list[Step], first: int, where: str) -> None:
    """Let it do all the steps that are wanted, the first of which has number `first`."""
    for number, (samples, parameters) in enumerate(wanted, first):
        got = grading.program.call("step", of=trainer)
        if not isinstance(got, list) or len(got) != 2:
            raise SolutionError(f"step() returns {got!r}, wanted samples, parameters")
        theirs = [np.asarray(part).tolist() for part in got]
        if theirs[0] != samples:
            raise SolutionError(
                f"{where}: step {number} takes the samples {theirs[0]}, undisturbed {samples}: is the order of the "
                "epoch kept, how far it is, and the generator's state?"
            )
        if theirs[1] != parameters:
            raise SolutionError(
                f"{where}: after step {number} the parameters are {theirs[1]}, undisturbed {parameters}; the samples "
                "are right: what does the update use besides the gradient?"
            )


def undisturbed(grading: Grading) -> None:
    for seed in (1, int(grading.random.integers(1000))):
        trainer = _made(grading.program.call("Trainer", seed), "Trainer(seed)")
        _steps(grading, trainer, _undisturbed(seed), 0, f"seed {seed}, never stopped")


def stopped_after(grading: Grading, stops: list[int]) -> None:
    """Stop after each number of steps, go on in another process."""
    seed = int(grading.random.integers(1000))
    wanted = _undisturbed(seed)
    for stop in stops:
        where = f"seed {seed}, stopped after {stop} steps"
        trainer = _made(grading.program.call("Trainer", seed), "Trainer(seed)")
        _steps(grading, trainer, wanted[:stop], 0, where)
        state = _state(grading.program.call("state", of=trainer), where)
        grading.restart()
        resumed = _made(grading.program.call("resumed", state), "resumed(state)")
        _steps(grading, resumed, wanted[stop:], stop, where)


def _state(state: Any, where: str) -> Any:
    try:
        text = json.dumps(state)
    except TypeError:
        wanted = "numbers, texts, lists and dicts only (array.tolist())"
        raise SolutionError(f"{where}: state() is no JSON: {wanted}") from None
    if len(text) > LONGEST_STATE:
        raise SolutionError(f"{where}: state() has {len(text)} characters, wanted at most {LONGEST_STATE}")
    return json.loads(text)


CHECKS = (
    Check("undisturbed it trains as before", 1, undisturbed),
    Check("it goes on from the end of an epoch", 3, lambda grading: stopped_after(grading, [STEPS_OF_AN_EPOCH])),
    Check("it goes on from the middle of an epoch", 3, lambda grading: stopped_after(grading, [2, 5])),
    Check("it goes on from the beginning and from near the end", 3,
          lambda grading: stopped_after(grading, [0, STEPS - 1])),
)  # fmt: skip
