"""Benchmark inputs that depend on rank and position, and whose results are known to the last bit.

Each rank has a pattern of its own that is repeated along its buffer, so a buffer of any size is filled and checked at
memory's speed, and nothing of its size is kept beside it. The values are small whole numbers, in float types too:
sums are exact in any order, and one wrong element is found by equality.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PERIOD = 8191  # elements; a prime, so no chunk of a usual size begins where the pattern does
LARGEST = 5
BLANK = 99  # what no input and no result has: stands where a collective has to write
FOLDS = {"sum": np.add, "mean": np.add, "min": np.minimum, "max": np.maximum, "prod": np.multiply}


def inputs(rank: int, world_size: int, op: str, dtype: np.dtype[Any]) -> Array:
    """Return a rank's pattern, (PERIOD,).

    For a mean they are multiples of the number of ranks; for a product 1, 2, -1 or -2.
    """
    generator = np.random.default_rng(rank)
    if op == "prod":
        return generator.choice([1, 2, -1, -2], PERIOD).astype(dtype)
    values = generator.integers(-LARGEST, LARGEST + 1, PERIOD)
    return (values * (world_size if op == "mean" else 1)).astype(dtype)


def reduced(world_size: int, op: str, dtype: np.dtype[Any]) -> Array:
    """Return the pattern, (PERIOD,), that a reduction of all ranks' inputs leaves."""
    total = inputs(0, world_size, op, dtype)
    for rank in range(1, world_size):
        total = FOLDS[op](total, inputs(rank, world_size, op, dtype))
    return total / total.dtype.type(world_size) if op == "mean" else total


def exact_calls(world_size: int, op: str, dtype: np.dtype[Any], most: int) -> int:
    """Return how many all-reduces in a row of one buffer, `most` at most, have results that are known exactly.

    The second sum is the first times world_size, and so on, until the type has no more digits.
    """
    if op == "prod":
        return 1
    if op != "sum" or world_size == 1:
        return most
    digits = np.finfo(dtype).nmant + 1 if dtype.kind == "f" else np.iinfo(dtype).bits - 1
    left = digits - math.log2(LARGEST * world_size)
    return max(1, min(most, 1 + int(left / math.log2(world_size))))


def fill(buffer: Array, pattern: Array, start: int = 0) -> None:
    """Repeat a pattern along a 1-D buffer, in place.

    Args:
        buffer: elements start, start + 1, ... of the whole.
        pattern: (PERIOD,).
        start: where in the whole the buffer begins.
    """
    turned = np.roll(pattern, -start)
    rows, rest = _rows(buffer)
    rows[:] = turned
    rest[:] = turned[: rest.size]


def count_wrong(buffer: Array, pattern: Array, start: int = 0) -> int:
    """Return how many elements differ from what `fill` would write."""
    turned = np.roll(pattern, -start)
    rows, rest = _rows(buffer)
    return int(np.count_nonzero(rows != turned) + np.count_nonzero(rest != turned[: rest.size]))


def _rows(buffer: Array) -> tuple[Array, Array]:
    """Return the whole periods of a buffer, (periods, PERIOD), and the rest; views."""
    whole = buffer.size // PERIOD * PERIOD
    return buffer[:whole].reshape(-1, PERIOD), buffer[whole:]
