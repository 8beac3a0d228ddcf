"""Elastic training under a parameter server from the command line: `--elastic --strategy ps`.

After a death the whole job is made anew, but for the data: who is worker and who is server may have changed. The mean
loss of the epoch in which a rank died is that over the samples since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from npdp.app.elastic import take_over_metrics, tell_recovery
from npdp.elastic.faults import Faults
from npdp.elastic.servers.recovery import Survival, through_deaths

if TYPE_CHECKING:
    from npdp.app.config import TrainConfig
    from npdp.app.elastic import Look, Program
    from npdp.app.job import Job, Parts
    from npdp.collectives.communicator import Communicator
    from npdp.data.sources import DataSplit
    from npdp.parallel.not_finite import Guard
    from npdp.report.console import Console
    from npdp.report.metrics import Metrics
    from npdp.report.progress import Progress


class ElasticServers:
    """What one rank keeps while jobs come and go.

    Attributes:
        survival: the state of training.
        faults: on purpose, by this rank's number at launch.
    """

    def __init__(self, config: TrainConfig, world: Communicator) -> None:
        self.survival = Survival(world, config.staleness == 0)
        self.faults = Faults(config.inject, world)
        self._began_s = 0.0
        self._data: DataSplit | None = None
        self._guard: Guard | None = None  # of the last job, which has counted updates that were left out
        self._mean_loss: float | None = None  # of the last epoch, where this rank has seen its end

    def run(self, world: Communicator, train: Callable[[ElasticServers], dict[str, Any]]) -> dict[str, Any]:
        """Return `train(self)`, begun again after each death; collective."""
        return through_deaths(world, self.survival, lambda: train(self))

    def began_s(self) -> float:
        """Return when training began, which is now the first time."""
        self._began_s = self._began_s or time.perf_counter()
        return self._began_s

    @property
    def goes_on(self) -> bool:
        """True if training has begun, and goes on after a death."""
        return bool(self.survival.begun_with)

    def data(self, load: Callable[[], DataSplit]) -> DataSplit:
        """Return the data, loaded once; collective the first time."""
        if self._data is None or not self.goes_on:
            self._data = load()
        return self._data

    def take_over(self, world: Communicator, parts: Parts) -> None:
        """Give a job the state of the last one, before its model is wrapped."""
        self.survival.take_over(parts.model, parts.optimizer, parts.loader)

    def train(
        self, job: Job, progress: Progress, console: Console, metrics: Metrics, look: Look, complete: Program
    ) -> None:
        """Train on to the end; collective over the workers.

        Args:
            look, complete: as `Elastic.train` takes them.
        """
        survival = self.survival
        survival.count_on(job.model, job.optimizer, job.loader)
        guard, before = job.model.strategy.guard, self._guard
        if guard is not None and before is not None:
            guard.skipped, guard.alone = before.skipped, before.alone
        self._guard = guard
        if self.goes_on:
            self._tell(job, progress, console, metrics)

        def mean(seen: Any) -> float:
            loss = self._mean_loss = job.world.mean(seen.mean, seen.count)
            survival.end_epoch()
            return loss

        complete(look, mean)

    def _tell(self, job: Job, progress: Progress, console: Console, metrics: Metrics) -> None:
        survival, recovery = self.survival, self.survival.recovery
        if job.world.rank == 0:
            told = take_over_metrics(job.config, console, metrics)
            if told is not None and told < survival.ended and self._mean_loss is not None:
                progress.epoch(survival.ended, self._mean_loss)  # who has done it died before it told
        assert recovery is not None
        tell_recovery(recovery, len(survival.transport.launched), survival.version, "updates", console, metrics)
