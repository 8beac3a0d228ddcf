"""Comma-separated numbers, with a header or without; `;` or tab instead of `,` where the first line has more of them.

A first line without any number is a header. One column is the target, the others are features.
Cost: about a microsecond for three fields.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from npdp.data.formats.raw import Array, Part, RawData, open_text, shown
from npdp.errors import InputError

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = ",;\t"


def read(path: str, target: str | None = None, least_columns: int = 2) -> RawData:
    """Read a CSV file.

    Args:
        path: the file, UTF-8.
        target: the target's column: a name from the header, or its number from 1 (from the end: -1, -2, ...);
            default the last.
        least_columns: 1 where features without a target will do: of one column there are 0 features then.

    Returns:
        (N, columns - 1) float64 features and (N,) float64 targets.

    Raises:
        InputError: ragged lines, anything but a finite number in a field, no such column, too few columns.
    """
    text, content = open_text(path, "a CSV file")
    header_bytes = content.find(b"\n") + 1
    delimiter = max(DELIMITERS, key=content[:header_bytes or None].decode().count)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    # float() takes 1_000 for a number; only a file with an underscore below its first line pays for looking.
    number = _strict_float if b"_" in content[header_bytes:] else float
    try:
        return _parse(path, rows, target, number, least_columns)
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: expected comma-separated values: {error}") from None


def _parse(
    path: str, rows: Reader, target: str | None, number: Callable[[str], float], least_columns: int
) -> RawData:
    first = next((row for row in rows if not _blank(row)), None)
    if first is None:
        raise InputError(f"{path}: expected rows of numbers, got blank lines only")
    names = None if any(map(_is_number, first)) else [name.strip() for name in first]
    if not names and "_" in "".join(first):  # of the first line, see `read`
        number = _strict_float
    columns = len(first)
    if columns < least_columns:
        raise InputError(f"{path}, line {rows.line_num}: expected features and a target, got only one column")
    target_column = _target_column(path, target, names, columns)
    values, lines, written_whole = array("d"), array("q"), True
    for row in rows if names else chain([first], rows):
        if _blank(row):
            continue
        if len(row) != columns:
            raise InputError(f"{path}, line {rows.line_num}: expected {columns} columns, got {len(row)}")
        try:
            values.extend(map(number, row))
        except ValueError:
            _refuse_field(path, rows.line_num, row, names, number)
        lines.append(rows.line_num)
        written_whole = written_whole and row[target_column].strip().lstrip("+-").isdigit()
    table = np.frombuffer(values).reshape(-1, columns)  # (N, columns)
    if not len(table):
        raise InputError(f"{path}, line {rows.line_num}: expected rows of numbers below the header, got none")
    _refuse_infinite(path, table, lines, names)
    x, y = np.delete(table, target_column, axis=1), table[:, target_column]
    return RawData(Part(x, y, lambda row: f"{path}, line {lines[row]}"), classes=None if written_whole else False)


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


def _blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _is_number(field: str) -> bool:
    try:
        _strict_float(field)
    except ValueError:
        return False
    return True


def _strict_float(field: str) -> float:
    if "_" in field:
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


def _refuse_infinite(path: str, table: Array, lines: array[int], names: list[str] | None) -> None:
    if isfinite(table.min()) and isfinite(table.max()):
        return
    row, column = np.argwhere(~np.isfinite(table))[0]
    raise InputError(f"{path}, line {lines[row]}, {_column(column, names)}: expected a finite number, "
                     f"got {table[row, column]}")
