"""The partition law: how a count is cut into one part per rank.

The first `count % parts` parts are one longer than the others. Both halves of npdp cut by this law,
chunks of a buffer and samples of a global batch, so it lives below both and imports nothing.

    count 10 over 4 parts:   0 1 2 | 3 4 5 | 6 7 | 8 9

What is cut into whole lines or pages is rounded up to these before.
"""


def part(count: int, parts: int, index: int) -> tuple[int, int]:
    """Return [start, stop) of part `index` when `count` elements are cut into `parts`."""
    size, longer = divmod(count, parts)
    start = index * size + min(index, longer)
    return start, start + size + (index < longer)


def bounds(count: int, parts: int) -> list[int]:
    """Return the parts + 1 places at which `count` elements are cut: part i is [bounds[i], bounds[i + 1])."""
    return [part(count, parts, index)[0] for index in range(parts)] + [count]


def rounded_up(count: int, unit: int) -> int:
    """Return the least multiple of `unit` that is not below `count`."""
    return -(-count // unit) * unit
