"""Accuracy of the cost model (collectives/cost.py): its prices, and its choice, against measured times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from npdp.report.table import size_text

NEAR = 1.15  # a choice is good where it takes at most so many times the best one's time

Row = dict[str, Any]


def accuracy(rows: Sequence[Row], auto: dict[int, str], candidates: Sequence[str]) -> dict[str, Any]:
    """Return how far predictions are off, and, where two candidates or more were measured, how good each choice was.

    Args:
        rows: with bytes, algorithm, time_us and predicted_us.
        auto: what it takes, by bytes.
        candidates: among which it chooses.
    """
    off = [abs(row["predicted_us"] / row["time_us"] - 1) for row in rows if row["predicted_us"] is not None]
    cells = [cell for nbytes, name in auto.items() if (cell := _cell(rows, nbytes, name, candidates))]
    return {"median_off": statistics.median(off) if off else None, "choices": cells}


def _cell(rows: Sequence[Row], nbytes: int, name: str, candidates: Sequence[str]) -> Row | None:
    times = {row["algorithm"]: row["time_us"] for row in rows if row["bytes"] == nbytes}
    own = {each: times[each] for each in candidates if each in times}
    if name not in own or len(own) < 2:
        return None
    best = min(own, key=lambda each: own[each])
    return {"bytes": nbytes, "auto": name, "best": best, "ratio": own[name] / own[best]}


def accuracy_text(found: dict[str, Any]) -> str:
    """Return it in words; empty where there is nothing to say."""
    lines = []
    if found["median_off"] is not None:
        lines.append(f"predictions are off by {found['median_off']:.0%} in the median")
    if cells := found["choices"]:
        good = [cell for cell in cells if cell["ratio"] <= NEAR]
        lines.append(f"auto is within {NEAR - 1:.0%} of the best in {len(good)} of {len(cells)} sizes")
        lines += [
            f"  {size_text(cell['bytes'])}: {cell['auto']} takes {cell['ratio']:.2f} times as long as {cell['best']}"
            for cell in cells
            if cell not in good
        ]
    return "\n".join(lines)
