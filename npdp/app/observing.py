"""Looks at a model in training: the held-out score every so many iterations, and samples of its text.

    --evaluate-every N    score the held-out part on all ranks; the best parameters are kept, for --save
    --sample-every N      print a text that the model goes on with
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from npdp.app.evaluation import evaluate, of_text
from npdp.autograd.tensor import Array
from npdp.base.errors import InputError
from npdp.report.console import Console
from npdp.report.metrics import Metrics

if TYPE_CHECKING:
    from npdp.app.job import Job

SAMPLE_TOKENS, TEMPERATURE = 160, 0.8


class Observer:
    """Observer of a job, told after each iteration."""

    def __init__(self, job: Job, console: Console, metrics: Metrics) -> None:
        self._job, self._console, self._metrics = job, console, metrics
        self._lowest_loss = np.inf
        self._best: dict[str, Array] | None = None  # the parameters by name, on rank 0, that scored best

    def after(self, iteration: int) -> None:
        """Look at the model where it is time; collective."""
        config = self._job.config
        if config.evaluate_every and iteration % config.evaluate_every == 0:
            self._score(iteration)
        if config.sample_every and iteration % config.sample_every == 0 and self._job.world.rank == 0:
            self._sample()

    def better_than(self, test_loss: float | None) -> dict[str, Array] | None:
        """Return parameters that scored better on the held-out part than the last ones, if rank 0 has such."""
        is_last = test_loss is None or test_loss <= self._lowest_loss  # not of a NaN, where training has diverged
        return None if is_last else self._best

    def state_dict(self) -> dict[str, Any] | None:
        """Return the best so far, on rank 0; None where nothing was scored."""
        return self._best and {"lowest_loss": self._lowest_loss, "parameters": self._best}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take over what `state_dict` returned, on all ranks."""
        if state is not None:
            self._lowest_loss = state["lowest_loss"]
            self._best = state["parameters"] if self._job.world.rank == 0 else None

    def _score(self, iteration: int) -> None:
        job = self._job
        assert job.data.test is not None
        score = evaluate(job.world, job.model.module, job.data.test, job.data.classes)
        more = of_text(score, job.data.test)
        said = {"test_loss": score.loss, "test_accuracy": score.accuracy, **more}
        self._metrics.write("evaluation", iteration=iteration, **said)
        bits = "".join(f", {value:.3f} bits per byte" for value in more.values())
        is_best = score.loss < self._lowest_loss
        self._console.say(f"iteration {iteration}  test loss {score.loss:.4f}{bits}{', the best so far' * is_best}")
        if is_best:
            self._lowest_loss = score.loss
            if job.world.rank == 0:
                self._best = dict(job.model.module.state_dict())

    def _sample(self) -> None:
        from npdp.app.generation import sample

        try:
            text = sample(self._job.model.module, self._job.data, SAMPLE_TOKENS, TEMPERATURE)
        except InputError as error:  # training goes on to its end, which says what to do
            text = f"no sample: {error}"
        self._console.say(text)
