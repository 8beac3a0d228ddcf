"""A play with pure servers, and workers that keep to worker.py's protocol; who comes next is drawn by the caller.

Parameters are the list of the pushes applied, so an answer shows a prefix of it.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

from npdp.parallel.parameter_server.messages import (
    NONE_LEFT,
    NOT_ASKED,
    NOT_SAID,
    Kind,
    Message,
    Reply,
    Request,
    WorkItem,
)
from npdp.parallel.parameter_server.server import Bounded, Server, Synchronous
from npdp.parallel.parameter_server.update_log import Logged
from npdp.parallel.parameter_server.work import WorkPool

NOTHING = Request()
STALENESSES = [0, 1, 2, math.inf]


@dataclass
class Worker:
    """What a worker is at: out of a pass, waiting for shards, at work on an item, or gone."""

    state: str = "out"
    number_of_pass: int = 0
    completed: int = 0  # iterations completed, as the shard that hands out counts them
    items: int = 0  # got in this pass
    item: WorkItem | None = None
    request: Request = NOTHING
    first: int = NOT_ASKED  # the item that came with its start
    held: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    asked: set[int] = field(default_factory=set)
    answers: dict[int, Reply] = field(default_factory=dict)
    begins: bool = False
    leaves: bool = False
    active: bool = True
    starting: list[int] = field(default_factory=list)  # the shards that are still to be told of its start


class Play:
    """Servers, workers, and what is under way between them.

    Args:
        logic: makes a shard's policy, and what assigns work.
        passes: over the data, each of `items`.
        breaks: (worker, pass) -> items after which it breaks the pass off.
        barrier: whether a pass begins when all workers have ended the one before.
    """

    def __init__(self, workers, shards, logic, passes=2, items=5, breaks=(), barrier=False, staleness=0):
        self.applied = [[] for _ in range(shards)]
        made = [logic(k) for k in range(shards)]
        self.servers = [
            Server(workers, Logged(policy), applied.append, pool if k == 0 else None)
            for k, ((policy, pool), applied) in enumerate(zip(made, self.applied))
        ]
        self.workers = [Worker() for _ in range(workers)]
        self.assigns, self.passes, self.total = staleness > 0, passes, items
        self.breaks, self.barrier = dict(breaks), barrier
        self.staleness, self.shards = staleness, range(shards)
        self.in_step = not self.assigns  # nobody gets ahead of one that is still to begin
        self.under_way = {(w, k): [] for w in range(workers) for k in self.shards}
        self.delivered, self.pushed, self.assigned = 0, [], []

    # What can come next
    def moves(self):
        moves = [(self.deliver, channel) for channel, messages in self.under_way.items() if messages]
        for number, worker in enumerate(self.workers):
            if worker.state == "working":
                moves.append((self.push, number))
            elif worker.state == "out" and worker.number_of_pass < self.passes and self._may_begin(worker):
                moves.append((self.begin, number))
            elif worker.state == "out" and worker.number_of_pass == self.passes:
                moves.append((self.leave, number))
        return moves

    def _may_begin(self, worker):
        return not self.barrier or all(other.number_of_pass >= worker.number_of_pass for other in self.workers)

    def run(self, choose):
        """Go on to the end, each time by the move that is chosen, and check that all is as it must be."""
        while moves := self.moves():
            move, what = choose(moves)
            move(what)
            self.check_progress()
        assert all(worker.state == "left" for worker in self.workers), [w.state for w in self.workers]
        self.check_the_end()

    # What workers do
    def begin(self, number):
        worker = self.workers[number]
        worker.items = 0
        if not self.assigns:
            self._work(worker, WorkItem(-1, 0, worker.number_of_pass * self.total))
            return
        worker.request = Request(0, worker.number_of_pass, self.total, min(2, len(self.workers)))
        worker.begins, worker.starting = True, list(self.shards)
        self._start(number, NOT_SAID)

    def _start(self, number, completed):
        """Tell the next shard: first the one that assigns, which says at which completed."""
        worker = self.workers[number]
        worker.active = True
        self._ask(number, Kind.START, {worker.starting.pop(0)}, request=worker.request, completed=completed)

    def push(self, number):
        worker = self.workers[number]
        if self.breaks.get((number, worker.number_of_pass)) == worker.items:
            self.end_pass(number)
            return
        self.pushed.append((number, worker.item))
        samples = 1 + worker.item.number % 3
        worker.completed += 1
        worker.active = True
        self._ask(number, Kind.PUSH, item=worker.item, samples=samples, request=worker.request)

    def end_pass(self, number):
        """At its end, or broken off."""
        worker = self.workers[number]
        worker.state, worker.request, worker.item, worker.begins = "out", NOTHING, None, False
        worker.number_of_pass += 1
        worker.active = not self.assigns
        if self.assigns:
            self._send(number, Kind.STATUS, self.shards)

    def pull(self, number):
        self._ask(number, Kind.PULL)

    def leave(self, number):
        self.workers[number].leaves, self.workers[number].active = True, False
        self._ask(number, Kind.LEAVE)

    def _work(self, worker, item):
        worker.state, worker.item = "working", item
        worker.items += 1

    def _ask(self, number, kind, shards=None, **fields):
        worker = self.workers[number]
        worker.state, worker.answers, worker.asked = "waiting", {}, set(shards or self.shards)
        self._send(number, kind, worker.asked, **fields)

    def _send(self, number, kind, shards, **fields):
        worker = self.workers[number]
        for k in shards:
            common = {"active": worker.active, "completed": worker.completed, "version": worker.held[k]}
            self.under_way[number, k].append(Message(kind, number, **{**common, **fields}))

    # What arrives
    def deliver(self, channel):
        message = self.under_way[channel].pop(0)
        self.delivered += 1
        for reply in self._handle(channel[1], message):
            self.take(reply, channel[1])

    def _handle(self, k, message):
        """Return the replies; each shows the whole version of its moment."""
        replies = []
        for reply in self.servers[k].handle(message):
            assert reply.version == self.servers[k].record.version == len(self.applied[k])
            replies.append(reply)
        return replies

    def take(self, reply, k):
        worker = self.workers[reply.worker]
        assert worker.state == "waiting" and k not in worker.answers, "an answer to nothing"
        assert reply.held == worker.held[k] <= reply.version or worker.leaves
        worker.answers[k], worker.held[k] = reply, reply.version
        if set(worker.answers) == worker.asked:
            self.go_on(reply.worker)

    def go_on(self, number):
        worker = self.workers[number]
        if worker.leaves:
            worker.state = "left"
        elif worker.begins:
            self.go_on_starting(number)
        elif not self.assigns and worker.item is not None:
            if worker.items == self.total:
                self.end_pass(number)
            else:
                self._work(worker, WorkItem(-1, 0, worker.item.number + 1))
        elif not worker.request.parts:  # a pull
            worker.state = "out"
        else:
            (item,) = (answer.number for answer in worker.answers.values() if answer.number != NOT_ASKED)
            if item == NONE_LEFT:
                self.end_pass(number)
                return
            assert 0 <= item < self.total
            self.assigned.append((worker.number_of_pass, item))
            self._work(worker, WorkItem(0, worker.number_of_pass, item))

    def go_on_starting(self, number):
        """Tell the shards of a start, one after the other; then begin to work."""
        worker = self.workers[number]
        if 0 in worker.answers:
            worker.completed, worker.first = worker.answers[0].completed, worker.answers[0].number
        if worker.first == NONE_LEFT:
            self.end_pass(number)
        elif worker.starting:
            self._start(number, worker.completed)
        else:
            worker.begins = False
            self.assigned.append((worker.number_of_pass, worker.first))
            self._work(worker, WorkItem(0, worker.number_of_pass, worker.first))

    # What must hold
    def check_progress(self):
        """Nobody waits for ever: for workers at work, or for one that is still to begin."""
        waits = any(worker.state == "waiting" for worker in self.workers)
        moving = any(self.under_way.values()) or any(worker.state == "working" for worker in self.workers)
        comes = any(w.state == "out" and (self.in_step or not w.number_of_pass) for w in self.workers)
        assert not waits or moving or comes, f"deadlock: {[(w.state, w.number_of_pass) for w in self.workers]}"

    def check_shard(self, k):
        server, updates = self.servers[k], self.applied[k]
        pushes = [push for update in updates for push in update]
        keys = [(p.worker if p.item.loader < 0 else -1, p.item) for p in pushes]
        assert len(set(keys)) == len(keys), "an item was applied twice"
        assert sum(server.record.staleness.values()) == len(pushes)
        assert server.record.samples == sum(push.samples for push in pushes)
        assert server.policy.log == [(p.worker, *p.item, p.version) for p in pushes]
        workers = len(self.workers)
        bound = 0 if self.staleness == 0 or workers == 1 else (workers - 1) * (2 * self.staleness + 1)
        assert max(server.record.staleness, default=0) <= bound
        for update in updates:
            who = [push.worker for push in update]
            assert who == sorted(set(who))
            if self.staleness:
                assert len(who) == 1
            else:
                assert who == list(range(workers))
        return pushes

    def check_the_end(self):
        for k in self.shards:
            pushes = self.check_shard(k)
            assert len(pushes) == len(self.pushed), f"shard {k} lost a push"
            assert sorted((p.worker, p.item) for p in pushes) == sorted(self.pushed)
        if self.staleness and not self.breaks:
            wanted = [(p, item) for p in range(self.passes) for item in range(self.total)]
            assert sorted(self.assigned) == wanted
        elif self.staleness:
            items = [item for _, item in self.pushed]  # one that was left behind is assigned once more
            assert len(set(items)) == len(items)


def play(staleness, workers, shards=1, **options):
    logic = lambda _: (Bounded(staleness), WorkPool()) if staleness else (Synchronous(), None)  # noqa: E731
    return Play(workers, shards, logic, staleness=staleness, **options)
