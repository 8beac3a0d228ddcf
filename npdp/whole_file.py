"""A file that is written whole or not at all, where that can be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Yield a new file beside `path`, or beside what that links to; it takes that one's place when the block ends.

    Where the block raises, what was there stays as it was, and nothing else is left. What nothing can take the place of
    is written itself: a device or pipe, and a file in a directory where no other can be made.

    Raises:
        OSError: there is no place for it, or no permission.
    """
    if _is_for_good(path):
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)
    beside = os.path.join(os.path.dirname(path), f"npdp-{os.urandom(8).hex()}.part")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _is_for_good(path: str) -> bool:
    """Return whether something is there in whose place no new file can, or should, be put."""
    if not os.path.exists(path):
        return False
    return not os.path.isfile(path) or not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)
