"""The command `npdp play` and `npdp.play`: a page that plays a schedule, and on which it can be broken."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict

from npdp.app.paths import require_writable
from npdp.app.showing import add_schedule_flags, schedule_of, write
from npdp.base.errors import InputError
from npdp.collectives.machine import built_in
from npdp.collectives.playback import playback
from npdp.collectives.schedule import Move, as_schedule
from npdp.report.player import Page, page

MOST_RANKS = 32  # whose chunks can be told apart on a page
EXAMPLES = """  npdp play ring --ranks 5 -o ring.html
  npdp play tree --ranks 6 --collective broadcast --root 2
  npdp play mine.py:my_ring --ranks 5              your own, also a wrong one"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_schedule_flags(parser)
    parser.add_argument("-o", "--output", metavar="FILE", default="play.html", help="where the page goes (play.html)")


def written(algorithm: str, collective: str, ranks: int, root: int, output: str) -> str:
    """Write the page of a schedule; return what to say about it.

    Raises:
        InputError: there is no such schedule, it cannot be made or played, or no file can be there.
        OutputError: the file could not be written.
    """
    if ranks > MOST_RANKS:
        raise InputError(f"--ranks {ranks}: a page plays up to {MOST_RANKS}; `npdp show` draws more")
    require_writable("--output", output)
    steps = schedule_of("npdp play", algorithm, collective, ranks, root)
    try:
        made = play(steps, collective, ranks, root, algorithm.rpartition(":")[2])
    except ValueError as error:
        raise InputError(f"npdp play: {error}") from None
    write("--output", output, made)
    return f"{output}: open it in a browser"


def play(
    schedule: Iterable[Iterable[Move]],
    collective: str = "allreduce",
    world_size: int | None = None,
    root: int = 0,
    name: str = "a schedule",
) -> Page:
    """Return a page that plays a schedule, also a wrong one; as a notebook cell's last line it shows itself.

    Args:
        schedule: the steps, over all ranks.
        collective: allreduce, reduce_scatter, allgather or broadcast.
        world_size: the number of ranks and chunks; one more than the highest rank that is named where None.
        root: of a broadcast.
        name: for the heading.

    Raises:
        ValueError: there is no such collective, or a move names a rank or chunk that there is not.
        TypeError: this is no schedule.
    """
    steps = as_schedule(schedule)
    ranks = world_size or 1 + max((max(move.source, move.target) for step in steps for move in step), default=0)
    machine = built_in("mpi", ranks)
    found = playback(steps, collective, ranks, machine, root)
    return page(f"{name}: {collective} on {ranks} ranks", {**found, "machine": asdict(machine)})
