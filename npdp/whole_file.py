"""A file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Yield a new file beside `path`, or beside what that links to; it takes that one's place when the block ends.

    Where the block raises, what was there stays as it was, and nothing else is left.

    Raises:
        OSError: there is no place for it, or no permission.
    """
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
