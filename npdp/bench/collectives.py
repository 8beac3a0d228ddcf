"""Benchmark of a collective, `npdp bench allreduce` and so on: sizes by algorithms, beside MPI and a memory copy."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npdp import __version__
from npdp.app.algorithm_flag import usable
from npdp.base import environment
from npdp.base.errors import OutputError
from npdp.bench.accuracy import accuracy, accuracy_text
from npdp.bench.cases import (
    BUS_FACTORS,
    CASES,
    EXPLAINED,
    MEMORY_COPY,
    MPI_ALLREDUCE,
    SPARE_BYTES,
    Case,
    buffers,
    memory_copy,
    mpi_allreduce,
)
from npdp.bench.flags import REDUCTIONS, CollectiveConfig
from npdp.bench.inputs import Array
from npdp.bench.timing import Timing, time_in_turn
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE, Algorithm, algorithms_of, name_of
from npdp.collectives.auto import candidates, price
from npdp.collectives.communicator import Communicator
from npdp.parallel.agreement import agree
from npdp.parallel.world import init
from npdp.report.console import Console
from npdp.report.machine import keep
from npdp.report.plot import plot_times
from npdp.report.results import write_results
from npdp.report.table import Column, header, line, runs_text, size_text

NATIVE_CALL = "MPI_Iallreduce, polled"  # in a picture

Row = dict[str, Any]
Algorithms = dict[str, Algorithm]  # by what they are called in the table

# A new column is a line here and an entry of `_row`
COLUMNS = (
    Column("bytes", "bytes", 11),
    Column("count", "count", 11),
    Column("algorithm", "algorithm", 16, side="<"),
    Column("time_us", "time (us)", 11, ".2f"),
    Column("predicted_us", "predicted", 11, ".2f"),
    Column("algbw", "algbw GB/s", 10, ".2f"),
    Column("busbw", "busbw GB/s", 10, ".2f"),
    Column("errors", "errors", 6),
)


def measure(config: CollectiveConfig, command: str) -> int:
    """Print the table, and write it where that is wanted; collective.

    Returns:
        The exit code, on all ranks: 1 where a result was wrong.

    Raises:
        InputError: an algorithm that this world cannot use.
        OutputError: a file, or standard output, that could not be written.
    """
    world = init()
    console = Console(world.rank == 0)
    algorithms = agree(world, lambda: _usable(world, config))
    memory = buffers(config.sizes[-1] + SPARE_BYTES, np.dtype(config.dtype), config.buffers == "shared")
    console.say(_banner(world, config, algorithms))
    console.say(header(COLUMNS))
    rows: list[Row] = []
    for nbytes in config.sizes:
        console.live(f"{size_text(nbytes)} ...")
        for row in _at_size(world, config, algorithms, memory, nbytes):
            console.say(line(COLUMNS, row))
            rows.append(row)
    auto = {nbytes: world.chosen(config.what, nbytes, "auto") for nbytes in config.sizes if world.world_size > 1}
    if auto:
        console.say(f"auto takes {runs_text(auto)}")
    if said := accuracy_text(accuracy(rows, auto, _candidates(world, config))):
        console.say(said)
    errors = sum(row["errors"] for row in rows)
    if errors:
        console.say(f"WRONG: {errors} elements are not what they must be; see the column errors")
    files = (
        ("--json", config.json, lambda: _keep(config, world, command, rows, auto)),
        ("--plot", config.plot, lambda: _plot(config, world, rows)),
    )
    agree(world, lambda: write_results(console, files) if world.rank == 0 else None, OutputError)
    return 1 if errors else 0


def _usable(world: Communicator, config: CollectiveConfig) -> Algorithms:
    """Return the algorithms that are wanted, or all of npdp's own that this world can use, by name."""
    if config.algorithms is not None:
        found = [usable(world, config.what, name) for name in config.algorithms]
        return {name_of(algorithm): algorithm for algorithm in found}
    twice = HIERARCHICAL if not world.topology.spans_hosts else None  # on one host it is shared_memory
    return {name: name for name in _own(config) if name != twice and not _why_not(world, config, name)}


def _own(config: CollectiveConfig) -> list[str]:
    return [name for name in algorithms_of(config.what) if name != NATIVE]


def _why_not(world: Communicator, config: CollectiveConfig, algorithm: str) -> str:
    """Return why this world cannot use an algorithm; empty where it can. Collective."""
    try:
        world.chosen(config.what, config.sizes[0], algorithm)
    except ValueError as error:
        return str(error)
    return ""


def _at_size(
    world: Communicator, config: CollectiveConfig, algorithms: Algorithms, memory: Array, nbytes: int
) -> list[Row]:
    """Return the rows of one size: each algorithm, and what stands beside them."""
    count, spare = nbytes // memory.itemsize, SPARE_BYTES // memory.itemsize
    case = Case(memory[0, :count], memory[0, -spare:], memory[1, :count], world.rank, world.world_size, config.op, "")
    contenders = [CASES[config.what](case._replace(algorithm=algorithm)) for algorithm in algorithms.values()]
    if blocking := _mpi_allreduce(world, config):
        contenders.append(mpi_allreduce(case, blocking))
    contenders.append(memory_copy(case))
    timings = time_in_turn(world, contenders, config.rounds)
    return [
        _row(world, config, nbytes, made.name, algorithms.get(made.name, made.name), timing)
        for made, timing in zip(contenders, timings)
    ]


