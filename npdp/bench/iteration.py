"""Benchmark of a training iteration, `npdp bench iteration`: each model under DataParallel, on the ranks at hand."""

from __future__ import annotations

import os
from typing import Any

from npdp import __version__, kernels, manual_seed
from npdp.app.algorithm_flag import usable
from npdp.base import environment
from npdp.base.errors import OutputError
from npdp.bench.flags import IterationConfig
from npdp.bench.models import MODELS, iteration
from npdp.bench.timing import Contender, Timing, time_in_turn
from npdp.collectives.communicator import Communicator
from npdp.parallel.agreement import agree, require_equal
from npdp.parallel.fused import require_reduce_scatter
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import init
from npdp.report.console import Console
from npdp.report.machine import keep
from npdp.report.results import write_results
from npdp.report.table import Column, header, line

MOST_CALLS = 1000
WARM_UP_STEPS = 3
UPDATES = ("", "replicated", "fused")  # the first: without other ranks

COLUMNS = (
    Column("model", "model", 8, side="<"),
    Column("update", "update", 11, side="<"),
    Column("local_batch_size", "batch a rank", 12),
    Column("time_us", "time (us)", 11, ".1f"),
    Column("samples_per_s", "samples/s", 13, ",.0f"),
)


def measure(config: IterationConfig, command: str) -> int:
    """Print the table, and write it where that is wanted; collective. Returns the exit code.

    Raises:
        InputError: an algorithm that this world cannot use.
        OutputError: the file, or standard output, that could not be written.
    """
    world = init()
    world.algorithm = agree(world, lambda: usable(world, "allreduce", config.algorithm))
    console = Console(world.rank == 0)
    console.say(_banner(world, config))
    console.say(header(COLUMNS))
    rows = []
    for name in config.models:
        console.live(f"{name} ...")
        for row in _rows(world, name, config.rounds):
            console.say(line(COLUMNS, row))
            rows.append(row)
    files = (("--json", config.json, lambda: _keep(config, world, command, rows)),)
    agree(world, lambda: write_results(console, files) if world.rank == 0 else None, OutputError)
    return 0


def _keep(config: IterationConfig, world: Communicator, command: str, rows: list[dict[str, Any]]) -> None:
    assert config.json is not None
    keep(
        config.json, command, benchmark="iteration", world_size=world.world_size, transport=world.transport.name,
        algorithm=config.algorithm, backend=kernels.backend(), blas_threads=environment.blas_threads_in_use(),
        rows=rows,
    )  # fmt: skip


def _rows(world: Communicator, name: str, rounds: int) -> list[dict[str, Any]]:
    """Time a model, replicated and fused in turn, beside the same step without other ranks; collective.

    Raises:
        RuntimeError: the ranks do not have the same parameters afterwards.
    """
    models, contenders = {}, []
    for update in _updates(world):
        manual_seed(0)
        models[update], step = iteration(name, update or None)
        for _ in range(WARM_UP_STEPS):
            step()
        contenders.append(Contender(name, lambda: None, step, step, lambda calls: 0, MOST_CALLS))
    timings = time_in_turn(world, contenders, rounds)
    for update, model in models.items():
        sha256 = parameters_sha256(model.named_parameters())
        require_equal(world, f"{name}'s parameters, {update}", [sha256], RuntimeError)
    return [_row(world, name, update, timing) for update, timing in zip(models, timings)]


def _updates(world: Communicator) -> tuple[str, ...]:
    """Return the ways to update: not fused where the algorithm has no reduce-scatter."""
    try:
        require_reduce_scatter(world.algorithm)
    except ValueError:
        return UPDATES[:-1]
    return UPDATES


def _row(world: Communicator, name: str, update: str, timing: Timing) -> dict[str, Any]:
    batch_size = MODELS[name][1]
    return {
        "model": name,
        "update": update or "alone",
        "local_batch_size": batch_size,
        "time_us": timing.median_s * 1e6,
        "samples_per_s": (world.world_size if update else 1) * batch_size / timing.median_s,
        "calls": timing.calls,
        "rounds_us": [seconds * 1e6 for seconds in timing.rounds_s],
    }


def _banner(world: Communicator, config: IterationConfig) -> str:
    threads = environment.blas_threads_in_use()
    return (
        f"npdp {__version__}: a training iteration: forward, loss, backward, exchange, update; float32\n"
        f"  ranks     {world.world_size} on {world.transport.name}, {threads} BLAS thread{'s' * (threads != 1)} each, "
        f"{kernels.backend()} kernels, all-reduce {config.algorithm}\n"
        f"  machine   {environment.processor()}, {os.cpu_count()} cores\n"
        f"  times     the slowest rank's; the median of {config.rounds} rounds or more"
    )
