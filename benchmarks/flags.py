"""How benchmarks read their flags: what is wrong with them is one line, before anything is measured, and exit code 2.

A script's docstring, with its examples, is its help. Where figures are kept: `keep` in machine.py. No program: the
benchmarks use it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from npdp.app import flag_parser
from npdp.app.flag_parser import POSITIVE_INT, flag_of, number, number_of_ranks
from npdp.app.paths import require_writable
from npdp.base import environment
from npdp.base.errors import InputError
from npdp.bench.sizes import parse_sizes

ROUNDS, RANKS, SECONDS = POSITIVE_INT, number_of_ranks, number(float, lambda value: value > 0, "a number above 0")
MORE_IS_AS_GOOD = ("rounds", "seconds")

# The module of a contender that is no part of npdp
MODULES = {"torch": "torch", "gloo": "torch", "jax": "jax", "horovod": "horovod", "sklearn": "sklearn"}


class Parser(flag_parser.Parser):
    """The parser of a script that measures.

    Args:
        text: the script's docstring.
        file: the script.
        keeps: whether it keeps figures.
        named: flags that stand in the name of the file that is kept, or say where a contender is: of any value
            everything is measured.
    """

    def __init__(self, text: str | None, file: str, keeps: bool = True, named: Sequence[str] = ()) -> None:
        super().__init__(prog=Path(file).name, description=text, allow_abbrev=False)
        self._named = named
        if keeps:
            self.add_argument("--output", metavar="FILE",
                              help="keep the figures there (in benchmarks/results, where all is measured that is by "
                                   "default, in as many rounds or more)")  # fmt: skip

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = super().parse_args(args, namespace)
        if getattr(arguments, "output", None) is not None:
            require_writable("--output", arguments.output)
        return arguments

    def left_out(self, arguments: argparse.Namespace) -> str:
        """Return the flags by which less than by default is measured; empty where there are none."""
        flags = []
        for action in self._actions:
            name, hidden = action.dest, action.help == argparse.SUPPRESS
            if not action.option_strings or hidden or name in ("help", "output", *self._named):
                continue
            value, default = getattr(arguments, name), action.default
            if value < default if name in MORE_IS_AS_GOOD else value != default:
                flags.append(flag_of(name))
        return ", ".join(flags)


def run(main: Callable[[], None]) -> None:
    """Run a script; input that it cannot use is one line, on the first rank where there are several."""
    try:
        main()
    except InputError as error:
        launched = environment.launch()
        if launched is None or launched.rank == 0:
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


def names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Return an argparse type: some of the names that there are, with commas between them, each once."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return found

    return parse


def sizes(text: str) -> tuple[int, ...]:
    """Return sizes in bytes of float32 arrays, as an argparse type."""
    try:
        found = parse_sizes(text, 2)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--sizes: ")) from None
    if found[0] < 4:
        raise argparse.ArgumentTypeError(f"{found[0]} bytes are less than one float32")
    return found


def program(text: str) -> str:
    """Return the path of a program, as an argparse type."""
    path = shutil.which(text)
    if path is None:
        raise argparse.ArgumentTypeError(f"there is no program {text!r}")
    return os.path.abspath(path)


def python_of(known: Iterable[str]) -> Callable[[str], tuple[str, str]]:
    """Return an argparse type: a contender and its Python, WHO=PATH."""

    def parse(text: str) -> tuple[str, str]:
        who, equals, path = text.partition("=")
        if not equals or who not in known:
            raise argparse.ArgumentTypeError(f"wanted WHO=PATH, WHO one of {', '.join(known)}, got {text!r}")
        return who, program(path)

    return parse


def there(text: str) -> str:
    """Return the path of a file or folder, as an argparse type."""
    if not os.path.exists(text):
        raise argparse.ArgumentTypeError(f"there is no file or folder {text!r}")
    return text


def chosen(
    wanted: Sequence[str] | None, usual: Iterable[str], modules: Mapping[str, str] = MODULES
) -> list[str]:
    """Return those that --who names, or the usual ones that are installed; say which of these are left out.

    Raises:
        InputError: one that is named is not installed.
    """
    found = []
    for who in usual if wanted is None else wanted:
        if who not in modules or importlib.util.find_spec(modules[who]):
            found.append(who)
        elif wanted is None:
            print(f"{who} is left out: {modules[who]} is not installed", file=sys.stderr)
        else:
            raise InputError(f"--who {who}: {modules[who]} is not installed")
    return found


if __name__ == "__main__":
    sys.exit(__doc__)
