"""The flag `--algorithm`: a name of npdp's, or `file.py:function`, a function of yours that makes a schedule."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from npdp.app.programs import called, function_of, is_program
from npdp.base.errors import InputError
from npdp.collectives.algorithms import ALGORITHMS, Algorithm
from npdp.collectives.wrong import WrongSchedule

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator

FLAG = "--algorithm"
HELP = "of the all-reduce, or file.py:function, your own, which is proven first (auto)"


def algorithm_name(text: str) -> str:
    """Return the flag's value, refused where it is neither a name nor a function in a file."""
    if text not in ALGORITHMS and not is_program(text):
        choices = ", ".join(map(repr, ALGORITHMS))
        raise ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices}, or file.py:function)")
    return text


def usable(world: Communicator, collective: str, name: str) -> Algorithm:
    """Return the algorithm of a name, or the function of file.py:function, proven for this world.

    Raises:
        InputError: this world cannot use it, or its schedule is wrong.
    """
    algorithm: Algorithm = function_of(FLAG, name) if is_program(name) else name

    def choose() -> None:
        try:
            world.chosen(collective, 0, algorithm)
        except WrongSchedule as error:
            drawn = f"`npdp show {name} --ranks {world.world_size}` draws it"
            raise InputError(f"{FLAG} {name}: {error.sentence}; {drawn}") from None
        except ValueError as error:
            if is_program(name):
                raise
            raise InputError(f"{FLAG} {name}: {error}") from None

    called(FLAG, name, choose)
    return algorithm
