"""Runs `npdp bench` by its flags, on the ranks that measure."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from npdp.app import on_ranks
from npdp.base import environment
from npdp.bench import flags
from npdp.bench.flags import CalibrateConfig, CollectiveConfig, IterationConfig
from npdp.report.machine import STARTED_BY, command_line

Config = CollectiveConfig | IterationConfig | CalibrateConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `npdp.bench` on this rank.

    Returns:
        The exit code: 0; 1 where a result was wrong or could not be written; 2 where flags cannot be used.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return on_ranks.main(
        lambda: flags.parse(given), lambda config: measure(config, given), lambda config: f"npdp bench {config.what}"
    )


def measure(config: Config, arguments: Sequence[str]) -> int:
    """Measure on this rank of the world that there is; collective. Returns the exit code, the same on all ranks."""
    from npdp.bench import calibrate, collectives, iteration

    command = _command(config, arguments)
    if isinstance(config, CalibrateConfig):
        return calibrate.measure(config, command)
    calibrate.have_constants(config.calibrate)
    if isinstance(config, CollectiveConfig):
        return collectives.measure(config, command)
    return iteration.measure(config, command)


def _command(config: Config, arguments: Sequence[str]) -> str:
    """Return what one types to measure the same again."""
    launched = environment.launch()
    program = "npdp bench"
    if STARTED_BY in os.environ:
        program = "python -m npdp.bench"
    elif launched is not None and config.ranks is None:
        program = f"mpirun -n {launched.world_size} python -m npdp.bench"
    return command_line(program, arguments)
