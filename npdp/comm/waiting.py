"""Waiting for a message without wasting a core.

A rank that has a core to itself spins: nothing is quicker. Where ranks outnumber cores, spinning keeps the
very rank that one waits for from running, so after a few looks it sleeps between them. Long waits always sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOKS_OWN_CORE = 300  # a tenth of a millisecond: longer, and a busy machine cannot run the rank that one waits for
LOOKS_SHARED_CORE = 20  # measured: 20 looks, then 20 us of sleep (docs/measurements.md)
SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 20e-6, 1e-3
CHECK_AFTER_S = 0.5  # how often a long wait asks whether it is in vain


def never() -> None:
    """Nothing says that waiting is in vain."""


def wait_until(done: Callable[[], bool], looks: int, in_vain: Callable[[], Exception | None] = never) -> None:
    """Return when `done()`; look `looks` times at once, then sleep between looks.

    `in_vain` is asked every half second for the error to raise where nothing will ever come. What did come just
    before counts: a rank may have sent its last message and left between two looks.
    """
    for _ in range(looks):
        if done():
            return
    start = check = time.monotonic()
    while not done():
        now = time.monotonic()
        time.sleep(min(LONGEST_SLEEP_S, max(SHORTEST_SLEEP_S, (now - start) / 50)))
        if now - check > CHECK_AFTER_S:
            check = now
            error = in_vain()
            if error is not None and done():
                return
            if error is not None:
                raise error
