"""Reader of comma-separated numbers, with or without a header; `;` or tab for `,` if the first line has more of them.

A first line without any number is a header. One column is the target, the others are features. A first column without a
name whose values are 0, 1, 2, ... is an index, as pandas writes it, and no feature.
Cost: about a microsecond for three fields.
"""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from npdp.base.errors import InputError
from npdp.data.formats.raw import Array, Columns, Part, RawData, open_text, shown

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = ",;\t"
UNNAMED = ("", "Unnamed: 0")  # how pandas heads an index: as it writes it, and as it names it when it reads it again


class _Table(NamedTuple):
    """A file, read.

    Attributes:
        values: (N, columns) float64.
        names: of the columns; None without a header.
        lines: (N,) the line of each row.
        target: the target's column; None where there is none, or it is not known which.
        whole: whether all targets are written as whole numbers.
    """

    path: str
    values: Array
    names: list[str] | None
    lines: array[int]
    target: int | None
    whole: bool


def read(path: str, target: str | None = None, trained: Columns | None = None) -> RawData:
    """Read a CSV file.

    Args:
        path: the file, UTF-8.
        target: the target's column: a name from the header, or its number from 1 (from the end: -1, -2, ...);
            default the last, or that of `trained`.
        trained: the columns that a model was trained on: a file with a header is matched to them by name.

    Returns:
        (N, columns - 1) float64 features and (N,) float64 targets; names of columns where all have one of their own.

    Raises:
        InputError: ragged lines, anything but a finite number in a field, no such column, too few columns, or other
            columns than `trained`.
    """

    def choose(names: list[str] | None, columns: int) -> int:
        return _target_column(path, trained.target if trained and names and target is None else target, names, columns)

    table = _read(path, choose, least_columns=2)
    assert table.target is not None
    columns, notes = _features(table, trained)
    x, y = table.values.take(columns, axis=1), table.values[:, table.target]
    names = table.names or []
    named = Columns(tuple(names[column] for column in columns), names[table.target]) if names else None
    return RawData(
        Part(x, y, lambda row: f"{path}, line {table.lines[row]}"), classes=None if table.whole else False,
        columns=named if len(set(names)) == len(names) else None, notes=notes,
    )  # fmt: skip


def read_features(
    path: str, target: str | None, trained: Columns | None, count: int
) -> tuple[Array, tuple[str, ...]]:
    """Read the features of samples, whose target need not be there.

    Args:
        path, trained: as in `read`.
        target: a column to ignore; default that of `trained` if it is there, else the last if there is one too many.
        count: how many features are wanted.

    Returns:
        (N, features) float64, `count` of them where names decide; and lines to be said.

    Raises:
        InputError: as `read`.
    """

    def choose(names: list[str] | None, columns: int) -> int | None:
        if target is None and (trained is None or names is None or trained.target not in names):
            return None
        return _target_column(path, trained.target if trained and target is None else target, names, columns)

    table = _read(path, choose, least_columns=1)
    columns, notes = _features(table, trained)
    if target is None and table.target is None and len(columns) == count + 1:
        columns = columns[:-1]
    return table.values.take(columns, axis=1), notes


def _read(path: str, choose: Callable[[list[str] | None, int], int | None], least_columns: int) -> _Table:
    text, content = open_text(path, "a CSV file")
    header_bytes = content.find(b"\n") + 1
    delimiter = max(DELIMITERS, key=content[:header_bytes or None].decode().count)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    rows = _filled(path, reader)
    _, first = next(rows, (0, None))
    if first is None:
        raise InputError(f"{path}: expected rows of numbers, got blank lines only")
    names = None if any(map(_is_number, first)) else [name.strip() for name in first]
    # float() takes 1_000 and digits of all scripts; only a file with such bytes in its numbers pays for looking.
    numbers = content[header_bytes:] if names else content
    number: Callable[[str], float] = float if numbers.isascii() and b"_" not in numbers else _strict_float
    if len(first) < least_columns:
        raise InputError(f"{path}, line {reader.line_num}: expected features and a target, got only one column")
    target = choose(names, len(first))
    values, lines, whole = array("d"), array("q"), True
    for line, row in rows if names else chain([(reader.line_num, first)], rows):
        if len(row) != len(first):
            raise InputError(f"{path}, line {line}: expected {len(first)} columns, got {len(row)}")
        try:
            values.extend(map(number, row))
        except ValueError:
            _refuse_field(path, line, row, names, number)
        lines.append(line)
        whole = whole and target is not None and row[target].strip().lstrip("+-").isdigit()
    table = _Table(path, np.frombuffer(values).reshape(-1, len(first)), names, lines, target, whole)
    if not lines:
        raise InputError(f"{path}, line {reader.line_num}: expected rows of numbers below the header, got none")
    _refuse_infinite(table)
    return table


