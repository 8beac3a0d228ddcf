"""Errors that are the user's to mend, as opposed to faults of npdp."""

from __future__ import annotations


class InputError(ValueError):
    """Report unusable input: a file, a flag or an array that npdp cannot work with.

    The command line turns it into one line and exit code 2. The message is one line whatever it quotes: file,
    line or byte, what was wanted, what came.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class DivergedError(ArithmeticError):
    """Report training that ended without a finite loss: its results are written, and of no use.

    The command line turns it into one line and exit code 1.
    """


class OutputError(OSError):
    """Report results that could not be written: each flag, its file, and why.

    The command line turns it into one line and exit code 1.
    """
