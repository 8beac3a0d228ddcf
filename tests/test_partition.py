"""The partition law: parts differ by at most one, longer ones first, and together they are the whole."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npdp.base.partition import bounds, part, rounded_up

counts = st.integers(0, 1000)
many = st.integers(1, 80)


@given(counts, many)
def test_parts_follow_each_other_and_cover_all(count, parts):
    pieces = [part(count, parts, index) for index in range(parts)]
    assert pieces[0][0] == 0 and pieces[-1][1] == count
    assert all(stop == start for (_, stop), (start, _) in pairwise(pieces))


@given(counts, many)
def test_sizes_differ_by_at_most_one_and_the_longer_come_first(count, parts):
    sizes = [stop - start for start, stop in (part(count, parts, index) for index in range(parts))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert sizes.count(count // parts + 1) == count % parts


@given(counts, many)
def test_bounds_are_where_the_parts_meet(count, parts):
    cuts = bounds(count, parts)
    assert [(cuts[i], cuts[i + 1]) for i in range(parts)] == [part(count, parts, i) for i in range(parts)]


@pytest.mark.parametrize(
    ("count", "parts", "cuts"),
    [
        (10, 4, [0, 3, 6, 8, 10]),
        (0, 3, [0, 0, 0, 0]),
        (1, 3, [0, 1, 1, 1]),
        (3, 4, [0, 1, 2, 3, 3]),
        (5, 1, [0, 5]),
    ],
)
def test_cuts_are_those_made_by_hand(count, parts, cuts):
    assert bounds(count, parts) == cuts


def test_counts_beyond_32_bits_are_cut_exactly():
    assert bounds(2**40 + 1, 3) == [0, 366503875926, 733007751852, 1099511627777]


@given(counts, many)
def test_rounded_up_is_the_least_multiple_that_is_not_below(count, unit):
    rounded = rounded_up(count, unit)
    assert rounded % unit == 0 and count <= rounded < count + unit