def _filled(path: str, reader: Reader) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its last line."""
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: expected comma-separated values: {error}") from None


def _features(table: _Table, trained: Columns | None) -> tuple[list[int], tuple[str, ...]]:
    """Return which columns are features, in the order of training, and a line on one that is none."""
    names = table.names
    columns = [column for column in range(table.values.shape[1]) if column != table.target]
    wanted = trained.features if trained and names else None
    notes: tuple[str, ...] = ()
    if names and names[0] in UNNAMED and 0 in columns:
        counts = np.array_equal(table.values[:, 0], np.arange(len(table.lines)))
        if counts if wanted is None else names[0] not in wanted:
            columns.remove(0)
            notes = (f"{table.path}: the first column, which has no name, is taken for an index and left out",)
    if names and trained and wanted is not None:
        columns = [column for column in columns if names[column] != trained.target]
        _require_names(table.path, [names[column] for column in columns], wanted)
        columns = [names.index(name) for name in wanted]
    return columns, notes


def _require_names(path: str, names: list[str], wanted: tuple[str, ...]) -> None:
    """Raise InputError where columns are missing, not known, or there twice."""
    found, known = Counter(names), set(wanted)
    missing = [name for name in wanted if not found[name]]
    others = [name for name in found if name not in known or found[name] > 1]
    faults = {"no column": missing, "a column too much:": others}
    if missing or others:
        got = "; ".join(f"{what} {', '.join(map(shown, which))}" for what, which in faults.items() if which)
        raise InputError(f"{path}: expected the columns that the model was trained on, got {got}")


def _target_column(path: str, target: str | None, names: list[str] | None, columns: int) -> int:
    if target is None:
        return columns - 1
    if names and target in names:
        if names.count(target) > 1:
            raise InputError(f"{path}, line 1: expected one target column {shown(target)}, got {names.count(target)}")
        return names.index(target)
    try:
        number = int(target)
    except ValueError:
        has = f"the header has {', '.join(map(shown, names))}" if names else "the file has no header"
        raise InputError(f"{path}: no target column {shown(target)}: {has}") from None
    if not 1 <= abs(number) <= columns:
        raise InputError(f"{path}: no target column {number}: expected 1 to {columns}, or -1 to {-columns} "
                         "from the end")
    return number - 1 if number > 0 else columns + number


def _is_number(field: str) -> bool:
    try:
        _strict_float(field)
    except ValueError:
        return False
    return True


def _strict_float(field: str) -> float:
    if "_" in field or not field.strip().isascii():
        raise ValueError(field)
    return float(field)


def _column(column: int, names: list[str] | None) -> str:
    return f"column {column + 1}" + (f" ({shown(names[column])})" if names else "")


def _refuse_field(path: str, line: int, row: list[str], names: list[str] | None,
                  number: Callable[[str], float]) -> NoReturn:
    for column, field in enumerate(row):
        try:
            number(field)
        except ValueError:
            got = shown(field) if field.strip() else "an empty field"
            raise InputError(f"{path}, line {line}, {_column(column, names)}: expected a number, got {got}") from None
    raise AssertionError("a field was refused, then accepted")


def _refuse_infinite(table: _Table) -> None:
    values = table.values
    if isfinite(values.min()) and isfinite(values.max()):
        return
    row, column = np.argwhere(~np.isfinite(values))[0]
    raise InputError(f"{table.path}, line {table.lines[row]}, {_column(column, table.names)}: expected a finite "
                     f"number, got {values[row, column]}")
