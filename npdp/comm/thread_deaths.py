"""Deaths in a world of threads, for tests: a thread cannot be killed, but it can leave without a word.

A rank that raises Death is dead: the others see it where they wait, as they see a process that was killed, and meet.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from npdp.comm.errors import WorldEnded
from npdp.comm.survival import LEFT, Words

if TYPE_CHECKING:
    from npdp.comm.threads import ThreadWorld

LOOK_UP_S = 0.05


class Death(BaseException):
    """Ends a rank on a thread as if its process had been killed; no handler of the program's own keeps it."""


class Meeting:
    """Place where the threads that live meet after a death.

    Attributes:
        dead: ranks that have died.
    """

    def __init__(self, world_size: int) -> None:
        self.dead: set[int] = set()
        self._ranks, self._changed = range(world_size), threading.Condition()
        self._here: dict[int, Words] = {}
        self._generation, self._said = 0, dict[int, Words]()

    def die(self, rank: int) -> None:
        """Note a death."""
        with self._changed:
            self.dead.add(rank)
            self._changed.notify_all()

    def meet(self, rank: int, words: Words, world: ThreadWorld) -> tuple[int, dict[int, Words]]:
        """Return, when all have come that live, a number and what each has said; of one that has left that it has."""
        with self._changed:
            self._here[rank] = words
            generation = self._generation
            while generation == self._generation:
                living = [of for of in self._ranks if of not in self.dead]
                if all(of in self._here or of in world.left for of in living):
                    self._said = {of: self._here.get(of, LEFT) for of in living}
                    self._generation += 1
                    self._here.clear()
                    self._changed.notify_all()
                elif world.failure:
                    raise WorldEnded
                else:
                    self._changed.wait(LOOK_UP_S)
            return self._generation, self._said
