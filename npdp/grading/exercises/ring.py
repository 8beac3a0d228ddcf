"""The ring all-reduce: proven, to the right neighbour only, 2 (P - 1) steps of a chunk, as quick as npdp's."""

from __future__ import annotations

from npdp.grading.exercises.schedules import as_quick, bytes_at_most, proven, schedule, small_and_drawn, steps_at_most
from npdp.grading.grading import Check, Grading
from npdp.grading.process import SolutionError


def neighbours(grading: Grading) -> None:
    """Each rank sends to one neighbour only, all in the same direction."""
    for ranks in small_and_drawn(grading)[2:]:
        steps = schedule(grading, "ring", ranks)
        for direction in (1, -1):
            strays = [(number, move) for number, step in enumerate(steps) for move in step
                      if move.target != (move.source + direction) % ranks]  # fmt: skip
            if not strays:
                break
        else:
            number, move = strays[0]
            raise SolutionError(f"{ranks} ranks, step {number}: {move}; in a ring all send to the same neighbour")


CHECKS = (
    Check("it is an all-reduce, for 1 to 12 ranks and more", 2, proven("ring", small_and_drawn)),
    Check("each rank sends to its neighbour", 4, neighbours, True),
    Check("no rank sends more than 2 (P - 1) chunks", 1, bytes_at_most("ring", small_and_drawn), True),
    Check("in 2 (P - 1) steps", 1,
          steps_at_most("ring", small_and_drawn, lambda ranks: 2 * (ranks - 1), "2 (P - 1)"), True),
    Check("carried out, it is as quick as npdp's", 2, as_quick("ring"), True),
)  # fmt: skip
