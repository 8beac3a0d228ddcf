"""Tables with columns of fixed widths, whose rows are printed as they are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

UNITS = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "": 1}  # of bytes, as people write them


class Column(NamedTuple):
    """Column of a table.

    Attributes:
        key: where its value is in a row; a value that is missing or None is shown as a dash.
        title: what stands above it.
        width: in characters.
        form: how a value is written, as in `format`.
        side: on which it stands, `>` for right or `<` for left.
    """

    key: str
    title: str
    width: int
    form: str = ""
    side: str = ">"


def header(columns: Sequence[Column]) -> str:
    """Return the line of titles."""
    return _line(columns, [column.title for column in columns])


def line(columns: Sequence[Column], row: Mapping[str, Any]) -> str:
    """Return a row as a line."""
    values = [(row.get(column.key), column.form) for column in columns]
    return _line(columns, ["-" if value is None else format(value, form) for value, form in values])


def _line(columns: Sequence[Column], texts: Sequence[str]) -> str:
    return "  ".join(f"{text:{column.side}{column.width}}" for column, text in zip(columns, texts)).rstrip()


def size_text(nbytes: int) -> str:
    """Return a number of bytes in the largest unit of which it is a whole number: 64K, 1M, 1000."""
    unit = next(unit for unit, size in UNITS.items() if nbytes % size == 0)
    return f"{nbytes // UNITS[unit]}{unit}"


def runs_text(chosen: Mapping[int, str]) -> str:
    """Return what is chosen at which bytes, neighbours that are alike together: tree at 8 to 4K, ring at 8K."""
    runs = [(name, [size_text(nbytes) for nbytes in run]) for name, run in groupby(chosen, chosen.__getitem__)]
    return ", ".join(f"{name} at {sizes[0]}" + f" to {sizes[-1]}" * (len(sizes) > 1) for name, sizes in runs)
