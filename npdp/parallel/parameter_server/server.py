"""A shard's logic: which gradients are applied, in which order, and who is answered when. Nothing but plain values.

    for reply in server.handle(message):
        ...

Whoever drives it (service.py; a test) carries messages and replies. A message is either answered at once or kept until
its worker may go on; an answer shows a whole version of the shard, never half an update: that of the moment at which
it is yielded, for one message may lead to several updates. The same message once more gets the same answer and does
nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from npdp.parallel.parameter_server.ledger import Ledger
from npdp.parallel.parameter_server.messages import (
    NOT_ASKED,
    Fetch,
    Idle,
    Leave,
    Message,
    Pull,
    Push,
    Reply,
    Resume,
    Start,
    Unit,
)
from npdp.parallel.parameter_server.policies import Policy, WorkerState


class Arrival(NamedTuple):
    """A gradient that was applied."""

    worker: int
    unit: Unit
    version: int


@dataclass
class Statistics:
    """What a shard has done.

    Attributes:
        staleness: staleness -> number of pushes that were applied so; version applied to minus version computed on.
        pushes, samples: applied, and what they were computed from.
        dropped: pushes that came too late to be applied.
        unused_samples: those of batches that were finished without their gradient.
    """

    staleness: Counter[int] = field(default_factory=Counter)
    pushes: int = 0
    samples: int = 0
    dropped: int = 0
    unused_samples: int = 0


class Server:
    """One shard.

    Args:
        workers: how many there are.
        policy: when gradients are applied and who may go on.
        apply: carries out an update from some workers' gradients, in the given order: the next version.
        is_first: whether it is the first of all shards, which hands out the units of work.
        records: whether it keeps the order of arrivals.

    Attributes:
        version: number of updates so far.
        statistics: what it has done.
        arrivals: of each gradient applied, in this order, where it records.
    """

    def __init__(
        self,
        workers: int,
        policy: Policy,
        apply: Callable[[list[Push]], None],
        is_first: bool = True,
        records: bool = False,
    ) -> None:
        self.version = 0
        self.arrivals: list[Arrival] = []
        self._is_first, self._records = is_first, records
        self.statistics = Statistics()
        self.workers = [WorkerState() for _ in range(workers)]
        self._policy, self._apply = policy, apply
        self._ledger = Ledger()

    def handle(self, message: Message) -> Iterator[Reply]:
        """Take a message; yield what may be answered now, to whomever. All of it has to be taken.

        Raises:
            RuntimeError: the workers do not do the same thing, and would wait for ever.
        """
        worker = self.workers[message.worker]
        if message.sequence <= worker.sequence:
            yield from self._again(worker, message)
            return
        worker.sequence, worker.answer = message.sequence, None
        if isinstance(message, (Idle, Leave)):
            worker.active, worker.left = False, isinstance(message, Leave)
            worker.collectives = message.collectives if isinstance(message, Idle) else 0
        elif isinstance(message, (Push, Start, Resume)):
            self._policy.activate(message.worker, message.completed, self.workers)
        worker.waiting = None if isinstance(message, (Idle, Resume)) else message
        if isinstance(message, Push) and not self._comes_too_late(message):
            self._policy.take(message)
        yield from self._go_on()

    @property
    def waiting(self) -> list[int]:
        """The workers that wait for an answer."""
        return [number for number, worker in enumerate(self.workers) if worker.waiting is not None]

    def _again(self, worker: WorkerState, message: Message) -> list[Reply]:
        """Answer the last message once more, with the parameters that there are now; forget what is older."""
        if message.sequence < worker.sequence or worker.answer is None:
            return []
        return [worker.answer._replace(version=self.version)]

    def _go_on(self) -> Iterator[Reply]:
        """Apply what may be applied, and answer who may be answered, until nothing more can be done."""
        progress = True
        while progress:
            pushes = self._policy.next_update(self.version, self.workers)
            if pushes:
                self._update(pushes)
            progress = bool(pushes)
            for reply in self._answers():
                progress = True
                yield reply

    def _update(self, pushes: list[Push]) -> None:
        self._apply(pushes)
        statistics = self.statistics
        for push in pushes:
            statistics.staleness[self.version - push.version] += 1
            statistics.samples += push.samples
            if self._records:
                self.arrivals.append(Arrival(push.worker, push.unit, push.version))
            if not self._policy.whole_batches:  # there the version tells what comes too late
                self._ledger.add(push)
        statistics.pushes += len(pushes)
        if self._policy.whole_batches:
            statistics.unused_samples += pushes[0].batch_samples - sum(push.samples for push in pushes)
        self.version += 1

    def _answers(self) -> Iterator[Reply]:
        """Answer all that may be; an answer may let another worker go on."""
        while (number := next(filter(self._let_go, self.waiting), None)) is not None:
            yield self._answer(number)

    def _let_go(self, number: int) -> bool:
        """Let a worker have its answer, if it may; return whether it does."""
        message = self.workers[number].waiting
        if isinstance(message, (Pull, Leave)):
            return True
        if isinstance(message, Fetch):
            return not message.training or self._policy.let_fetch(number, self.version)
        assert isinstance(message, (Push, Start))
        if isinstance(message, Push) and self._policy.holds(message):
            return False
        return self._policy.let_go(number, message, self.version, self.workers)

    def _answer(self, number: int) -> Reply:
        worker = self.workers[number]
        message, worker.waiting = worker.waiting, None
        if isinstance(message, Leave):
            worker.answer = Reply(number, self.version, self.version, last=True)
            return worker.answer
        assert isinstance(message, (Push, Start, Pull, Fetch))
        unit = NOT_ASKED
        if isinstance(message, (Push, Start)) and message.request is not None and self._is_first:
            unit = self._policy.hand_out(number, message.request, self.workers)
        pulled = isinstance(message, Pull)
        worker.answer = Reply(number, self.version, message.version, unit, pulled, completed=worker.completed)
        return worker.answer

    def _comes_too_late(self, push: Push) -> bool:
        """Return whether a push is not to be applied: its unit was already, or its batch is finished; then counted."""
        if push in self._ledger:
            return True
        late = self._policy.whole_batches and push.version != self.version
        self.statistics.dropped += late
        return late
