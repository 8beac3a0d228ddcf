"""Pictures of schedules in text: the moves of each step, and whose contribution is in each chunk before and after it.

    step 0   0 +> 1  chunk 1   1 +> 0  chunk 0
               chunk 0   chunk 1
      rank 0   0 1       0
      rank 1   1         0 1

`+>` is a move whose receiver adds, `->` one whose receiver replaces.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from npdp.collectives.contents import State, require_among, run, text
from npdp.collectives.schedule import Move, Step, as_schedule

WIDTH = 78


class Picture(str):
    """Picture in text, which shows itself at a prompt and in a notebook."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f'<pre style="line-height: 1.2">{html.escape(self)}</pre>'


def before_and_after(states: Sequence[State], step: int, places: Iterable[tuple[int, int]]) -> str:
    """Return whose contributions are in chunks, places (rank, chunk), before a step and, where known, after it."""
    rows, shown = [["", f"before step {step}", "after it"][: 1 + len(states[step:])]], states[step : step + 2]
    for rank, chunk in places:
        rows.append([f"rank {rank}, chunk {chunk}", *(text(state[rank][chunk]) for state in shown)])
    return "\n".join(f"    {line}" for line in _columns(rows))


def show(schedule: Iterable[Iterable[Move]], world_size: int | None = None, width: int = WIDTH) -> Picture:
    """Return a picture of a schedule: each step's moves, and whose contribution is in each chunk after it.

    Args:
        schedule: the steps, over all ranks; also a wrong one.
        world_size: the number of ranks and chunks; one more than the highest rank that is named where None.
        width: in characters; what is wider is broken into several rows of columns.

    Raises:
        TypeError: this is no schedule.
        ValueError: a move names a rank or chunk that there is not.
    """
    steps = as_schedule(schedule)
    moves = [move for step in steps for move in step]
    if world_size is None:
        world_size = 1 + max((max(*move[:2], move.stop - 1) for move in moves), default=0)
    require_among("show", steps, world_size)
    states = run(steps, world_size)
    lines = ["at the beginning", *_contents(states[0], world_size, width)]
    for number, step in enumerate(steps):
        lines += ["", *_moves(number, step, width), *_contents(states[number + 1], world_size, width)]
    return Picture("\n".join(line.rstrip() for line in lines))


def _moves(number: int, step: Step, width: int) -> list[str]:
    cells = [f"{move.source} {'+>' if move.accumulate else '->'} {move.target}  {move.chunks}" for move in step]
    heading = f"step {number}   "
    if not cells:
        return [f"{heading}no moves"]
    room = max(map(len, cells)) + 3
    each = max(1, (width - len(heading)) // room)
    rows = ["".join(cell.ljust(room) for cell in cells[at : at + each]) for at in range(0, len(cells), each)]
    return [(heading if row == 0 else " " * len(heading)) + cells_of_row for row, cells_of_row in enumerate(rows)]


def _contents(state: State, world_size: int, width: int) -> list[str]:
    """Return a table of ranks and chunks, broken into several where it is wider."""
    columns = [[f"chunk {chunk}", *(text(chunks[chunk]) for chunks in state)] for chunk in range(world_size)]
    first = ["", *(f"rank {rank}" for rank in range(world_size))]
    lines, at = [], 0
    while at < world_size:
        stop = at + 1
        while stop < world_size and _room([first, *columns[at : stop + 1]]) <= width - 2:
            stop += 1
        lines += [f"  {line}" for line in _columns(list(zip(first, *columns[at:stop])))]
        at = stop
    return lines


def _room(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 3 for column in columns) - 3


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose cells stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