def _mpi_allreduce(
    world: Communicator, config: CollectiveConfig
) -> Callable[[Array, str], Callable[[], object]] | None:
    """Return what makes a call of MPI_Allreduce; None where there is none, or another collective is timed."""
    return getattr(world.transport, "blocking_allreduce", None) if config.what == "allreduce" else None


def _predicted_us(world: Communicator, config: CollectiveConfig, nbytes: int, asked: Algorithm) -> float | None:
    """Return what `auto` believes that it takes; None where it has no opinion."""
    if asked in (MEMORY_COPY, MPI_ALLREDUCE, NATIVE) or world.world_size == 1:
        return None
    algorithm = world.chosen(config.what, nbytes, asked)
    shares_memory, staged = world.memory.host is not None, _buffers(world, config) == "ordinary"
    where = world.topology.hosts, world.chooser.constants.machine, shares_memory
    return 1e6 * price(config.what, algorithm, nbytes, *where, staged)


def _row(
    world: Communicator, config: CollectiveConfig, nbytes: int, name: str, algorithm: Algorithm, timing: Timing
) -> Row:
    algbw = nbytes / timing.median_s / 1e9
    return {
        "bytes": nbytes,
        "count": nbytes // np.dtype(config.dtype).itemsize,
        "algorithm": name,
        "time_us": timing.median_s * 1e6,
        "predicted_us": _predicted_us(world, config, nbytes, algorithm),
        "algbw": algbw,
        "busbw": None if name == MEMORY_COPY else algbw * BUS_FACTORS[config.what](world.world_size),
        "errors": timing.errors,
        "calls": timing.calls,
        "rounds_us": [seconds * 1e6 for seconds in timing.rounds_s],
    }


def _candidates(world: Communicator, config: CollectiveConfig) -> list[str]:
    return candidates(config.what, world.topology.hosts, world.memory.host is not None)


def _banner(world: Communicator, config: CollectiveConfig, algorithms: Iterable[str]) -> str:
    op = f", {config.op}" if config.what in REDUCTIONS else ""
    missing = [name for name in _own(config) if config.algorithms is None and name not in algorithms]
    lines = [
        f"npdp {__version__}: {config.what} of {config.dtype}{op}",
        f"  ranks     {world.world_size} on {world.transport.name}",
        f"  buffers   {_buffers(world, config)}, in place",
        f"  machine   {environment.processor()}, {os.cpu_count()} cores",
        f"  times     of a call from Python, the slowest rank's; the median of {config.rounds} rounds or more",
        *([f"  without   {', '.join(missing)}: not in this world"] if missing else ()),
        *(["  one rank  carries nothing out: these are costs of the call; give --ranks 2"] * (world.world_size == 1)),
        *(f"  {name}: {said}" for name, said in _explained(world, config, algorithms).items()),
    ]
    return "\n".join(lines)


def _explained(world: Communicator, config: CollectiveConfig, algorithms: Iterable[str]) -> dict[str, str]:
    """Return what those in the table are that are not npdp's own."""
    shown = [*algorithms, *([MPI_ALLREDUCE] if _mpi_allreduce(world, config) else ()), MEMORY_COPY]
    return {name: EXPLAINED[name] for name in shown if name in EXPLAINED}


def _buffers(world: Communicator, config: CollectiveConfig) -> str:
    return "shared" if config.buffers == "shared" and world.memory.host is not None else "ordinary"


def _keep(config: CollectiveConfig, world: Communicator, command: str, rows: list[Row], auto: dict[int, str]) -> None:
    assert config.json is not None
    op: Row = {"op": config.op} if config.what in REDUCTIONS else {}
    constants = world.chooser.constants.file and os.path.basename(world.chooser.constants.file)
    explained = _explained(world, config, [row["algorithm"] for row in rows])
    keep(
        config.json, command, benchmark=config.what, world_size=world.world_size, transport=world.transport.name,
        dtype=config.dtype, **op, buffers=_buffers(world, config), auto=auto, constants=constants,
        accuracy=accuracy(rows, auto, _candidates(world, config)), explained=explained, rows=rows,
    )  # fmt: skip


def _plot(config: CollectiveConfig, world: Communicator, rows: list[Row]) -> None:
    assert config.plot is not None
    factor = BUS_FACTORS[config.what](world.world_size)
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        lines[row["algorithm"]].append((row["bytes"], row["time_us"]))
    reference = [(nbytes, time_us * factor) for nbytes, time_us in lines[MEMORY_COPY]]
    title = f"{config.what}, {config.dtype}, {world.world_size} ranks on {world.transport.name}"
    references = {f"{factor:.3g} x bytes at copy speed": reference} if factor else {}
    named = {f"{name} ({NATIVE_CALL})" if name == NATIVE else name: points for name, points in lines.items()}
    plot_times(config.plot, title, named, references)
