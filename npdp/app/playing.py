"""The command `npdp play` and `npdp.play`: a page that plays a schedule, and on which it can be broken."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict

from npdp.app.flag_parser import POSITIVE_INT
from npdp.app.paths import require_writable
from npdp.app.showing import add_schedule_flags, schedule_of, write
from npdp.app.stories import data_parallel, parameter_server
from npdp.app.train_flags import staleness_of
from npdp.base.errors import InputError
from npdp.collectives.machine import built_in
from npdp.collectives.playback import playback
from npdp.collectives.schedule import Move, as_schedule
from npdp.report.player import Page, page

MOST_RANKS = 32  # whose chunks can be told apart on a page
WORKERS = 3
EXAMPLES = """  npdp play ring --ranks 5 -o ring.html
  npdp play tree --ranks 6 --collective broadcast --root 2
  npdp play mine.py:my_ring --ranks 5              your own, also a wrong one
  npdp play data-parallel --ranks 3                an iteration of training, in seven steps
  npdp play parameter-server --staleness 2 --workers 3"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_schedule_flags(parser)
    parser.add_argument("--staleness", type=staleness_of, metavar="S", help="of parameter-server: 0, 1, ... or inf (0)")
    parser.add_argument("--workers", type=POSITIVE_INT, metavar="W", help="of parameter-server (3)")
    parser.add_argument("-o", "--output", metavar="FILE", default="play.html", help="where the page goes (play.html)")


def written(
    algorithm: str, collective: str, ranks: int, root: int, staleness: float | None, workers: int | None, output: str
) -> str:
    """Write the page of a schedule or a story; return what to say about it.

    Raises:
        InputError: there is no such schedule, it cannot be made or played, or no file can be there.
        OutputError: the file could not be written.
    """
    if max(ranks, workers or 0) > MOST_RANKS:
        flag = "--ranks" if ranks > MOST_RANKS else "--workers"
        raise InputError(f"{flag} {max(ranks, workers or 0)}: a page plays up to {MOST_RANKS}")
    if algorithm != "parameter-server" and (staleness, workers) != (None, None):
        raise InputError(f"--staleness and --workers are for parameter-server, not for {algorithm}")
    require_writable("--output", output)
    write("--output", output, _page(algorithm, collective, ranks, root, staleness or 0, workers or WORKERS))
    return f"{output}: open it in a browser"


def _page(algorithm: str, collective: str, ranks: int, root: int, staleness: float, workers: int) -> Page:
    if algorithm == "data-parallel":
        return page(f"Data parallel training on {ranks} ranks", data_parallel(ranks))
    if algorithm == "parameter-server":
        return page(f"A parameter server and {workers} workers", parameter_server(workers, staleness))
    steps = schedule_of("npdp play", algorithm, collective, ranks, root)
    try:
        return play(steps, collective, ranks, root, algorithm.rpartition(":")[2])
    except ValueError as error:
        raise InputError(f"npdp play: {error}") from None


def play(
    schedule: str | Iterable[Iterable[Move]],
    collective: str = "allreduce",
    ranks: int | None = None,
    root: int = 0,
    name: str = "a schedule",
) -> Page:
    """Return a page that plays a schedule, also a wrong one; as a notebook cell's last line it shows itself.

    Args:
        schedule: the steps, over all ranks; or an algorithm's name, or file.py:function.
        collective: allreduce, reduce_scatter, allgather or broadcast.
        ranks: how many, and as many chunks; where None, of steps one more than the highest rank named, of a name 4.
        root: of a broadcast.
        name: for the heading.

    Raises:
        ValueError: there is no such collective, or a move names a rank or chunk that there is not.
        TypeError: this is no schedule.
        InputError: there is none of that name, or it cannot be made.
    """
    if isinstance(schedule, str):
        return _page(schedule, collective, ranks or 4, root, 0, WORKERS)
    steps = as_schedule(schedule)
    ranks = ranks or 1 + max((max(move.source, move.target) for step in steps for move in step), default=0)
    machine = built_in("mpi", ranks)
    found = playback(steps, collective, ranks, machine, root)
    return page(f"{name}: {collective} on {ranks} ranks", {**found, "machine": asdict(machine)})
