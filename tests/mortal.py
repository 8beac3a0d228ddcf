"""Worlds of threads whose ranks die, for tests: a rank is killed at its n-th message, and the others hear of it.

It keeps the promises of npdp/comm/ulfm.py: after a death any wait raises RankDied, and `survivors` makes a new world.
"""

import threading
from collections import Counter
from contextlib import contextmanager
from unittest import mock

from npdp.collectives.communicator import Communicator
from npdp.comm import threads
from npdp.comm.errors import RankDied, WorldEnded
from npdp.comm.mailbox import MailboxTransport
from npdp.comm.survival import LEFT
from npdp.comm.threads import ThreadTransport, ThreadWorld
from npdp.parallel.world import become

LIMIT_S = 60


class Killed(WorldEnded):
    """Ends all threads of a rank that dies."""


class MortalWorld(ThreadWorld):
    """Shared state of a world of threads; `kills` has for a rank the number of the message at which it dies."""

    def __init__(self, world_size, kills, hosts=None):
        super().__init__(world_size, hosts)
        self.kills, self.messages, self.dead = dict(kills), Counter(), set()
        self.meeting = threading.Condition()
        self.said, self.made = {}, {}  # by the ranks of a generation: what each says, and who met

    def kill(self, rank):
        with self.meeting:
            self.dead.add(rank)
            self.meeting.notify_all()

    def fail(self, rank, error):
        if not isinstance(error, (Killed, RankDied)):
            super().fail(rank, error)
            with self.meeting:
                self.meeting.notify_all()


class MortalTransport(ThreadTransport):
    """Transport of one rank of such a world."""

    def __init__(self, world, rank, ranks=None, space=(), generation=None):
        super().__init__(world, rank, ranks, space)
        self.generation = generation or tuple(self._ranks)
        self.launched, self.said = list(self.generation), [()] * self.world_size

    @property
    def number(self):
        return self._ranks[self.rank]

    def count(self):
        """Count a message; die where it is time."""
        world = self.world
        world.messages[self.number] += 1
        if world.messages[self.number] == world.kills.get(self.number):
            world.kill(self.number)
        if self.number in world.dead:
            raise Killed

    def send(self, *arguments):
        self.count()
        return super().send(*arguments)

    def receive(self, *arguments):
        self.count()
        return super().receive(*arguments)

    def wait(self, handle):
        self.count()
        super().wait(handle)

    def ended(self, peers):
        if self.number in self.world.dead:
            raise Killed
        dead = self.world.dead.intersection(self.generation)
        return RankDied(sorted(dead)) if dead else super().ended(peers)

    def subworld(self, ranks):
        like = super().subworld(ranks)
        return MortalTransport(self.world, like.rank, like._ranks, like._space, self.generation)

    def survivors(self, words=()):
        world, of = self.world, self.generation
        with world.meeting:
            world.said.setdefault(of, {})[self.number] = words
            world.meeting.notify_all()
            while of not in world.made:
                if world.failure:
                    raise WorldEnded
                if set(of) - world.dead <= set(world.said[of]):
                    world.made[of] = tuple(rank for rank in of if rank in world.said[of] and rank not in world.dead)
                    world.meeting.notify_all()
                else:
                    world.meeting.wait(1)
        ranks = world.made[of]
        made = MortalTransport(world, ranks.index(self.number), ranks, ("generation", ranks), ranks)
        made.said = [world.said[of][rank] for rank in ranks]
        return made

    def leave(self):
        """Wait until all have left, whoever dies meanwhile."""
        world, of = self.world, self.generation
        with world.meeting:
            world.left.add(self.number)
            world.meeting.notify_all()
            while not world.failure and not world.dead.intersection(of) and set(of) - world.left:
                world.meeting.wait(1)
        if world.dead.intersection(of):
            self.survivors(LEFT).leave()


def run_mortal(ranks, program, kills=(), hosts=None):
    """Run `program()` on every rank; return what those return that live, by rank, and the world."""
    world, results = MortalWorld(ranks, kills, hosts), {}

    def run(rank):
        transport = MortalTransport(world, rank)
        communicator = Communicator(transport)
        shard = become(communicator, on_thread=True)
        try:
            try:
                results[rank] = program()
            except SystemExit:
                results[rank] = None
            communicator.transport.leave()
        except (Killed, WorldEnded):
            results.pop(rank, None)
        except BaseException as error:
            world.fail(rank, error)
        finally:
            shard.on_thread = False

    with counting_mail():
        all_of_them = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(ranks)]
        for thread in all_of_them:
            thread.start()
        for thread in all_of_them:
            thread.join(LIMIT_S)
        assert not any(thread.is_alive() for thread in all_of_them), f"a world with deaths {kills} did not end"
    if world.failure:
        raise world.failure[1]
    return results, world


@contextmanager
def counting_mail():
    """Within, messages in shared memory count too, and a death is noticed soon."""

    def counted(method):
        def call(self, *arguments):
            if isinstance(self._beneath, MortalTransport):
                self._beneath.count()
            return method(self, *arguments)

        return call

    patched = {name: counted(getattr(MailboxTransport, name)) for name in ("send", "receive", "wait_any")}
    with mock.patch.multiple(MailboxTransport, **patched), mock.patch.object(threads, "LOOK_UP_S", 0.005):
        yield
