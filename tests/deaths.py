"""Worlds of threads in which ranks die as they send, receive, look in vain, or come to a part, the n-th time."""

from collections import Counter

from worlds import within

from npdp.base.place import Place
from npdp.collectives.communicator import Communicator
from npdp.comm.thread_deaths import Death
from npdp.comm.threads import ThreadTransport, run_threads
from npdp.elastic.recovery import from_the_start
from npdp.parallel.world import become

LIMIT_S = 30


def run_mortal(world_size, deaths, program, hosts=None, algorithm="auto"):
    """Run a program on ranks of which some die; return what the others returned, by their numbers at first.

    Args:
        deaths: number of a rank -> of the event at which it dies.
    """
    events = Counter()

    class Mortal(ThreadTransport):
        """Transport whose rank dies at its event."""

        @property
        def number(self):
            return self._ranks[self.rank]

        def live(self):
            events[self.number] += 1
            if events[self.number] == deaths.get(self.number):
                raise Death

        def send(self, *arguments):
            self.live()
            return super().send(*arguments)

        def receive(self, *arguments):
            self.live()
            return super().receive(*arguments)

        def ended(self, peers):
            self.live()
            return super().ended(peers)

    class MortalPlace(Place):
        """Place at which a rank dies at its event."""

        __slots__ = ("_live", "_part")

        def __init__(self, live):
            self._live, self._part, self.iteration = live, "", 0

        @property
        def part(self):
            return self._part

        @part.setter
        def part(self, part):
            self._part = part
            self._live()

    def run(transport):
        communicator = Communicator(transport, algorithm)
        communicator.place = MortalPlace(transport.live)
        shard = become(communicator, on_thread=True)
        try:
            return from_the_start(communicator, program)
        finally:
            shard.on_thread = False

    what = f"a world of {world_size} in which {deaths} die"
    results = within(LIMIT_S, what, lambda: run_threads(world_size, run, hosts, Mortal))
    return {number: result for number, result in enumerate(results) if result is not None}
