"""The result of every reader, and the opening of files that all readers share."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from numpy.typing import NDArray

from npdp.base.errors import InputError

Array = NDArray[Any]

DEFLATE_LIMIT = 1032  # no deflate stream grows by more (zlib's technical notes)


class Columns(NamedTuple):
    """The names of a table's columns: its features in their order, and its target."""

    features: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Part:
    """Training or test part of a data set, as the file has it.

    Attributes:
        x: (N, ...) features, an array; or (N, D) `SparseRows`.
        y: (N,) labels or targets, unchecked.
        place: says where sample i stands, for messages: `data.csv, line 7`.
    """

    x: Any
    y: Array
    place: Callable[[int], str]


@dataclass(frozen=True)
class RawData:
    """Data set as a reader found it.

    Attributes:
        train: the samples, or the training part of them.
        test: the test part, where the file has one.
        classes: whether `y` are class labels; None where the file leaves it open (whole numbers written in text).
        unit: features are to be divided by it (255 for pixels).
        signs: labels -1 and +1 stand for two classes (svmlight's custom).
        columns: their names, where the file has one for each.
        notes: lines to be said of how the file was read.
    """

    train: Part
    test: Part | None = None
    classes: bool | None = None
    unit: float = 1.0
    signs: bool = False
    columns: Columns | None = None
    notes: tuple[str, ...] = ()


def shown(value: object) -> str:
    """Quote a value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 40 else text[:36] + "...'"


def status(path: str) -> os.stat_result | None:
    """Look at a path; None where there is nothing, InputError where one may not look."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def open_file(path: str, wanted: str) -> tuple[IO[bytes], int]:
    """Open a regular file that is not empty.

    Args:
        path: as the user wrote it; messages repeat it.
        wanted: what it should be, for messages.

    Returns:
        The open file and its size in bytes.

    Raises:
        InputError: it is missing, empty, unreadable, a directory or a device.
    """
    found = status(path)
    if found is None:
        raise InputError(f"{path}: expected {wanted}, found nothing of that name")
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: expected {wanted}, got a directory")
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait, reading a device might never end
        raise InputError(f"{path}: expected {wanted}, got a device or pipe")
    if found.st_size == 0:
        raise InputError(f"{path}: expected {wanted}, got an empty file")
    try:
        return open(path, "rb"), found.st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def open_text(path: str, wanted: str) -> tuple[IO[str], bytes]:
    """Read a UTF-8 text file, its line ends left as they are.

    Returns:
        A stream of its text, and its bytes.

    Raises:
        InputError: as `open_file`, or a byte is not UTF-8.
    """
    file, _ = open_file(path, wanted)
    with file:
        content = file.read()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}, byte {error.start}: expected UTF-8 text, "
                         f"got byte 0x{content[error.start]:02x}") from None
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=""), content


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
