"""Text files: which names they have, and in which order a folder of them is read."""

from __future__ import annotations

import os

from npdp.base.errors import InputError

TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".tex", ".py")
TOKENS = ".npdp-tokens"  # how the name of a token file ends (data/text/token_file.py)
PYTHON_DOCS = "python-docs"  # the documentation that CPython itself carries


def is_text_file(path: str) -> bool:
    """Return whether a file's name says that it is a text."""
    return os.path.splitext(path)[1].lower() in TEXT_SUFFIXES


def is_text(spec: str) -> bool:
    """Return whether a name, a file or a folder is taken for text: a folder where it has any text in it.

    Raises:
        InputError: a folder, or one in it, cannot be read.
    """
    if spec != PYTHON_DOCS and os.path.isdir(spec):
        return bool(text_files(spec))
    return spec == PYTHON_DOCS or spec.endswith(TOKENS) or is_text_file(spec)


def text_files(folder: str) -> list[str]:
    """Return the texts in a folder and in all folders below it, sorted by their paths; nothing hidden.

    Raises:
        InputError: a folder cannot be read.
    """
    found = list[str]()
    for path, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(path, name) for name in names if is_text_file(name) and not name.startswith(".")]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
