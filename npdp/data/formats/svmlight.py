"""svmlight (LIBSVM) text: a label, then the features that are not zero, by number from 1.

    +1 3:0.5 7:-2 # a comment
    -1 1:4

`read` makes a table of it, `read_sparse` compressed rows.
Source: Thorsten Joachims, svm_light, http://svmlight.joachims.org, "How to use"; LIBSVM's README.
Cost: about a microsecond per index:value.
"""

from __future__ import annotations

import re
from array import array
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from npdp.autograd.sparse_rows import SparseRows
from npdp.base.errors import InputError
from npdp.data.formats.raw import Array, Part, RawData, open_text, shown

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
LINE = re.compile(rf"\s*{NUMBER}(?:\s+\d+:{NUMBER})*\s*", re.ASCII)
LABEL = re.compile(NUMBER, re.ASCII)
PAIR = re.compile(rf"\d+:{NUMBER}", re.ASCII)
TOKEN = re.compile(r"\S+", re.ASCII)
WHOLE = re.compile(r"[-+]?\d+", re.ASCII)
DENSE_ELEMENTS_MAX = 2**28  # 2 GB in float64; sparse data beyond it needs `read_sparse`
INDEX_MAX = 2**31 - 1


class _Entries(NamedTuple):
    """Contents of a file, in its own order.

    Attributes:
        labels: (N,) float64.
        starts: (N + 1,) where each sample's entries begin, and where the last one's end.
        indices, features: (entries,) float64, index from 1 and value.
        rows: (entries,) the sample of each.
        lines: (N,) the line of each sample.
        columns: the highest index.
        whole: whether all labels are written as whole numbers.
    """

    labels: Array
    starts: Array
    indices: Array
    features: Array
    rows: Array
    lines: Array
    columns: int
    whole: bool


def read(path: str) -> RawData:
    """Read an svmlight file into a dense table.

    Returns:
        (N, highest index) float64 features and (N,) float64 labels.

    Raises:
        InputError: a token that is no `index:value`, index 0, indices that do not rise, a number that is not finite,
            or a table too large to be dense.
    """
    entries = _read(path)
    count, columns = len(entries.labels), entries.columns
    if count * columns > DENSE_ELEMENTS_MAX:
        line = entries.lines[entries.rows[entries.indices.argmax()]]
        raise InputError(f"{path}, line {line}: index {columns} makes a table of {count} x {columns} numbers, "
                         f"expected at most {DENSE_ELEMENTS_MAX} in all")
    table = np.zeros((count, columns))
    table[entries.rows, entries.indices.astype(np.intp) - 1] = entries.features
    return _raw(path, entries, table)


def read_sparse(path: str) -> RawData:
    """Read an svmlight file into compressed rows: the table is never made.

    Returns:
        (N, highest index) float64 `SparseRows` and (N,) float64 labels.

    Raises:
        InputError: as `read`, but the only limit is an index of 2^31 - 1.
    """
    entries = _read(path)
    if entries.columns > INDEX_MAX:
        line = entries.lines[entries.rows[entries.indices.argmax()]]
        raise InputError(f"{path}, line {line}: expected indices up to {INDEX_MAX}, got {entries.columns}")
    indices = (entries.indices - 1).astype(np.int32)
    shape = (len(entries.labels), entries.columns)
    return _raw(path, entries, SparseRows(entries.starts, indices, entries.features, shape))


def _raw(path: str, entries: _Entries, x: Any) -> RawData:
    place, lines = f"{path}, line ", entries.lines
    return RawData(Part(x, entries.labels, lambda row: f"{place}{lines[row]}"),
                   classes=None if entries.whole else False, signs=set(np.unique(entries.labels)) == {-1.0, 1.0})


def _read(path: str) -> _Entries:
    text, _ = open_text(path, "an svmlight file")
    values, lengths, lines, written_whole = array("d"), array("q"), array("q"), True
    for line_number, line in enumerate(text, start=1):
        body = line.partition("#")[0]
        if not body.strip():
            continue
        if not LINE.fullmatch(body):
            _refuse_line(path, line_number, body)
        tokens = body.replace(":", " ").split()
        values.extend(map(float, tokens))
        lengths.append(len(tokens))
        lines.append(line_number)
        written_whole = written_whole and WHOLE.fullmatch(tokens[0]) is not None
    if not lines:
        raise InputError(f"{path}: expected lines of label and index:value, got blank lines and comments only")
    return _unpacked(path, np.frombuffer(values), np.frombuffer(lengths, np.int64), np.frombuffer(lines, np.int64),
                     written_whole)


def _unpacked(path: str, values: NDArray[np.float64], lengths: NDArray[np.int64], lines: NDArray[np.int64],
              whole: bool) -> _Entries:
    """Unpack rows of (label, index, value, index, value, ...) laid end to end."""
    begins = np.cumsum(lengths) - lengths  # (N,) where each row begins
    labels = values[begins]
    indices, features = np.delete(values, begins).reshape(-1, 2).T  # (entries,) each
    starts = np.concatenate([[0], np.cumsum((lengths - 1) // 2)])  # (N + 1,)
    rows = np.repeat(np.arange(len(lengths)), np.diff(starts))  # (entries,)
    _check(path, labels, indices, features, rows, lines)
    columns = int(indices.max(initial=0))
    if columns == 0:
        raise InputError(f"{path}, line {lines[0]}: expected index:value behind the label, got none in the whole file")
    return _Entries(labels, starts, indices, np.ascontiguousarray(features), rows, lines, columns, whole)


def _check(path: str, labels: Array, indices: Array, features: Array, rows: Array, lines: Array) -> None:
    for numbers, owner in ((labels, np.arange(len(labels))), (features, rows), (indices, rows)):
        for wrong in np.flatnonzero(~np.isfinite(numbers))[:1]:
            raise InputError(f"{path}, line {lines[owner[wrong]]}: expected finite numbers, got {numbers[wrong]}")
    for wrong in np.flatnonzero(indices < 1)[:1]:
        raise InputError(f"{path}, line {lines[rows[wrong]]}: expected indices from 1 up, got index 0")
    falls = (np.diff(indices) <= 0) & (np.diff(rows) == 0)
    for wrong in np.flatnonzero(falls)[:1]:
        raise InputError(f"{path}, line {lines[rows[wrong]]}: expected rising indices, "
                         f"got {indices[wrong + 1]:.0f} after {indices[wrong]:.0f}")


def _refuse_line(path: str, line: int, body: str) -> NoReturn:
    label, *pairs = TOKEN.findall(body)  # not `split`, which takes more for space than LINE does
    if not LABEL.fullmatch(label):
        raise InputError(f"{path}, line {line}: expected a number as label, got {shown(label)}")
    wrong = next(pair for pair in pairs if not PAIR.fullmatch(pair))
    if wrong.startswith("qid:"):
        raise InputError(f"{path}, line {line}: expected index:value, got {shown(wrong)}: "
                         "ranking by query is not supported")
    raise InputError(f"{path}, line {line}: expected index:value with finite numbers, got {shown(wrong)}")
