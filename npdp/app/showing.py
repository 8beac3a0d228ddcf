"""The command `npdp show`: a schedule step by step, whose contribution is in each chunk, and the verdict on it."""

from __future__ import annotations

import argparse
from json import dumps

from npdp.app.flag_parser import POSITIVE_INT, number
from npdp.app.paths import require_writable
from npdp.app.programs import called, function_of, is_program
from npdp.base.errors import InputError, OutputError
from npdp.base.whole_file import whole_file
from npdp.collectives.algorithms import SCHEDULES, Maker
from npdp.collectives.machine import built_in
from npdp.collectives.picture import WIDTH, show
from npdp.collectives.schedule import Schedule, as_schedule
from npdp.collectives.verify import WrongSchedule, bytes_sent, prove

EXAMPLES = """  npdp show ring --ranks 4
  npdp show tree --ranks 6 --collective broadcast --root 2
  npdp show mine.py:my_ring --ranks 5              your own, proven or refused"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_schedule_flags(parser)
    parser.add_argument("--json", metavar="FILE", help="write its playback: moves, contents, bytes, time of each step")


def add_schedule_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which schedule is meant."""
    parser.add_argument("algorithm", help="ring, tree, halving_doubling or naive, or file.py:function, your own")
    parser.add_argument("--ranks", type=POSITIVE_INT, default=4, metavar="P", help="how many, and as many chunks (4)")
    parser.add_argument("--collective", choices=tuple(SCHEDULES), default="allreduce", help="which (allreduce)")
    parser.add_argument("--root", type=number(int, lambda root: root >= 0, "a rank"), default=0, metavar="R",
                        help="of a broadcast (0)")  # fmt: skip


def shown(
    algorithm: str, collective: str, ranks: int, root: int, width: int, json: str | None = None
) -> tuple[str, bool]:
    """Return the picture of a schedule with the verdict on it, and whether it is right.

    Args:
        json: where its playback is to be written, whole or not at all.

    Raises:
        InputError: there is no such schedule, or it cannot be made.
        OutputError: the file could not be written.
    """
    steps = schedule_of("npdp show", algorithm, collective, ranks, root)
    if json is not None:
        _write(json, steps, collective, ranks, root)
    try:
        prove(steps, collective, ranks, root)
    except WrongSchedule as error:
        return f"{_picture(steps, ranks, width)}WRONG: {error}", False
    most = max(bytes_sent(steps, ranks, 1, ranks)) if ranks > 1 else 0
    said = f"{len(steps)} steps; no rank sends more than {most} chunks, of which a buffer has {ranks}"
    return f"{_picture(steps, ranks, width)}proven: {collective} on {ranks} ranks, {said}", True


def _write(path: str, steps: Schedule, collective: str, ranks: int, root: int) -> None:
    from npdp.collectives.playback import playback

    require_writable("--json", path)
    try:
        text = dumps(playback(steps, collective, ranks, built_in("mpi", ranks), root))
    except ValueError as error:
        raise InputError(f"--json: {error}") from None
    write("--json", path, text)


def write(flag: str, path: str, text: str) -> None:
    """Write a file whole or not at all; OutputError where that fails."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise OutputError(f"{flag}: {path} could not be written: {error.strerror or error}") from None


def _picture(steps: Schedule, ranks: int, width: int) -> str:
    try:
        return f"{show(steps, ranks, width or WIDTH)}\n\n"
    except ValueError:  # a move that names a rank or chunk that there is not: the verdict says which
        return ""


def schedule_of(command: str, algorithm: str, collective: str, ranks: int, root: int) -> Schedule:
    """Return the schedule that a command's flags mean.

    Raises:
        InputError: there is no such schedule, or it cannot be made.
    """
    if root >= ranks:
        raise InputError(f"--root {root}: there are ranks 0 to {ranks - 1}")
    maker: Maker
    if is_program(algorithm):
        maker = function_of(command, algorithm)
    elif algorithm in SCHEDULES[collective]:
        maker = SCHEDULES[collective][algorithm]
    else:
        known = ", ".join([*SCHEDULES[collective], "file.py:function"])
        raise InputError(f"{command}: no schedule {algorithm!r} of {collective}; there are {known}")
    arguments = (ranks, root) if collective == "broadcast" else (ranks,)
    made: Schedule = called(command, algorithm, lambda: as_schedule(maker(*arguments)))
    return made
