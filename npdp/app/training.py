"""Training of one rank's job to its end, and what it leaves: told as it goes, through whatever may come between.

    complete    epochs of batches (epochs.py) | scores over all ranks | files that flags name
    within      checkpoints (checkpoints.py), a stop (stopping.py), gradients that are not finite (not_finite.py)
    --elastic   the same, begun again where ranks have died (elastic.py, elastic_servers.py)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from npdp.app import job as jobs
from npdp.app.elastic import Elastic
from npdp.app.epochs import LossSum, each, train_epochs
from npdp.app.not_finite import NotFinite
from npdp.app.observing import Observer
from npdp.app.stopping import Command, Stopping
from npdp.base.errors import OutputError
from npdp.parallel.agreement import agree
from npdp.report.console import Console, banner, note, summary
from npdp.report.metrics import Metrics
from npdp.report.progress import Progress
from npdp.report.results import write_results

if TYPE_CHECKING:
    from npdp.app.checkpoints import Checkpoints
    from npdp.app.elastic_servers import ElasticServers
    from npdp.autograd.tensor import Array
    from npdp.elastic.faults import Faults


class Training:
    """Training of a job on one rank.

    Args:
        console, metrics: who tells of it; silent on all ranks but 0.
        faults: on purpose.
        command: the one that trains.
        servers: what of an elastic training under a parameter server is kept.
    """

    def __init__(
        self,
        job: jobs.Job,
        console: Console,
        metrics: Metrics,
        checkpoints: Checkpoints,
        faults: Faults,
        command: Command,
        servers: ElasticServers | None = None,
    ) -> None:
        self._job, self._console, self._metrics = job, console, metrics
        self._checkpoints, self._faults, self._servers = checkpoints, faults, servers
        updates = partial(job.model.strategy.updates, job.optimizer)
        self._progress = Progress(console, metrics, job.config.epochs, job.loader.iterations_per_epoch, updates)
        self._observer = Observer(job, console, metrics)
        self._told = NotFinite(job, console, metrics, self._save_best)
        self._stop = Stopping(command, job, checkpoints, metrics, self._write_results)
        self._end: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Train to the end; collective. Returns the `end` event."""
        job, servers, start = self._job, self._servers, jobs.start_event(self._job)
        if servers is None or not servers.goes_on:
            self._metrics.write("start", **start)
            self._console.say("\n".join([banner(start), *(f"  note      {note}" for note in job.data.notes)]))
        job.world.clock.clear()
        self._began_s = servers.began_s() if servers else time.perf_counter()
        look = each(self._told.after, self._observer.after, self._checkpoints.after, self._stop.after)
        with self._stop, self._checkpoints.begin(job, self._observer, self._console, start), self._told:
            if servers:
                servers.train(job, self._progress, self._console, self._metrics, look, self._complete)
            elif job.config.elastic:
                Elastic(job, self._progress, self._console, self._metrics).train(look, self._complete)
            else:
                self._complete(look)
        if not self._end and self._stop.error:  # others have left with it already, when one died
            raise self._stop.error
        return self._end

    def _complete(self, after: Callable[[int], None], mean: Callable[[LossSum], float] | None = None) -> None:
        """Train on from wherever the job is, and write what there is to be; collective."""
        job, end = self._job, self._end
        iterations, samples = train_epochs(job, self._progress, after, self._stop.after_epoch, mean)
        self._checkpoints.complete()
        job.model.strategy.synchronize()
        end.update(jobs.end_event(job, iterations, samples, time.perf_counter() - self._began_s))
        if not self._metrics.ended:
            self._metrics.write("end", **end)
            self._console.say(summary(end))  # first, whatever becomes of the files
        if left := self._faults.left():
            note(f"--inject: {left}: training ended before")
        self._write_results(end["test_loss"])

    # Files
    def _write_results(self, test_loss: float | None) -> None:
        """Write the files that flags name; collective. OutputError names those that could not be.

        Args:
            test_loss: of the last parameters; those that scored best are saved.
        """
        job, config, best = self._job, self._job.config, self._observer.better_than(test_loss)

        def write() -> None:
            write_results(self._console, (
                ("--metrics", config.metrics, self._metrics.close),
                ("--save", config.save, lambda: self._save(best)),
                ("--record-arrivals", config.record_arrivals,
                 lambda: job.model.strategy.save_arrivals(config.record_arrivals or "", job.run)),
            ))  # fmt: skip

        agree(job.world, lambda: write() if job.world.rank == 0 else None, OutputError)

    def _save(self, best: Mapping[str, Array] | None) -> None:
        """Write the model: with the parameters that scored best, where they were looked at, else with the last ones."""
        from npdp.app import saved_model

        job = self._job
        assert job.config.save is not None
        self._faults.need_room(job.optimizer.iteration)
        saved = saved_model.SavedModel(job.model.module, job.describe(), job.data.scaling)
        saved_model.save(job.config.save, saved, best)

    def _save_best(self) -> str:
        """Save the parameters that scored best so far, where this rank has some; return the file, or ""."""
        path, best = self._job.config.save, self._observer.better_than(math.nan)
        if path is None or best is None:
            return ""
        try:
            self._save(best)
        except OSError as error:
            return f"none, {path} cannot be written ({error.strerror or error})"
        return path
