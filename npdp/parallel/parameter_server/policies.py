"""When a gradient is applied, and who may go on.

                   applied                                      a worker goes on
    Synchronous    when all have pushed, in worker order        with the update
    Backups        when all but b of them have                  with the update; who is late takes up the batch of now
    Bounded        on arrival                                   when it is at most s iterations ahead of the slowest
                                                                (s = inf: at once)

Where work is handed out, a worker that has none is idle, and nobody waits for it.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Protocol

from npdp.parallel.parameter_server.messages import NONE_LEFT, Message, Push, Reply, Request, Start, Unit


@dataclass
class WorkerState:
    """What a shard knows of a worker.

    Attributes:
        completed: iterations that it has completed; raised to about the others' when it comes back from being idle. The
            same on all shards, but for messages on their way: else two workers might wait for each other crosswise.
        active: whether it is at work, so that others may have to wait for it; so from the beginning.
        left: whether it has left for good.
        collectives: how many it had come to, with the one in which it was when last it said so.
        waiting: the message to which it waits for an answer.
        sequence: of its last message.
        answer: the answer to that one, where it has been given.
    """

    completed: int = 0
    active: bool = True
    left: bool = False
    collectives: int = 0
    waiting: Message | None = None
    sequence: int = -1
    answer: Reply | None = None


Workers = list[WorkerState]


class Policy(Protocol):
    """See the table above.

    Attributes:
        whole_batches: whether an update is a batch of all workers, so that a push on an older version is too late.
    """

    whole_batches: bool

    def activate(self, worker: int, completed: int | None, workers: Workers) -> None:
        """A worker is at work, having completed so many iterations; None where it comes back and is to be told."""

    def take(self, push: Push) -> None:
        """Keep a push until it is applied."""

    def holds(self, push: Push) -> bool:
        """Return whether this push is still to be applied."""

    def next_update(self, version: int, workers: Workers) -> list[Push]:
        """Return, and forget, the pushes that make the next version; [] while there are not enough."""

    def let_go(self, worker: int, message: Push | Start, version: int, workers: Workers) -> bool:
        """Let a worker begin an iteration on this version, if it may; return whether it does, and so is answered."""

    def let_fetch(self, worker: int, version: int) -> bool:
        """Let a worker have rows of this version to compute a gradient on, if it may; return whether it gets them."""

    def hand_out(self, worker: int, request: Request, workers: Workers) -> int:
        """Return the unit that a worker gets, or NONE_LEFT; it is idle then."""


class Synchronous:
    """Staleness 0: each update is made of one push of every worker, added in worker order."""

    whole_batches = True

    def __init__(self, workers: int) -> None:
        self._round: dict[int, Push] = {}
        self._workers = workers

    def activate(self, worker: int, completed: int | None, workers: Workers) -> None:
        workers[worker].active = True

    def take(self, push: Push) -> None:
        self._round[push.worker] = push

    def holds(self, push: Push) -> bool:
        return self._round.get(push.worker) is push

    def next_update(self, version: int, workers: Workers) -> list[Push]:
        if self._round and any(worker.left for worker in workers):
            left = next(number for number, worker in enumerate(workers) if worker.left)
            raise RuntimeError(
                f"worker {left} has left while worker {min(self._round)} goes on: with staleness 0 all workers take "
                "the same number of steps"
            )
        if len(self._round) < self._needed(workers):
            self._require_no_collective(workers)
            return []
        pushes, self._round = [self._round[worker] for worker in sorted(self._round)], {}
        return pushes

    def _needed(self, workers: Workers) -> int:
        return self._workers

    def _require_no_collective(self, workers: Workers) -> None:
        """Raise RuntimeError where a worker waits in a collective for one that waits here for its push."""
        for number, worker in enumerate(workers):
            first = next((push for push in self._round.values() if push.collectives < worker.collectives), None)
            if first is not None and number not in self._round:
                raise RuntimeError(
                    f"worker {number} is in a collective, such as synchronize(), while worker {first.worker} takes a "
                    "step: with staleness 0 all workers take the same number of steps between two collectives"
                )

    def let_go(self, worker: int, message: Push | Start, version: int, workers: Workers) -> bool:
        return True

    def let_fetch(self, worker: int, version: int) -> bool:
        return True

    def hand_out(self, worker: int, request: Request, workers: Workers) -> int:
        raise RuntimeError("with staleness 0 every worker has its own part of each batch")


@dataclass
class _Pass:
    """A loader's pass over the data, as it is handed out under `Backups`.

    Attributes:
        request: the first for work of it.
        batches: how many of its batches are finished, by the last that was applied.
        last: worker -> the unit that it got last.
    """

    request: Request
    batches: int = 0
    last: dict[int, int] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return self.batches * self.request.parts >= self.request.units


class Backups(Synchronous):
    """Synchronous, but the last `backups` of each batch are not waited for: their gradients are dropped.

    A worker that is late goes on with its part of the batch that is being worked on, so a slow one holds nobody up.
    """

    def __init__(self, workers: int, backups: int) -> None:
        super().__init__(workers)
        self._backups = backups
        self._passes: dict[int, _Pass] = {}  # of each loader the newest: one may lie within another's
        self._latest: _Pass | None = None  # of which work was handed out last

    def next_update(self, version: int, workers: Workers) -> list[Push]:
        pushes = super().next_update(version, [worker for worker in workers if not worker.left])
        for push in pushes:
            found = self._passes.get(push.unit.loader)
            if found is not None and push.unit.epoch == found.request.epoch:
                found.batches = max(found.batches, push.unit.number // found.request.parts + 1)
        return pushes

    def _needed(self, workers: Workers) -> int:
        at_work = sum(_at_work(worker) for worker in workers)
        return max(1, min(self._workers - self._backups, at_work))

    def let_go(self, worker: int, message: Push | Start, version: int, workers: Workers) -> bool:
        """A pass begins when the latest one is done, or nobody else works on it."""
        request, latest = message.request, self._latest
        if request is None or latest is None or not self._is_new(request) or latest.is_done:
            return True
        return not any(_at_work(other) for number, other in enumerate(workers) if number != worker)

    def hand_out(self, worker: int, request: Request, workers: Workers) -> int:
        if self._is_new(request):
            self._passes[request.loader] = _Pass(request)
        found = self._passes[request.loader]
        number = found.batches * request.parts + worker
        if worker in found.last:  # it may ask for several before it pushes
            number = max(number, found.last[worker] + request.parts)
        if request.epoch == found.request.epoch and worker < request.parts and number < request.units:
            found.last[worker], self._latest = number, found
            return number
        workers[worker].active = False
        return NONE_LEFT

    def _is_new(self, request: Request) -> bool:
        newest = self._passes.get(request.loader)
        return newest is None or request.epoch > newest.request.epoch


def _at_work(worker: WorkerState) -> bool:
    """Return whether a worker is in an epoch that has begun."""
    return worker.active and not isinstance(worker.waiting, Start)


class Bounded:
    """Each push is applied on arrival; a worker may start while it is at most `staleness` ahead of the slowest.

    The staleness of what is applied is then at most (workers - 1) (2 staleness + 1).
    """

    whole_batches = False

    def __init__(self, staleness: float) -> None:
        self._staleness = staleness
        self._arrived: deque[Push] = deque()
        self._handed_out: dict[tuple[int, int], int] = defaultdict(int)
        self._requests: dict[tuple[int, int], Request] = {}
        self._in_hand: dict[tuple[int, int], Unit] = {}  # (worker, loader) -> what it got last, until it is pushed
        self._left_behind: list[Unit] = []  # where a worker broke a pass off

    def activate(self, worker: int, completed: int | None, workers: Workers) -> None:
        """A worker that was idle begins level with the slowest, or s behind the quickest: it held up nobody."""
        state = workers[worker]
        if completed is not None:
            state.completed = completed
        elif not state.active:
            completed_by_others = [other.completed for other in workers if other.active]
            if completed_by_others:
                behind = max(completed_by_others) - self._staleness
                state.completed = int(max(state.completed, min(completed_by_others), behind))
        state.active = True

    def take(self, push: Push) -> None:
        self._arrived.append(push)
        if self._in_hand.get((push.worker, push.unit.loader)) == push.unit:
            del self._in_hand[push.worker, push.unit.loader]

    def holds(self, push: Push) -> bool:
        return push in self._arrived

    def next_update(self, version: int, workers: Workers) -> list[Push]:
        return [self._arrived.popleft()] if self._arrived else []

    def let_go(self, worker: int, message: Push | Start, version: int, workers: Workers) -> bool:
        slowest = min((other.completed for other in workers if other.active), default=math.inf)
        return workers[worker].completed <= slowest + self._staleness

    def let_fetch(self, worker: int, version: int) -> bool:
        return True

    def hand_out(self, worker: int, request: Request, workers: Workers) -> int:
        key = (request.loader, request.epoch)
        if self._requests.setdefault(key, request) != request:
            raise RuntimeError(
                f"worker {worker} wants work of loader {request.loader} in {request.units} units, another worker did "
                f"in {self._requests[key].units}: their loaders differ; give one that not all have rank and world_size"
            )
        before = self._in_hand.pop((worker, request.loader), None)
        if before is not None and before.epoch != request.epoch:
            self._left_behind.append(before)
        number = self._next_unit(request, workers)
        if number == NONE_LEFT:
            workers[worker].active = False
        else:
            self._in_hand[worker, request.loader] = Unit(*key, number)
        return number

    def _next_unit(self, request: Request, workers: Workers) -> int:
        """Return the next unit of a pass; then those that workers had in hand when they broke it off."""
        key = (request.loader, request.epoch)
        if self._handed_out[key] < request.units:
            self._handed_out[key] += 1
            return self._handed_out[key] - 1
        left = [mine for mine in self._in_hand if workers[mine[0]].left]
        self._left_behind += [self._in_hand.pop(mine) for mine in left]
        found = next((unit for unit in self._left_behind if unit[:2] == key), None)
        if found is None:
            return NONE_LEFT
        self._left_behind.remove(found)
        return found.number


def policy_for(workers: int, staleness: float, backups: int) -> Policy:
    """Return what a shard goes by."""
    if staleness:
        return Bounded(staleness)
    return Backups(workers, backups) if backups else Synchronous(workers)
