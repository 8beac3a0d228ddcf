"""The tables that npdp bench prints, for tests."""

import re
from typing import NamedTuple

from npdp import kernels
from npdp.bench.cases import CASES

THREADS = ("--transport", "threads", "--ranks")
COLLECTIVES = tuple(CASES)
LACKING = [] if kernels.backend() == "c" else ["shared_memory"]  # algorithms that this machine cannot use


class Row(NamedTuple):
    """A row of a table, without what was predicted."""

    nbytes: int
    count: int
    contender: str
    time_us: float
    algbw: float
    busbw: str
    errors: int


def rows_of(out: str) -> list[Row]:
    """Return the rows of the table in what was printed."""
    form = r"\s*(\d+)\s+(\d+)\s+(\w[\w ]*?)\s+([\d.]+)\s+(?:[\d.]+|-)\s+([\d.]+)\s+([\d.]+|-)\s+(\d+)"
    found = [re.fullmatch(form, text) for text in out.splitlines()]
    return [
        Row(int(row[1]), int(row[2]), row[3], float(row[4]), float(row[5]), row[6], int(row[7])) for row in found if row
    ]
