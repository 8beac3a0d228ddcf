"""The training loop: for each batch of an epoch forward, backward with the exchange of gradients, and a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from npdp import optim
from npdp.data.sampler import shard
from npdp.elastic.faults import Pace

if TYPE_CHECKING:
    from npdp.app.job import Job
    from npdp.report.progress import Progress

T = TypeVar("T")


@dataclass
class LossSum:
    """Sum of the loss over samples of this rank; its `mean` is 0 where there are no samples."""

    total: float = 0.0
    count: int = 0

    def add(self, mean: float, count: int) -> None:
        """Add `count` samples whose mean is given."""
        self.total += mean * count
        self.count += count

    @property
    def mean(self) -> float:
        return self.total / (self.count or 1)


def train_epochs(
    job: Job, progress: Progress, after: Callable[[int], None], mean: Callable[[LossSum], float] | None = None
) -> tuple[int, int]:
    """Train on from where loader and optimiser are; collective. Returns how many updates there were in all, and how
    many samples this rank has used now.

    Args:
        progress: told of each iteration and epoch.
        after: called after each iteration, with how many there were.
        mean: returns an epoch's mean loss over all ranks, of this rank's; collective where not given.
    """
    mean = mean or (lambda seen: job.world.mean(seen.mean, seen.count))
    pace = Pace(job.config.inject, shard().begun[0])
    iterations, samples = job.optimizer.iteration, 0
    for epoch in range(job.loader.epoch + 1, job.config.epochs + 1):
        seen = LossSum()
        for micro_batches in in_batches(job.loader, job.config.accumulate):
            learning_rate = job.optimizer.current_lr
            batch = _iteration(job, micro_batches, pace)
            seen.total += batch.total
            seen.count += batch.count
            progress.iteration(epoch, batch.mean, learning_rate)
            iterations += 1
            after(iterations)
        samples += seen.count
        progress.epoch(epoch, mean(seen))
    return job.optimizer.iteration, samples


def each(*looks: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function of the iteration that calls all of these, in order."""

    def call(iteration: int) -> None:
        for look in looks:
            look(iteration)

    return call


def in_batches(micro_batches: Iterable[T], accumulate: int) -> Iterator[Iterator[T]]:
    """Yield each batch as an iterator of its `accumulate` micro-batches, to be used up before the next one."""
    rest = iter(micro_batches)
    for first in rest:
        yield chain((first,), islice(rest, accumulate - 1))


def _iteration(job: Job, micro_batches: Iterator[tuple[Any, Any]], pace: Pace) -> LossSum:
    """Update the parameters once, by a batch; return its loss."""
    config, model, optimizer = job.config, job.model, job.optimizer
    began_s = time.perf_counter()
    optimizer.zero_grad()
    batch = LossSum()
    for number, (inputs, labels) in enumerate(micro_batches, 1):
        with model.syncing(number == config.accumulate):
            loss = job.criterion(model(inputs), labels)
            loss.backward()
        batch.add(loss.item(), len(labels))
    pace.hold(began_s)
    if config.clip_norm is not None:
        optim.clip_grad_norm_(optimizer.parameters, config.clip_norm)
    optimizer.step()
    return batch
