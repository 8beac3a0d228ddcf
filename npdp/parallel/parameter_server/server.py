"""The logic of a shard: decides which gradients are applied, in which order, and when workers are answered.

    for reply in server.handle(message):
        ...

                   applied                                      a worker goes on
    Synchronous    when all have pushed, in worker order        with the update
    Bounded        on arrival                                   when it is at most s iterations ahead of the slowest
                                                                (s = inf: at once)

Whoever drives it (service.py; a test) carries messages and replies. A message is either answered at once or kept until
its worker may go on; an answer shows a whole version of the shard, never half an update: that of the moment at which
it is yielded, for one message may lead to several updates. Where work is assigned, a worker that has none says
that it is not active, and nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from npdp.parallel.parameter_server.messages import NOT_ASKED, NOT_SAID, Kind, Message, Reply
from npdp.parallel.parameter_server.record import Record
from npdp.parallel.parameter_server.work import WorkPool


@dataclass
class WorkerState:
    """State of a worker, as a shard knows it."""

    completed: int = 0  # iterations, the same on all shards: else two workers might wait for each other crosswise
    active: bool = True  # whether it is at work, so that others may have to wait for it; so from the beginning
    left: bool = False  # for good
    collectives: int = 0  # to which it has come, with the one in which it was when last it said so
    waiting: Message | None = None  # for an answer to this
    push: Message | None = None  # the same, while it is a push that is still to be applied


Workers = list[WorkerState]


def slowest(workers: Workers) -> float:
    """Return how many iterations the slowest that is active has completed; inf where none is."""
    return min((worker.completed for worker in workers if worker.active), default=math.inf)


class Policy:
    """Base class of policies: when a gradient is applied, and who may go on; see the table above."""

    log: Sequence[tuple[int, ...]] = ()  # of what was applied, where it is kept

    def next_update(self, version: int, workers: Workers) -> list[Message]:
        """Return the pushes that make the next version, in this order; [] while there are not enough."""
        raise NotImplementedError

    def may_go_on(self, message: Message, version: int, workers: Workers) -> bool:
        """Return whether a worker gets this version to compute on, in answer to a message that is dealt with."""
        return True


class Synchronous(Policy):
    """Staleness 0: each update is made of one push of every worker, added in worker order."""

    def next_update(self, version: int, workers: Workers) -> list[Message]:
        pushes = [worker.push for worker in workers if worker.push is not None]
        if len(pushes) == len(workers):
            return pushes
        for push in pushes:
            _require_all_to_come(push, workers)
        return []


def _require_all_to_come(push: Message, workers: Workers) -> None:
    """Raise RuntimeError where a worker has left, or waits in a collective for one that waits here for its push."""
    taken = f"while worker {push.worker} {{}}: with staleness 0 all workers take the same number of steps"
    for number, worker in enumerate(workers):
        if worker.left:
            raise RuntimeError(f"worker {number} has left {taken.format('goes on')}")
        if worker.push is None and push.collectives < worker.collectives:
            where = "is in a collective, such as synchronize(),"
            raise RuntimeError(f"worker {number} {where} {taken.format('takes a step')} between two collectives")


class Bounded(Policy):
    """Each push is applied on arrival; a worker may start while it is at most `staleness` ahead of the slowest.

    The staleness of what is applied is then at most (workers - 1) (2 staleness + 1).
    """

    def __init__(self, staleness: float) -> None:
        self._staleness = staleness

    def next_update(self, version: int, workers: Workers) -> list[Message]:
        return [worker.push for worker in workers if worker.push is not None][:1]

    def may_go_on(self, message: Message, version: int, workers: Workers) -> bool:
        ahead = workers[message.worker].completed - slowest(workers)
        return message.kind == Kind.PULL or ahead <= self._staleness


class Server:
    """Server of one shard.

    Args:
        apply: carries out an update from some workers' gradients, in the given order: the next version.
        pool: assigns work, where workers ask this shard for it.
        record: of what it has applied before.
    """

    def __init__(
        self,
        workers: int,
        policy: Policy,
        apply: Callable[[list[Message]], None],
        pool: WorkPool | None = None,
        record: Record | None = None,
    ) -> None:
        self.record = record or Record()
        self.workers = [WorkerState() for _ in range(workers)]
        self.policy, self._apply, self._pool = policy, apply, pool

    def handle(self, message: Message) -> Iterator[Reply]:
        """Take a message; yield what may be answered now, to whomever. All of it has to be taken.

        Raises:
            RuntimeError: the workers do not do the same thing, and would wait for ever.
        """
        self._take(message)
        while True:
            pushes = self.policy.next_update(self.record.version, self.workers)
            if pushes:
                self._update(pushes)
            number = next(filter(self._may_be_answered, range(len(self.workers))), None)
            if number is not None:
                yield self._answer(number)  # which may let another worker go on
            elif not pushes:
                return

    def _take(self, message: Message) -> None:
        """Note what a message says of its worker."""
        worker = self.workers[message.worker]
        if message.completed != NOT_SAID:
            worker.completed = message.completed
        elif not worker.active and slowest(self.workers) < math.inf:  # it comes back level with others, holding up none
            worker.completed = max(worker.completed, int(slowest(self.workers)))
        worker.active, worker.collectives = message.active, message.collectives
        worker.left = message.kind == Kind.LEAVE
        worker.waiting = None if message.kind == Kind.STATUS else message
        if message.kind == Kind.PUSH and message.item not in self.record.applied:
            worker.push = message
        if message.kind == Kind.PUSH and self._pool is not None:
            self._pool.pushed(message)
        elif worker.left and self._pool is not None:
            self._pool.left(message.worker)

    def _update(self, pushes: list[Message]) -> None:
        self._apply(pushes)
        self.record.note(pushes)
        for push in pushes:
            self.workers[push.worker].push = None

    def _may_be_answered(self, number: int) -> bool:
        worker = self.workers[number]
        if worker.push is not None or worker.waiting is None:
            return False
        return worker.left or self.policy.may_go_on(worker.waiting, self.record.version, self.workers)

    def _answer(self, number: int) -> Reply:
        worker = self.workers[number]
        message, worker.waiting = worker.waiting, None
        assert message is not None
        assigned = NOT_ASKED
        if message.request.parts and self._pool is not None:
            assigned = self._pool.assign(number, message.request)
        version = self.record.version
        return Reply(number, version, version if worker.left else message.version, assigned, worker.completed)
