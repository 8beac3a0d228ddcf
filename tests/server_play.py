"""A play with pure servers, and workers that keep to worker.py's protocol; who comes next is drawn by the caller.

Parameters are the list of the pushes applied, so an answer shows a prefix of it.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

from npdp.parallel.parameter_server.messages import (
    NONE_LEFT,
    NOT_ASKED,
    Idle,
    Leave,
    Pull,
    Push,
    Reply,
    Request,
    Start,
    Unit,
)
from npdp.parallel.parameter_server.policies import policy_for
from npdp.parallel.parameter_server.server import Server

SCHEMES = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (math.inf, 0)]  # staleness, backups


@dataclass
class Worker:
    """What a worker is at: out of a pass, waiting for shards, at work on a unit, or gone."""

    state: str = "out"
    number_of_pass: int = 0
    sequence: int = 0
    completed: int = 0  # iterations completed, as the shard that hands out counts them
    units: int = 0  # got in this pass
    unit: Unit | None = None
    request: Request | None = None
    first: int = NOT_ASKED  # the unit that came with its start
    held: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    asked: set[int] = field(default_factory=set)
    answers: dict[int, Reply] = field(default_factory=dict)
    begins: bool = False
    starting: list[int] = field(default_factory=list)  # the shards that are still to be told of its start


class Play:
    """Servers, workers, and what is under way between them.

    Args:
        policy: makes a shard's.
        passes: over the data, each of `units`.
        breaks: (worker, pass) -> units after which it breaks the pass off.
        barrier: whether a pass begins when all workers have ended the one before.
    """

    def __init__(self, workers, shards, policy, hands_out, passes=2, units=5, breaks=(), barrier=False, staleness=0):
        self.applied = [[] for _ in range(shards)]
        self.servers = [
            Server(workers, policy(k), self.applied[k].append, is_first=k == 0, records=True) for k in range(shards)
        ]
        self.workers = [Worker() for _ in range(workers)]
        self.hands_out, self.passes, self.total = hands_out, passes, units
        self.breaks, self.barrier = dict(breaks), barrier
        self.staleness, self.shards = staleness, range(shards)
        self.in_step = not hands_out  # nobody gets ahead of one that is still to begin
        self.under_way = {(w, k): [] for w in range(workers) for k in self.shards}
        self.delivered, self.pushed, self.handed_out = [], [], []

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

    def run(self, choose, backups=0):
        """Go on to the end, each time by the move that is chosen, and check that all is as it must be."""
        while moves := self.moves():
            move, what = choose(moves)
            move(what)
            self.check_progress()
        assert all(worker.state == "left" for worker in self.workers), [w.state for w in self.workers]
        self.check_the_end(backups)

    # What workers do
    def begin(self, number):
        worker = self.workers[number]
        worker.units = 0
        if not self.hands_out:
            self._work(worker, Unit(-1, 0, worker.number_of_pass * self.total))
            return
        worker.request = Request(0, worker.number_of_pass, self.total, min(2, len(self.workers)))
        worker.begins, worker.starting = True, list(self.shards)
        self._start(number, None)

    def _start(self, number, completed):
        """Tell the next shard: first the one that hands out, which says at which completed."""
        worker = self.workers[number]
        start = lambda k: Start(number, worker.sequence, worker.held[k], worker.request, completed)  # noqa: E731
        self._ask(number, start, {worker.starting.pop(0)})

    def push(self, number):
        worker = self.workers[number]
        if self.breaks.get((number, worker.number_of_pass)) == worker.units:
            self.end_pass(number)
            return
        self.pushed.append((number, worker.unit))
        samples = 1 + worker.unit.number % 3
        worker.completed += 1
        common = {"request": worker.request, "completed": worker.completed}
        self._ask(
            number, lambda k: Push(number, worker.sequence, worker.unit, worker.held[k], samples, 9, **common)
        )

    def end_pass(self, number):
        """At its end, or broken off."""
        worker = self.workers[number]
        worker.state, worker.request, worker.unit, worker.begins = "out", None, None, False
        worker.number_of_pass += 1
        if self.hands_out:
            self._send(number, lambda k: Idle(number, worker.sequence))

    def pull(self, number):
        self._ask(number, lambda k: Pull(number, self.workers[number].sequence, self.workers[number].held[k]))

    def leave(self, number):
        self._ask(number, lambda k: Leave(number, self.workers[number].sequence))

    def _work(self, worker, unit):
        worker.state, worker.unit = "working", unit
        worker.units += 1

    def _ask(self, number, message, shards=None):
        worker = self.workers[number]
        worker.state, worker.answers, worker.asked = "waiting", {}, set(shards or self.shards)
        self._send(number, message, worker.asked)

    def _send(self, number, message, shards=None):
        self.workers[number].sequence += 1
        for k in shards or self.shards:
            self.under_way[number, k].append(message(k))

    # What arrives
    def deliver(self, channel):
        message = self.under_way[channel].pop(0)
        self.delivered.append((channel[1], message))
        for reply in self._handle(channel[1], message):
            self.take(reply, channel[1])

    def deliver_again(self, k, message):
        """The same message once more: it changes nothing, and only its own worker is answered."""
        before = self.snapshot(k)
        replies = self._handle(k, message)
        assert self.snapshot(k) == before
        assert [reply.worker for reply in replies] in ([], [message.worker])

    def snapshot(self, k):
        server = self.servers[k]
        states = [(w.completed, w.active, w.left, w.waiting, w.sequence) for w in server.workers]
        return server.version, list(self.applied[k]), repr(server.statistics), states

    def _handle(self, k, message):
        """Return the replies; each shows the whole version of its moment."""
        replies = []
        for reply in self.servers[k].handle(message):
            assert reply.version == self.servers[k].version == len(self.applied[k])
            replies.append(reply)
        return replies

    def take(self, reply, k):
        worker = self.workers[reply.worker]
        assert worker.state == "waiting" and k not in worker.answers, "an answer to nothing"
        assert reply.held == worker.held[k] <= reply.version or reply.last
        worker.answers[k], worker.held[k] = reply, reply.version
        if set(worker.answers) == worker.asked:
            self.go_on(reply.worker)

    def go_on(self, number):
        worker = self.workers[number]
        if all(answer.last for answer in worker.answers.values()):
            worker.state = "left"
        elif worker.begins:
            self.go_on_starting(number)
        elif not self.hands_out and worker.unit is not None:
            if worker.units == self.total:
                self.end_pass(number)
            else:
                self._work(worker, Unit(-1, 0, worker.unit.number + 1))
        elif worker.request is None:  # a pull
            worker.state = "out"
        else:
            (unit,) = (answer.unit for answer in worker.answers.values() if answer.unit != NOT_ASKED)
            if unit == NONE_LEFT:
                self.end_pass(number)
                return
            assert 0 <= unit < self.total
            self.handed_out.append((worker.number_of_pass, unit))
            self._work(worker, Unit(0, worker.number_of_pass, unit))

    def go_on_starting(self, number):
        """Tell the shards of a start, one after the other; then begin to work."""
        worker = self.workers[number]
        if 0 in worker.answers:
            worker.completed, worker.first = worker.answers[0].completed, worker.answers[0].unit
        if worker.first == NONE_LEFT:
            self.end_pass(number)
        elif worker.starting:
            self._start(number, worker.completed)
        else:
            worker.begins = False
            self.handed_out.append((worker.number_of_pass, worker.first))
            self._work(worker, Unit(0, worker.number_of_pass, worker.first))

    # What must hold
    def check_progress(self):
        """Nobody waits for ever: for workers at work, or for one that is still to begin."""
        waits = any(worker.state == "waiting" for worker in self.workers)
        moving = any(self.under_way.values()) or any(worker.state == "working" for worker in self.workers)
        comes = any(w.state == "out" and (self.in_step or not w.number_of_pass) for w in self.workers)
        assert not waits or moving or comes, f"deadlock: {[(w.state, w.number_of_pass) for w in self.workers]}"

    def check_shard(self, k, backups=0):
        server, updates = self.servers[k], self.applied[k]
        pushes = [push for update in updates for push in update]
        keys = [(p.worker if p.unit.loader < 0 else -1, p.unit) for p in pushes]
        assert len(set(keys)) == len(keys), "a unit was applied twice"
        assert sum(server.statistics.staleness.values()) == server.statistics.pushes == len(pushes)
        assert server.statistics.samples == sum(push.samples for push in pushes)
        assert list(server.arrivals) == [(p.worker, p.unit, p.version) for p in pushes]
        workers = len(self.workers)
        bound = 0 if self.staleness == 0 or workers == 1 else (workers - 1) * (2 * self.staleness + 1)
        assert max(server.statistics.staleness, default=0) <= bound
        for update in updates:
            who = [push.worker for push in update]
            assert who == sorted(set(who))
            if self.staleness:
                assert len(who) == 1
            elif not backups:
                assert who == list(range(workers))
        return pushes

    def check_the_end(self, backups=0):
        for k in self.shards:
            pushes = self.check_shard(k, backups)
            assert len(pushes) + self.servers[k].statistics.dropped == len(self.pushed), f"shard {k} lost a push"
            if not backups:
                assert sorted((p.worker, p.unit) for p in pushes) == sorted(self.pushed)
        if self.staleness and not self.breaks:
            wanted = [(p, unit) for p in range(self.passes) for unit in range(self.total)]
            assert sorted(self.handed_out) == wanted
        elif self.staleness:
            units = [unit for _, unit in self.pushed]  # one that was left behind is handed out once more
            assert len(set(units)) == len(units)


def play(scheme, workers, shards=1, **options):
    staleness, backups = scheme
    policy = lambda _: policy_for(workers, staleness, backups)  # noqa: E731
    return Play(workers, shards, policy, bool(staleness or backups), staleness=staleness, **options)
