"""What a worker is at: its unit of work, and how many iterations it has completed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count

from npdp.parallel.parameter_server.messages import NOT_ASKED, Reply, Request, Unit


class Work:
    """Units that were handed out, and how far this worker is.

    Attributes:
        now: the unit that is being worked on, and the pass that it is of; None without npdp's loader.
        completed: iterations; a step of each optimiser is one.
        collectives: of all workers, that this one has come to; counted with staleness 0.
    """

    def __init__(self) -> None:
        self.now: tuple[Request, Unit] | None = None
        self.completed = self.collectives = 0
        self._handed_out: dict[Request, int] = {}  # units that came with an answer
        self._pushed: dict[Hashable, Unit] = {}  # in this iteration, by what was pushed
        self._own_numbers = count()

    @property
    def part(self) -> int | None:
        """Which part of its batch the unit is."""
        return None if self.now is None else self.now[1].number % self.now[0].parts

    def next_of(self, request: Request, start: Callable[[Request], int]) -> int:
        """Return the next unit of a pass: the one that came with the last answer, else what `start` gets."""
        number = self._handed_out.pop(request, NOT_ASKED)
        return start(request) if number == NOT_ASKED else number

    def take(self, request: Request | None, reply: Reply) -> None:
        """Keep the unit that came with an answer to a push."""
        if reply.unit != NOT_ASKED and request is not None:
            self._handed_out[request] = reply.unit

    def end(self, request: Request, outer: tuple[Request, Unit] | None) -> None:
        """A pass has ended, or was broken off; go on with the one around it."""
        self._handed_out.pop(request, None)
        self.now = outer

    def count_push(self, key: Hashable) -> tuple[Unit, Request | None]:
        """Count a push; return what it is known by, and what it asks for.

        A second step on the same unit, or one without npdp's loader, is known by a number of this worker's own.

        Args:
            key: what is pushed: a group, a sparse parameter.
        """
        last = self._pushed.get(key)
        if last is not None or not self._pushed:  # the first of an iteration
            self.completed, self._pushed = self.completed + 1, {}
        request, unit = self.now or (None, None)
        if unit is not None and unit != last:
            self._pushed[key] = unit
            return unit, request
        own = Unit(-1, 0, next(self._own_numbers))
        self._pushed[key] = unit or own
        return own, None
