"""A daemon thread that looks now and then, beside what the caller does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def looking_beside(every_s: float, look: Callable[[], bool], name: str) -> Iterator[None]:
    """Call `look()` on a thread, within, every so many seconds, until it returns True; leave none behind.

    Args:
        name: of the thread, as stacks and debuggers show it.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_s) and not look():
            pass

    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
