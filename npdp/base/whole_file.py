"""A file that is written whole or not at all, where that can be."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

NEW = "npdp-{}.part"  # a new file's name, with a random number


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Yield a new file beside `path`, or beside what that links to; it takes that one's place when the block ends.

    Where the block raises, what was there stays as it was, and nothing else is left. A process that is killed leaves
    the new file, which the next one that writes in this directory removes. What nothing can take the place of is
    written itself: a device or pipe, and a file in a directory where no other can be made.

    The file may be read within as well, and is on the disk, under its name, when the block has ended.

    Raises:
        OSError: there is no place for it, or no permission.
    """
    if _is_for_good(path):
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    _remove_left(folder)
    beside = os.path.join(folder, NEW.format(os.urandom(8).hex()))
    try:
        with _locked(beside):
            with open(beside, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            _flush_names(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _flush_names(folder: str) -> None:
    """Write a directory's names to the disk, where the system does that."""
    with contextlib.suppress(OSError):
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _is_for_good(path: str) -> bool:
    """Return whether something is there in whose place no new file can, or should, be put."""
    if not os.path.exists(path):
        return False
    return not os.path.isfile(path) or not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Make a file, and keep it from `_remove_left` within; where the file system has no locks nothing is removed."""
    with open(path, "xb") as file:
        if sys.platform == "win32":
            file.close()  # where no file that is open can be renamed
        else:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_left(folder: str) -> None:
    """Remove new files whose process was killed before they took their places: the system has unlocked them."""
    if sys.platform == "win32":
        return
    for path in glob.glob(os.path.join(glob.escape(folder), NEW.format("[0-9a-f]" * 16))):
        with contextlib.suppress(ImportError, OSError), open(path, "rb+") as file:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
