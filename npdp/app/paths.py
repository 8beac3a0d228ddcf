"""Checks that the files named by flags can be written, before anything else is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from npdp.app.flag_parser import flag_of
from npdp.base.errors import InputError
from npdp.base.text_files import is_text, text_files

IN_A_FOLDER = (".npy", "-ubyte", "-ubyte.gz")  # how the names of a data set's files end there


def require_apart(**paths: str | None) -> None:
    """Raise InputError where two flags name the same file."""
    seen: dict[object, str] = {}
    for name, path in paths.items():
        flag = flag_of(name)
        if path is not None and (other := seen.setdefault(_file(path), flag)) != flag:
            raise InputError(f"{other} and {flag} name the same file, {path}")


def require_unread(flag: str, read: Iterable[str], **written: str | None) -> None:
    """Raise InputError where a file to be written is one of those that `flag` has read."""
    kept = {_file(path) for path in read}
    for name, path in written.items():
        if path is not None and _file(path) in kept:
            raise InputError(f"{flag_of(name)}: wanted a file to write, {path} is what {flag} reads")


def data_files(path: str) -> list[str]:
    """Return the files of a data set: of x.npy those beside it too, of a folder all that may be one, or a text."""
    folder = os.path.dirname(path) or "." if os.path.basename(path) == "x.npy" else path
    with contextlib.suppress(OSError, ValueError):  # no folder, or a closed one
        found = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(IN_A_FOLDER)]
        return [path, *found, *text_files(folder)]
    return [path]


def names_text(data: str) -> bool:
    """Return whether `--data` names text: a file, a folder of nothing but texts, or python-docs.

    Raises:
        InputError: a folder, or one in it, cannot be read.
    """
    return is_text(data) and not (
        os.path.isdir(data) and any(name.endswith(IN_A_FOLDER) for name in os.listdir(data))
    )


def _file(path: str) -> object:
    """Return what two paths to one file have in common, whatever links lead there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def require_writable(flag: str, path: str) -> None:
    """Raise InputError where a file cannot be written at `path`."""
    try:
        folder = os.path.dirname(os.path.abspath(path))
    except FileNotFoundError:
        raise InputError(f"{flag}: wanted a file to write, but the working directory has been removed") from None
    if not path:
        raise InputError(f"{flag}: wanted a file to write, got no name")
    if os.path.isdir(path):
        raise InputError(f"{flag}: wanted a file to write, {path} is a directory")
    if not os.path.isdir(folder):
        raise InputError(f"{flag}: wanted a file to write, but there is no directory {folder}")
    if len(os.fsencode(os.path.basename(path))) > os.pathconf(folder, "PC_NAME_MAX"):
        raise InputError(f"{flag}: wanted a file to write, but its name is too long: {os.path.basename(path)[:40]}...")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise InputError(f"{flag}: no permission to write {path}")


def require_replaceable(flag: str, path: str) -> None:
    """Raise InputError where a new file cannot be put in the place of `path`: it is made beside it, then renamed."""
    require_writable(flag, path)
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise InputError(f"{flag}: wanted a file to write, {path} is a device or pipe")
    if not os.access(os.path.dirname(target), os.W_OK):
        raise InputError(f"{flag}: no permission to write in {os.path.dirname(target)}")
