"""How well `auto` chooses: what it takes, and what it predicted, beside all algorithms as they are measured.

    python benchmarks/choice.py                   12 sizes x 2, 3, 4 ranks x one host, two emulated hosts: two minutes
    python benchmarks/choice.py --places one --ranks 2 --collectives allreduce broadcast

Each world is one `npdp bench`, which measures its constants first. A cell is one size: auto's pick against the best of
those that it chooses among (MPI_Allreduce is measured too, and shown). Cells where it is not within 15 % are measured
again, up to twice, and the last time counts. `messages` are the same cells without shared memory, chosen by the same
prices, as where ranks share a host but no memory, and beside it what the table took that `auto` once was.
Two hosts need root (benchmarks/hosts.py).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import flags
import hosts
from machine import RESULTS, clean_environment, keep

from npdp.app import launch
from npdp.app.flag_parser import number
from npdp.base.errors import InputError
from npdp.bench.accuracy import NEAR
from npdp.collectives.algorithms import SCHEDULES

SIZES = "64,256,1K,4K,16K,64K,128K,256K,512K,1M,4M,16M"
PLACES = {"one": "one host", "two": "two hosts"}
TRIES, MOST_RANKS = 3, 64

Cell = dict[str, Any]


def bench(place: str, ranks: int, collective: str, sizes: str, *flags: str) -> dict[str, Any]:
    """Return what `npdp bench` writes, run on so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        program = ["-m", "npdp.bench", collective, "--sizes", sizes, "--json", str(path), *flags]
        if place == "one":
            command, variables = [launch.find_mpirun(), "-n", str(ranks), sys.executable], launch.settings(ranks)
            _run([*command, *program], variables, ranks)
        else:
            with hosts.hosts(2) as names:
                command, variables = hosts.mpirun_command(names, -(-ranks // 2))
                _run([*command, "-n", str(ranks), "python", *program], variables, ranks)
        return json.loads(path.read_text())  # type: ignore[no-any-return]


def _run(command: list[str], variables: dict[str, str], ranks: int) -> None:
    done = subprocess.run(
        command, env={**clean_environment(), **variables}, capture_output=True, text=True, timeout=900,
        preexec_fn=launch.before_mpirun(ranks),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def cells_of(figures: dict[str, Any]) -> list[Cell]:
    """Return the cells of one world, each with all times, in microseconds, but the memory copy's."""
    cells = []
    for nbytes, auto in figures["auto"].items():
        rows = [row for row in figures["rows"] if row["bytes"] == int(nbytes)]
        times = {row["algorithm"]: row["time_us"] for row in rows if row["algorithm"] != "memory copy"}
        predicted = {row["algorithm"]: row["predicted_us"] for row in rows if row["predicted_us"] is not None}
        own = {name: time_us for name, time_us in times.items() if name in predicted}
        ratio = own[auto] / min(own.values())
        cells.append({"bytes": int(nbytes), "auto": auto, "ratio": ratio, "times_us": times, "predicted_us": predicted})
    return cells


def world(place: str, ranks: int, collective: str) -> list[Cell]:
    """Measure one world; cells that are not good again."""
    cells = {cell["bytes"]: cell for cell in cells_of(bench(place, ranks, collective, SIZES, "--calibrate"))}
    for _ in range(TRIES - 1):
        again = [nbytes for nbytes, cell in cells.items() if cell["ratio"] > NEAR]
        if not again:
            break
        for cell in cells_of(bench(place, ranks, collective, ",".join(map(str, again)))):
            before = cells[cell["bytes"]]
            cells[cell["bytes"]] = {**cell, "before": [*before.get("before", ()), before["ratio"]]}
    where = {"place": place, "ranks": ranks, "collective": collective}
    return [{**where, **cell, "messages": _without_shared_memory(cell)} for cell in cells.values()]


def _without_shared_memory(cell: Cell) -> Cell:
    names = [name for name in cell["predicted_us"] if name not in ("shared_memory", "hierarchical")]
    auto = min(sorted(names, key=lambda name: name == "naive"), key=lambda name: cell["predicted_us"][name])
    best = min(cell["times_us"][name] for name in names)
    table = cell["times_us"][_table(names, cell["bytes"])]
    return {"auto": auto, "ratio": cell["times_us"][auto] / best, "table_ratio": table / best}


def _table(names: list[str], nbytes: int) -> str:
    """Return what `auto` took by a table of sizes, read off one machine's figures, before it had prices."""
    if "ring" not in names or ("tree" in names and nbytes <= 8 << 10):
        return "tree"
    return "ring" if nbytes >= 1 << 20 else "halving_doubling"


def summary(cells: list[Cell]) -> dict[str, Any]:
    """Return how many cells are good, and how far predictions are off."""
    ratios = [cell["ratio"] for cell in cells]
    off = [_off(cell, name) for cell in cells for name in cell["predicted_us"]]
    return {
        "cells": len(cells),
        "within_15_percent": sum(ratio <= NEAR for ratio in ratios) / len(cells),
        "at_first": sum(cell.get("before", [cell["ratio"]])[0] <= NEAR for cell in cells) / len(cells),
        "worst": max(ratios),
        "predictions_off_median": statistics.median(off),
        "predictions_of_auto_off_median": statistics.median(_off(cell, cell["auto"]) for cell in cells),
        "messages_within_15_percent": sum(cell["messages"]["ratio"] <= NEAR for cell in cells) / len(cells),
        "table_within_15_percent": sum(cell["messages"]["table_ratio"] <= NEAR for cell in cells) / len(cells),
        "table_worst": max(cell["messages"]["table_ratio"] for cell in cells),
        "messages_worst": max(cell["messages"]["ratio"] for cell in cells),
        "mpi_quicker": sum(
            cell["times_us"].get("MPI_Allreduce", 1e9) < cell["times_us"][cell["auto"]] for cell in cells
        ),
    }


def _off(cell: Cell, name: str) -> float:
    return float(abs(cell["predicted_us"][name] / cell["times_us"][name] - 1))


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["keep"])
    ranks = number(int, lambda value: 2 <= value <= MOST_RANKS, f"2 to {MOST_RANKS} ranks")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES), help="(one two)")
    parser.add_argument("--ranks", nargs="+", type=ranks, default=[2, 3, 4], help="of each world (2 3 4)")
    parser.add_argument("--collectives", nargs="+", choices=SCHEDULES, default=["allreduce"], help="(allreduce)")
    parser.add_argument("--keep", metavar="NAME", help="the same as --output benchmarks/results/NAME.json")
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.output = str(RESULTS / f"{arguments.keep}.json")
    if "two" in arguments.places and (why := hosts.why_not()):
        raise InputError(f"--places two: {why}")
    with tempfile.TemporaryDirectory() as cache:  # the user's constants stay as they are
        os.environ["XDG_CACHE_HOME"] = cache
        cells, by_world = [], {}
        for place in arguments.places:
            for ranks in arguments.ranks:
                for collective in arguments.collectives:
                    found = world(place, ranks, collective)
                    name = f"{PLACES[place]}, {ranks} ranks, {collective}"
                    by_world[name] = summary(found)
                    cells += found
                    print(f"{name}: {_text(by_world[name])}", flush=True)
                    for cell in found:
                        if cell["ratio"] > NEAR:
                            print(f"  {cell['bytes']}: {cell['auto']} {cell['ratio']:.2f}, {cell['times_us']}")
    print(f"all: {_text(summary(cells))}")
    figures = {"all": summary(cells), "worlds": by_world, "cells": cells}
    keep(parser, arguments, "choice", figures)


def _text(found: dict[str, Any]) -> str:
    share, first = found["within_15_percent"], found["at_first"]
    return (
        f"within 15 % in {share:.0%} of {found['cells']} cells ({first:.0%} at first), at worst {found['worst']:.2f}; "
        f"predictions off by {found['predictions_off_median']:.0%}, of auto's pick by "
        f"{found['predictions_of_auto_off_median']:.0%}; messages only: {found['messages_within_15_percent']:.0%}, at "
        f"worst {found['messages_worst']:.2f}, by the former table {found['table_within_15_percent']:.0%}, "
        f"{found['table_worst']:.2f}; MPI_Allreduce quicker in {found['mpi_quicker']}"
    )


if __name__ == "__main__":
    flags.run(main)
