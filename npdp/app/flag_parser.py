"""Parser of command-line flags: an error is one line, with the flag that was meant, and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import math
import os
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

from npdp.base import environment
from npdp.base.errors import InputError

# More ranks than this are a slip of the keyboard, and would bring down the machine that is to start them.
RANKS_A_CORE, RANKS_ANYWHERE = 64, 1024

KERNELS = ("", "c", "numpy")  # what NPDP_KERNELS may be; npdp.kernels has them too, but would load NumPy

# What PyTorch's and Horovod's programs and launchers call it -> what it is called in npdp train
ELSEWHERE = {
    "--batch-size": "--global-batch-size",
    "--lr": "--learning-rate",
    "--wd": "--weight-decay",
    "--num-epochs": "--epochs",
    "--max-grad-norm": "--clip-norm",
    "--gradient-accumulation-steps": "--accumulate",
    "--grad-clip": "--clip-norm",
    "--eval-interval": "--evaluate-every",
    "--block-size": "--context",
    "--max-restarts": "--restarts",
    **dict.fromkeys(("-n", "-np", "--np", "--num-proc", "--nproc-per-node", "--nproc_per_node"), "--ranks"),
}


class Layout(argparse.RawDescriptionHelpFormatter):
    """Layout of --help: examples stay as they are, a description of one line is filled to the terminal's width."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text if "\n" in text else super(argparse.RawDescriptionHelpFormatter, self)._fill_text
        return fill(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Argument parser that raises instead of printing usage, keeps texts as they are, and speaks on rank 0 alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Layout, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        flags, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._chosen(flags)._meant(unknown)}")
        _require_kernels()
        return flags

    def _chosen(self, flags: Any) -> Parser:
        """Return the parser of the subcommand that flags name; this one where there are none."""
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        chosen: Parser = found[0].choices[getattr(flags, found[0].dest)] if found else self
        return chosen

    def _meant(self, unknown: Sequence[str]) -> str:
        """Return which flag the first unknown one may stand for, as the end of a message; or nothing."""
        name = next((word.split("=")[0] for word in unknown if word.startswith("-")), "")
        mine = [flag[2:] for flag in self._option_string_actions if flag.startswith("--")]
        known = ELSEWHERE.get(name, "")[2:]
        close = [known] if known in mine else difflib.get_close_matches(name.lstrip("-"), mine, 1)
        return f"; did you mean --{close[0]}?" if close else ""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")

    def print_help(self, file: Any = None) -> None:
        launched = environment.launch()
        if launched is None or launched.rank == 0:
            super().print_help(file)


def _require_kernels() -> None:
    """Raise InputError where NPDP_KERNELS names none, or C's that are not there; ranks would find it out one by one."""
    name = os.environ.get("NPDP_KERNELS", "")
    if name not in KERNELS:
        raise InputError(f"NPDP_KERNELS is {name!r}, wanted c or numpy, or unset for the best there is")
    if name == "c" and PathFinder.find_spec("_compiled", [str(Path(__file__).parents[1] / "kernels")]) is None:
        raise InputError("NPDP_KERNELS is 'c', and npdp's C kernels are not compiled: install gcc, and then npdp again")


def flag_of(name: str) -> str:
    """Return the flag that gives a value of this name: `--clip-norm` for `clip_norm`."""
    return "--" + name.replace("_", "-")


def number(kind: type, accepted: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """Return an argparse type: a finite number that is `accepted`, else a message saying what was wanted."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not accepted(value):
            raise argparse.ArgumentTypeError(f"wanted {wanted}, got {text!r}")
        return value

    return parse


POSITIVE_INT = number(int, lambda value: value >= 1, "a whole number, at least 1")


def require_one_launcher(transport: str) -> None:
    """Refuse to make ranks where a launcher has started some.

    Raises:
        InputError: these are threads, and there are several processes.
    """
    launched = environment.launch()
    if transport == "threads" and launched is not None and launched.world_size > 1:
        raise InputError(
            f"--transport threads makes its ranks in one process, but the launcher started {launched.world_size}: "
            "leave one of the two out"
        )


def number_of_ranks(text: str) -> int:
    """Return a number of ranks, as an argparse type; where a launcher has not started them, one for this machine."""
    value: int = POSITIVE_INT(text)
    most = max(RANKS_ANYWHERE, RANKS_A_CORE * (os.cpu_count() or 1))
    if value > most and not environment.is_one_of_several():
        raise argparse.ArgumentTypeError(f"wanted at most {most} on this machine, got {text!r}")
    return value


def parser_of(name: str, description: str, examples: str) -> Parser:
    """Return the parser of a command of `npdp`."""
    return Parser(
        prog=f"npdp {name}", description=description, epilog=f"examples:\n{examples}", allow_abbrev=False
    )
