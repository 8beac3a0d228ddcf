"""An all-reduce in 2 log2 P steps of the whole array, for any number of ranks."""

from __future__ import annotations

from npdp.grading.exercises.schedules import as_quick, proven, small_and_drawn, steps_at_most
from npdp.grading.grading import Check


def most(ranks: int) -> int:
    """2 ceil(log2 P)."""
    return 2 * (ranks - 1).bit_length()


CHECKS = (
    Check("it is an all-reduce, for 1 to 12 ranks and more", 5, proven("tree", small_and_drawn)),
    Check("in 2 log2 P steps", 3, steps_at_most("tree", small_and_drawn, most, "2 log2 P, rounded up"), True),
    Check("carried out, it is as quick as npdp's", 2, as_quick("tree"), True),
)
