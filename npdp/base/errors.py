"""Errors that the user can mend, as opposed to faults of npdp."""

from __future__ import annotations

from typing import NamedTuple

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


class Contribution(NamedTuple):
    """One rank's part in a gradient that is not finite.

    Attributes:
        rank: that rank.
        parameter: name of the first parameter whose gradient is not finite there.
        rows: the dataset's row numbers of the rank's samples; None where no loader says them.
    """

    rank: int
    parameter: str
    rows: list[int] | None


class NotFiniteError(ArithmeticError):
    """Report a gradient with NaN or infinity in it, before any parameter has changed by it; on all ranks alike.

    Where ranks update or push by themselves, on one rank alone; under update="fused" after parameters have changed.

    Args:
        message: who, where, which samples.
        iteration: number of the global batch, from 1.
        contributions: of each rank whose own gradient was not finite; of all ranks where only their sum is not.
        alone: whether this rank alone knows of it.
    """

    def __init__(self, message: str, iteration: int, contributions: list[Contribution], alone: bool = False) -> None:
        super().__init__(message)
        self.iteration, self.contributions, self.alone = iteration, contributions, alone


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
