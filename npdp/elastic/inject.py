"""Injected faults: `--inject kind@key=value,...`, to see what a strategy makes of them.

    slow@rank=1,factor=4      rank 1 sleeps so that each of its iterations takes 4 times as long
    delay@ms=20               every rank sleeps 20 ms an iteration, as if it computed so long; with rank=1, that one

Nothing here imports NumPy: flags are read first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from npdp.base.errors import InputError


class Fault(NamedTuple):
    """Injected fault: its kind, its rank (None: all), and its other values."""

    kind: str
    rank: int | None
    values: dict[str, float]


# kind -> its keys besides rank, each with its least value; and whether rank must be given
KINDS: dict[str, tuple[dict[str, int], bool]] = {"slow": ({"factor": 1}, True), "delay": ({"ms": 0}, False)}
MOST = "1e6"  # a factor, or milliseconds: beyond it nothing would ever end


def parse(spec: str) -> Fault:
    """Return the fault that a `kind@key=value,...` asks for.

    Raises:
        InputError: what is wrong with it: wanted, got.
    """
    kind, at, rest = spec.partition("@")
    if not at or kind not in KINDS:
        raise InputError(f"--inject: wanted kind@key=value,... with a kind of {', '.join(KINDS)}, got {spec!r}")
    wanted, needs_rank = KINDS[kind]
    given: dict[str, str] = {}
    for pair in rest.split(","):
        key, equals, value = pair.partition("=")
        if not equals or key not in (*wanted, "rank") or key in given:
            keys = ", ".join([*wanted, "rank"])
            raise InputError(f"--inject {kind}: wanted {keys}, each once as key=value, got {pair!r}")
        given[key] = value
    missing = [key for key in (*wanted, *(["rank"] * needs_rank)) if key not in given]
    if missing:
        raise InputError(f"--inject {kind}: {', '.join(missing)} missing in {spec!r}")
    rank = given.pop("rank", None)
    if rank is not None and not rank.isdecimal():
        raise InputError(f"--inject {kind}: wanted a rank, a whole number, got {rank!r}")
    values = {key: _number(kind, key, text, wanted[key]) for key, text in given.items()}
    return Fault(kind, None if rank is None else int(rank), values)


def require_ranks(faults: Sequence[Fault], workers: int) -> None:
    """Raise InputError where a fault is to befall a rank that does not train."""
    for fault in faults:
        if fault.rank is not None and fault.rank >= workers:
            raise InputError(
                f"--inject {fault.kind}: wanted a rank that trains, 0 to {workers - 1}, got {fault.rank}"
            )


def _number(kind: str, key: str, text: str, least: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= float(MOST):  # false for NaN
        raise InputError(f"--inject {kind}: wanted a number from {least} to {MOST} for {key}, got {text!r}")
    return value


class Pace:
    """Slowdown of this rank's iterations."""

    def __init__(self, faults: Sequence[Fault], rank: int) -> None:
        mine = [fault for fault in faults if fault.rank in (None, rank)]
        self._delay_s = sum(fault.values["ms"] for fault in mine if fault.kind == "delay") / 1e3
        self._factor = math.prod(fault.values["factor"] for fault in mine if fault.kind == "slow")

    def hold(self, began_s: float) -> None:
        """Sleep for what an iteration that began at `time.perf_counter()` = `began_s` lacks."""
        if self._delay_s or self._factor != 1:
            took_s = time.perf_counter() - began_s
            time.sleep(self._delay_s * self._factor + took_s * (self._factor - 1))
