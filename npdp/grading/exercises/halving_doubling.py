"""An all-reduce in 2 log2 P steps, of which none moves more than is needed; for powers of two."""

from __future__ import annotations

from npdp.grading.exercises.schedules import as_quick, bytes_at_most, powers_of_two, proven, steps_at_most
from npdp.grading.grading import Check

NAME = "halving_doubling"
CHECKS = (
    Check("it is an all-reduce, for 1, 2, 4, ... 64 ranks", 4, proven(NAME, powers_of_two)),
    Check("in 2 log2 P steps", 2,
          steps_at_most(NAME, powers_of_two, lambda ranks: 2 * (ranks.bit_length() - 1), "2 log2 P"), True),
    Check("no rank sends more than 2 (P - 1) chunks", 2, bytes_at_most(NAME, powers_of_two), True),
    Check("carried out, it is as quick as npdp's", 2, as_quick(NAME), True),
)  # fmt: skip
