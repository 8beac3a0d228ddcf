"""Errors that the user can mend, as opposed to faults of npdp."""

from __future__ import annotations

MESSAGE_CHARACTERS_MAX = 400  # what is longer quotes a file: its beginning says where, its end what was got


class InputError(ValueError):
    """Report unusable input: a file, a flag or an array that npdp cannot work with.

    The command line turns it into one line and exit code 2. The message is one line whatever it quotes: file,
    line or byte, what was wanted, what came. Of a longer message than 400 characters the middle is left out.
    """

    def __init__(self, message: str) -> None:
        message = " ".join(message.splitlines())
        if len(message) > MESSAGE_CHARACTERS_MAX:
            message = f"{message[: MESSAGE_CHARACTERS_MAX * 3 // 4]} ... {message[-MESSAGE_CHARACTERS_MAX // 5 :]}"
        super().__init__(message)


class DivergedError(ArithmeticError):
    """Report training that ended without a finite loss: its results are written, and of no use.

    The command line turns it into one line and exit code 1.
    """


class StoppedError(Exception):
    """Report training that was asked to stop, and has: why, after which iteration, and how to go on.

    Attributes:
        code: the exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class OutputError(OSError):
    """Report results that could not be written: each flag, its file, and why.

    The command line turns it into one line and exit code 1.
    """
