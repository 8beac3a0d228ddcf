"""Intervals of training, as flags give them: so many iterations, or a time."""

from __future__ import annotations

import argparse
import contextlib
import re
from typing import NamedTuple

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Interval(NamedTuple):
    """Interval of iterations, or of seconds; the other is None."""

    iterations: int | None
    seconds: float | None

    def is_over(self, iteration: int, passed_s: float) -> bool:
        """Return whether an interval ends after this iteration, so many seconds after the last one ended."""
        return passed_s >= self.seconds if self.seconds is not None else iteration % (self.iterations or 1) == 0


def interval(text: str) -> Interval:
    """Return the interval that 500, 90s, 10min or 2h stands for; an argparse type."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text)
    number, unit = match.groups() if match else ("0", None)
    if float(number) <= 0 or (unit is None and "." in number):
        raise argparse.ArgumentTypeError(f"wanted iterations, or a time as 90s, 10min or 2h, above 0, got {text!r}")
    return Interval(int(number), None) if unit is None else Interval(None, float(number) * UNITS_S[unit])


def seconds(text: str) -> float:
    """Return the seconds that 90s, 10min or 2h stands for; an argparse type."""
    found = None
    with contextlib.suppress(argparse.ArgumentTypeError):
        found = interval(text).seconds
    if found is None:
        raise argparse.ArgumentTypeError(f"wanted a time as 90s, 10min or 2h, above 0, got {text!r}")
    return found
