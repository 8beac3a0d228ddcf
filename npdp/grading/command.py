"""The command `npdp grade`: lists exercises, hands out the file to begin with, and grades what became of it."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from npdp.app.flag_parser import Parser, number, parser_of
from npdp.app.paths import require_writable
from npdp.base.errors import InputError
from npdp.base.whole_file import whole_file
from npdp.grading.grading import EXERCISES, LIMIT_S, Report, Result, grade

EXAMPLES = """  npdp grade                                    which exercises there are
  npdp grade ring -o ring.py                    the task, and a file to begin with
  npdp grade ring ring.py                       points, and what is wrong
  npdp grade ring --json class/*.py             a line of JSON for each of a class
  npdp grade average yours.py --seed 17         the cases of seed 17 once more"""
STARTERS = Path(__file__).parent / "starters"
SEED = number(int, lambda value: value >= 0, "a whole number, at least 0")
SECONDS = number(float, lambda value: value > 0, "a number of seconds above 0")
SEEDS = 1_000_000  # a drawn one is below
WIDTH = 100  # of a text that no terminal shows


def parser() -> Parser:
    """Return the parser of the command's flags."""
    made = parser_of("grade", "Grade a solution of an exercise: its checks, points, and for each fault the smallest "
                     "case that shows it. Without a file the task is printed. The program runs in processes of its "
                     "own, which may use NumPy, but of npdp only what the task names. Exit code 0 where all points "
                     "are reached, else 1.", EXAMPLES)  # fmt: skip
    made.add_argument("exercise", nargs="?", choices=tuple(EXERCISES), help="without one, the list")
    made.add_argument("files", nargs="*", metavar="FILE", help="solutions, each graded by itself")
    made.add_argument("-o", "--output", metavar="FILE", help="where the file to begin with goes; none is overwritten")
    made.add_argument("--json", action="store_true", help="a line of JSON a file")
    made.add_argument("--seed", type=SEED, metavar="N", help="of the cases that are drawn (another one each time)")
    made.add_argument("--time-limit", type=SECONDS, default=LIMIT_S, metavar="S",
                      help=f"seconds that a call may take ({LIMIT_S:g})")  # fmt: skip
    return made


def run(arguments: Sequence[str], say: Callable[[str], None], width: int) -> int:
    """Carry out the command; return its exit code.

    Args:
        say: prints a text.
        width: of the terminal, in columns; 0 where there is none.

    Raises:
        InputError: there is no such file, or none can be written.
    """
    flags = parser().parse_intermixed_args(arguments)
    if flags.exercise is None:
        say(listed())
        return 0
    if not flags.files:
        _hand_out(flags, say)
        return 0
    if flags.output is not None:
        raise InputError("npdp grade: -o is for the file to begin with, which needs no solution")
    missing = [file for file in flags.files if not os.path.isfile(file)]
    if missing:
        raise InputError(f"npdp grade: no file {missing[0]}")
    return _graded(flags, say, width)


def listed() -> str:
    """Return the list of exercises."""
    lines = [f"  {name:<17} {what}" for name, what in EXERCISES.items()]
    return "\n".join(["exercises:", *lines, "", "npdp grade ring prints the task; npdp grade ring yours.py grades."])


def _hand_out(flags: argparse.Namespace, say: Callable[[str], None]) -> None:
    text = (STARTERS / f"{flags.exercise}.txt").read_text(encoding="utf-8")
    if flags.output is None:
        say(text.rstrip())
        return
    if os.path.exists(flags.output):
        raise InputError(f"--output: {flags.output} is there already, and is not overwritten")
    require_writable("--output", flags.output)
    with whole_file(flags.output) as file:
        file.write(text.encode())
    say(f"{flags.output}: the task is in its first lines; then npdp grade {flags.exercise} {flags.output}")


def _graded(flags: argparse.Namespace, say: Callable[[str], None], width: int) -> int:
    seed = int.from_bytes(os.urandom(4), "big") % SEEDS if flags.seed is None else flags.seed
    reports = []
    for file in flags.files:
        shown = len(flags.files) == 1 and not flags.json
        reports.append(grade(flags.exercise, file, seed, flags.time_limit, shown))
        say(as_json(reports[-1]) if flags.json else as_text(reports[-1], width))
    if len(reports) > 1 and not flags.json:
        say("\n".join(["", *(f"{report.points:>3} of {report.of}   {report.file}" for report in reports)]))
    return 0 if all(report.points == report.of for report in reports) else 1


def as_text(report: Report, width: int) -> str:
    """Return a report for a terminal of this width."""
    lines = [f"{report.exercise}: {report.file}"]
    for result in report.results:
        lines += [f"{result.points:>4} of {result.of}   {result.says}", *_indented(result, width)]
    return "\n".join([*lines, f"{report.points} of {report.of} points (--seed {report.seed}, {report.seconds:.1f} s)"])


def _indented(result: Result, width: int) -> list[str]:
    indent = " " * 12
    sentence, *picture = result.message.splitlines() or [""]
    wrapped = textwrap.wrap(sentence, width or WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [*wrapped, *(indent + line for line in picture)]


def as_json(report: Report) -> str:
    """Return a report as a line of JSON."""
    checks = [{**asdict(result), "points": result.points} for result in report.results]
    return json.dumps({
        "exercise": report.exercise, "file": report.file, "points": report.points, "of": report.of,
        "passed": report.points == report.of, "checks": checks, "seed": report.seed,
        "seconds": round(report.seconds, 3),
    })  # fmt: skip
