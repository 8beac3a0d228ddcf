"""Compares an array that a student's program returned with the one that is right, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdp.grading.process import SolutionError

LONGEST = 240  # characters of an example in a sentence


def told(what: str, got: Any, wanted: np.ndarray, tolerance: float = 0.0) -> None:
    """Raise SolutionError unless two arrays agree: what was called, what came, what was wanted, the first that differs.

    Args:
        what: begins the sentence: `rank 2 returns`, say.
        tolerance: of each number, relative to the largest; 0 means the same bits.
    """
    if len(what) > LONGEST:
        what = f"{what[: LONGEST // 2]} ... {what[-LONGEST // 2 :]}"
    if not isinstance(got, np.ndarray):
        raise SolutionError(f"{what} {got!r}, wanted an array")
    if got.shape != wanted.shape:
        raise SolutionError(f"{what} an array of shape {got.shape}, wanted {wanted.shape}")
    scale = float(np.abs(wanted).max(initial=0.0))
    wrong = ~(np.abs(got - wanted) <= tolerance * scale)
    if wrong.any():
        first = tuple(int(index) for index in np.argwhere(wrong)[0])
        at = f" at {first[0] if len(first) == 1 else first}" if wanted.size > 1 else ""
        raise SolutionError(f"{what} {got[first]!s}{at}, wanted {wanted[first]!s}")
