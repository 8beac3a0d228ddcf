"""Worlds of threads in which ranks of several threads die: a rank dies at its n-th message, with all of its threads.

deaths.py has ranks of one thread, for training without servers.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from unittest import mock

from worlds import within

from npdp.collectives.communicator import Communicator
from npdp.comm import threads
from npdp.comm.errors import RankDied
from npdp.comm.mailbox import MailboxTransport
from npdp.comm.thread_deaths import Death
from npdp.comm.threads import ThreadTransport, run_threads
from npdp.parallel.world import become

LIMIT_S = 60


class MortalTransport(ThreadTransport):
    """Transport of a rank that may die.

    Attributes:
        deaths: number of a rank -> of the message at which it dies.
        messages: how many each has had.
    """

    deaths, messages = {}, Counter()

    def __init__(self, world, rank, ranks=None, space=(), generation=None):
        super().__init__(world, rank, ranks, space)
        self.generation = generation or tuple(self._ranks)

    @property
    def number(self):
        return self._ranks[self.rank]

    def live(self):
        """Count a message, and die where it is time; so do the rank's other threads, as soon as they come here."""
        self.messages[self.number] += 1
        if self.messages[self.number] == self.deaths.get(self.number):
            self.world.meeting.die(self.number)
        if self.number in self.world.meeting.dead:
            raise Death

    def send(self, *arguments):
        self.live()
        return super().send(*arguments)

    def receive(self, *arguments):
        self.live()
        return super().receive(*arguments)

    def wait(self, handle):
        self.live()
        super().wait(handle)

    def ended(self, peers):
        dead = self.world.meeting.dead.intersection(self.generation)
        if self.number in dead:
            raise Death
        return RankDied(sorted(dead)) if dead else super().ended(peers)

    def subworld(self, ranks):
        like = super().subworld(ranks)
        return type(self)(self.world, like.rank, like._ranks, like._space, self.generation)

    def fail(self, error):
        if not isinstance(error, Death):  # in a thread beside a rank's own
            super().fail(error)


def run_mortal(world_size, deaths, program, hosts=None):
    """Run `program()` on ranks of which some die; return what the others returned, by number, and all messages."""
    kind = type("Mortal", (MortalTransport,), {"deaths": dict(deaths), "messages": Counter()})
    outcome = {}

    def run(transport):
        shard = become(Communicator(transport), on_thread=True)
        try:
            outcome[transport.rank] = program()
        finally:
            shard.on_thread = False

    with counting_mail():
        what = f"a world of {world_size} in which {deaths} die"
        within(LIMIT_S, what, lambda: run_threads(world_size, run, hosts, kind))
    return outcome, kind.messages


@contextmanager
def counting_mail():
    """Within, small messages in shared memory count too, and a death is noticed soon."""

    def counted(method):
        def call(self, *arguments):
            if isinstance(self._beneath, MortalTransport):
                self._beneath.live()
            return method(self, *arguments)

        return call

    def show(what):  # what a dead rank's generators do at their end is nobody's business
        if not isinstance(what.exc_value, Death):
            sys.__unraisablehook__(what)

    patched = {name: counted(getattr(MailboxTransport, name)) for name in ("send", "receive", "wait_any")}
    soon = mock.patch.object(threads, "LOOK_UP_S", 0.005)
    with mock.patch.multiple(MailboxTransport, **patched), soon, mock.patch.object(sys, "unraisablehook", show):
        yield
