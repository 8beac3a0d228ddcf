"""Plot of times against bytes, both axes logarithmic. It needs matplotlib, which is an extra: npdp[plot]."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence

from npdp.base.errors import InputError
from npdp.base.whole_file import whole_file
from npdp.report.table import size_text

ENDINGS = (".png", ".svg", ".pdf")

Points = Sequence[tuple[int, float]]  # (bytes, microseconds), ascending


def require_plot(flag: str, path: str) -> None:
    """Raise InputError where a plot cannot be made, or not under that name."""
    if os.path.splitext(path)[1].lower() not in ENDINGS:
        raise InputError(f"{flag}: wanted a file that ends in {', '.join(ENDINGS)}, got {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"{flag}: matplotlib is not installed; pip install 'npdp[plot]' brings it")


def plot_times(path: str, title: str, lines: Mapping[str, Points], references: Mapping[str, Points]) -> None:
    """Write a picture of times against bytes, whole or not at all.

    Args:
        path: where to; its ending says which kind of picture.
        title: what was measured, and on what.
        lines: what was measured, by name.
        references: what to compare with, by name; drawn dashed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for name, points in lines.items():
        axes.plot(*zip(*points), marker="o", markersize=4, label=name)
    for name, points in references.items():
        axes.plot(*zip(*points), linestyle="--", color="black", linewidth=1, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(title=title, xlabel="bytes", ylabel="microseconds")
    axes.xaxis.set_major_formatter(lambda nbytes, _: size_text(int(nbytes)))
    axes.grid(alpha=0.3)
    axes.legend()
    with whole_file(path) as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:].lower(), dpi=150)

