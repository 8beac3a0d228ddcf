"""Stops that all ranks make after the same iteration, whichever of them was asked to.

    rank 0   1 2 3 4 5 6 7 8 9 ...      asked by its launcher (base/stop_files.py), or by a signal
    rank 1   1 2 3 4 5 6 7 8 9 ...      a signal comes here, after 4: it is noted, no more
             *   *         *            they look together (*): all know of it after 8, and stop

A look is a maximum over the ranks, of what each was asked for and of its seconds an iteration. By these all know alike
after how many iterations the next look comes: about 0.2 s later, each time where an iteration takes longer.

Cost: of an iteration a comparison of two numbers; of a look one all-reduce of 16 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

from npdp.base import stop_files
from npdp.base.stop_signals import StopSignals
from npdp.collectives.communicator import Communicator
from npdp.parallel.world import init

LOOK_EVERY_S = 0.2
MOST_ITERATIONS = 1000  # between two looks: iterations may become slower, and a look costs less than one of them


class Looks:
    """Looks of all ranks, after the same iterations, at what each was asked for.

    Attributes:
        iteration_s: seconds of an iteration, on the slowest rank, before the last look.

    Args:
        communicator: of these ranks.
        asked: returns a number for which this rank is to stop, 0 for none.
        begun: how many iterations were done before.
        clock: returns seconds.
    """

    def __init__(
        self,
        communicator: Communicator,
        asked: Callable[[], int],
        begun: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._communicator, self._asked, self._clock = communicator, asked, clock
        self._next, self._transport = 0, communicator.transport
        self._last, self._last_s, self.iteration_s = begun, clock(), 0.0

    def after(self, iteration: int) -> int:
        """Return the largest number that a rank was asked for, the same on all; 0 for none. Collective, now and then.

        Args:
            iteration: how many were done; alike on all ranks, one more each time.
        """
        if iteration < self._next and self._transport is self._communicator.transport:  # else ranks have left
            return 0
        return self.now(iteration)

    def now(self, iteration: int) -> int:
        """Return the same after a look of all ranks; collective."""
        now_s = self._clock()
        numbers = np.array([self._asked(), (now_s - self._last_s) / max(1, iteration - self._last)])
        self._communicator.allreduce(numbers, "max", "auto")
        number, self.iteration_s = numbers.tolist()
        self._last, self._last_s, self._transport = iteration, now_s, self._communicator.transport
        self._next = iteration + iterations_until_next(self.iteration_s)
        return int(number)


def iterations_until_next(iteration_s: float) -> int:
    """Return how many iterations of so many seconds come until the next look."""
    return 1 if iteration_s * 2 > LOOK_EVERY_S else int(min(MOST_ITERATIONS, LOOK_EVERY_S / max(iteration_s, 1e-9)))


# A user's own loop
class _Program:
    """Program of a rank that asks whether it is to stop."""

    def __init__(self, communicator: Communicator) -> None:
        self._is_first, self._signals = communicator.rank == 0, StopSignals()
        self._signals.looking = True
        self._looks, self._iterations, self._number = Looks(communicator, self._asked), 0, 0

    def stop_requested(self) -> bool:
        if not self._number:
            self._iterations += 1
            self._number = self._looks.after(self._iterations)
            if self._is_first and self._iterations == 1:
                stop_files.listen()  # all ranks have come here
            if self._is_first and self._number:
                stop_files.answer(128 + self._number)
        return self._number > 0

    def _asked(self) -> int:
        return self._signals.number or (stop_files.asked() if self._is_first else 0)


_programs: WeakKeyDictionary[Communicator, _Program] = WeakKeyDictionary()


def stop_requested() -> bool:
    """Return whether this program is to stop, the same on all ranks; collective: call it once in each iteration.

        for inputs, labels in loader:
            ...
            optimizer.step()
            if npdp.stop_requested():
                npdp.save_checkpoint(path, model, optimizer, loader)
                break

    From the first call on SIGINT and SIGTERM, to `npdp run` or to a process by itself, ask for a stop, and SIGUSR1, to
    a rank or to a bare mpirun. Another one ends the program at once. A world of threads is asked for none.

    Cost: 0.7 us; an all-reduce of 16 bytes about every 0.2 s.
    """
    world = init()
    program = _programs.get(world)
    if program is None:
        program = _programs[world] = _Program(world)
    return program.stop_requested()
