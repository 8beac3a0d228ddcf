"""Waiting for a message without wasting a core.

    spin                    quickest; a tenth of a millisecond, where a rank has a core to itself
    yield between spins     some milliseconds, there: whatever else wants the core gets it
    sleep between spins     after that; and at once, nearly, where ranks outnumber cores

Spinning for longer keeps a busy machine from running the very rank that one waits for. Sleeping sooner makes the
other ranks, which meanwhile wait for this one, sleep too, and so on for ever.

`wait_until` does so for messages. C code does it too, by other numbers of the table below; there sleepers are woken.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from npdp.base import environment


class SpinPolicy(NamedTuple):
    """Number of spins, and then of spins with a yield of the core in between, before sleeping in between."""

    spins: int
    yields: int


class Waiting(NamedTuple):
    """Waiting policies of a rank: with a core for each rank of its host, and with shared cores."""

    own_core: SpinPolicy
    shared_core: SpinPolicy

    def policy(self, ranks: int) -> SpinPolicy:
        """Return that of a rank on a host with so many."""
        return self.own_core if ranks <= environment.cores_of_job() else self.shared_core


# By what is waited for. Sections named are of docs/measurements.md.
# Messages: a spin is a call of MPI's, from Python, and nobody wakes a sleeper ("Waiting")
MESSAGES = Waiting(SpinPolicy(300, 4000), SpinPolicy(20, 0))
# Collectives through shared memory: a spin takes nanoseconds, and all ranks come soon ("Shared memory inside a host")
MEMORY = Waiting(SpinPolicy(2000, 200), SpinPolicy(50, 1000))
# The same on one host of several: a rank of this one may be waiting for the link, and needs the core ("Two hosts")
MEMORY_BESIDE_LINK = Waiting(SpinPolicy(20, 200), SpinPolicy(20, 200))
# Mailboxes: as MEMORY, but an answer may take as long as another rank computes; no measurement was kept
MAILBOXES = Waiting(SpinPolicy(2000, 200), SpinPolicy(50, 20))

SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 20e-6, 1e-3
CHECK_AFTER_S = 0.5  # how often a long wait asks whether it is in vain


def wait_until(
    done: Callable[[], bool],
    policy: SpinPolicy,
    why_in_vain: Callable[[], BaseException | None] = lambda: None,
    check_after_s: float = CHECK_AFTER_S,
) -> None:
    """Return when `done()`.

    `why_in_vain` is asked every `check_after_s` for the error to raise where nothing will ever come. What did come just
    before counts: a rank may have sent its last message and left between two spins.
    """
    for _ in range(policy.spins):
        if done():
            return
    for _ in range(policy.yields):
        os.sched_yield()
        if done():
            return
    start = check = time.monotonic()
    while not done():
        now = time.monotonic()
        time.sleep(min(LONGEST_SLEEP_S, max(SHORTEST_SLEEP_S, (now - start) / 50)))
        if now - check > check_after_s:
            check = now
            error = why_in_vain()
            if error is not None and done():
                return
            if error is not None:
                raise error
