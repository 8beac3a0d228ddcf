"""Files that flags name: whether they can be written, before anything else is done."""

from __future__ import annotations

import os

from npdp.errors import InputError


def require_apart(**paths: str | None) -> None:
    """Raise InputError where two flags name the same file."""
    seen: dict[str, str] = {}
    for name, path in paths.items():
        flag = "--" + name.replace("_", "-")
        if path is not None and (other := seen.setdefault(os.path.realpath(path), flag)) != flag:
            raise InputError(f"{other} and {flag} name the same file, {path}")


def require_writable(flag: str, path: str) -> None:
    """Raise InputError where a file cannot be written at `path`."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise InputError(f"{flag}: wanted a file to write, {path} is a directory")
    if not os.path.isdir(folder):
        raise InputError(f"{flag}: wanted a file to write, but there is no directory {folder}")
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
