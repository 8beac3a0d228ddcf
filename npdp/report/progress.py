"""Progress of training, for the metrics file and the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta

from npdp.report.console import Console
from npdp.report.metrics import Metrics


class Progress:
    """Reporter of progress to metrics file and terminal, each at its own rate.

    Args:
        console, metrics: the terminal and the file.
        epochs, iterations_per_epoch: how many there will be.
        updates: returns how often the parameters have been updated.
    """

    def __init__(
        self, console: Console, metrics: Metrics, epochs: int, iterations_per_epoch: int, updates: Callable[[], int]
    ) -> None:
        self._console, self._metrics = console, metrics
        self._epochs, self._iterations_per_epoch, self._updates = epochs, iterations_per_epoch, updates
        self._iterations = 0  # of this rank in this epoch
        self._start_s = time.perf_counter()
        self._has_diverged = False

    def iteration(self, epoch: int, loss: float, learning_rate: float) -> None:
        """Tell of an update in an epoch, counted from 1: the loss of this rank's part of the batch."""
        self._iterations += 1
        if self._metrics.due():
            self._metrics.write(
                "iteration", iteration=self._updates(), epoch=epoch, local_loss=loss,
                learning_rate=learning_rate, elapsed_s=time.perf_counter() - self._start_s,
            )  # fmt: skip
        if self._console.due():
            at = f"epoch {epoch}/{self._epochs}  iteration {self._updates()}"
            self._console.live(f"{at}  loss {loss:.4f}  {self._left(epoch)} left")

    def epoch(self, epoch: int, loss: float) -> None:
        """Tell how an epoch went: the mean loss over all ranks' samples."""
        self._metrics.write("epoch", epoch=epoch, iteration=self._updates(), train_loss=loss)
        self._console.say(f"epoch {epoch}/{self._epochs}  mean loss {loss:.4f}")
        self._iterations = 0
        if not math.isfinite(loss) and not self._has_diverged:
            self._has_diverged = True
            self._console.say("  training has diverged: try a smaller --learning-rate, --clip-norm 1, or --standardize")

    def _left(self, epoch: int) -> str:
        """Return how long training will go on at its pace so far, as 1:02:03."""
        done = (epoch - 1 + min(1.0, self._iterations / self._iterations_per_epoch)) / self._epochs
        left_s = (time.perf_counter() - self._start_s) * (1 - done) / done
        return str(timedelta(seconds=round(left_s)))
