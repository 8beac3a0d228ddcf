"""Parser of sizes: 64, 1K, 1K:64M, 1K,256K,1M. K, M and G are powers of 1024."""

from __future__ import annotations

import re

from npdp.base.errors import InputError
from npdp.report.table import UNITS

SIZE = re.compile(r"([0-9]{1,12})([KMG]?)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return a number of bytes, at least 1.

    Raises:
        InputError: the text is no size.
    """
    found = SIZE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise InputError(f"--sizes: wanted bytes such as 64, 1K, 1K:64M or 1K,256K,1M, got {text!r}")
    return int(found[1]) * UNITS[found[2].upper()]


def parse_sizes(text: str, factor: int) -> tuple[int, ...]:
    """Return all sizes of a list of sizes and ranges, ascending, each once.

    Args:
        text: sizes and ranges FIRST:LAST, between commas.
        factor: from one size of a range to the next; LAST is the largest that may come.

    Raises:
        InputError: a size that is none, or a range that goes down.
    """
    sizes: set[int] = set()
    for item in text.split(","):
        first, colon, last = item.partition(":")
        size, limit = parse_size(first), parse_size(last if colon else first)
        if size > limit:
            raise InputError(f"--sizes: wanted a range that goes up, got {item!r}")
        while size <= limit:
            sizes.add(size)
            size *= factor
    return tuple(sorted(sizes))

