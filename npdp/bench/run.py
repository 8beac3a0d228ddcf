"""From the flags of `npdp bench` to the ranks that measure."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from npdp import environment
from npdp.bench import flags
from npdp.bench.flags import CalibrateConfig, CollectiveConfig, IterationConfig
from npdp.errors import InputError
from npdp.report.console import refuse

if TYPE_CHECKING:
    from npdp.parallel.world import World

Config = CollectiveConfig | IterationConfig | CalibrateConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `npdp.bench` on this rank.

    Returns:
        The exit code: 0; 1 where a result was wrong; 2 where flags cannot be used.
    """
    launched = environment.launch()
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        if launched is None or launched.rank == 0:
            refuse(str(error))
        return 2


def run(arguments: Sequence[str]) -> int:
    """Measure as the flags say; collective where a launcher has started several ranks.

    Raises:
        InputError: flags that cannot be used; on all ranks alike, before any of them measures.
    """
    config, fault = _parsed(arguments)
    launched = environment.launch()
    if launched is not None and launched.rank != 0:
        warnings.filterwarnings("ignore", module="npdp")  # rank 0 says it for all
    if config is not None and config.transport == "threads":
        environment.set_blas_threads(config.ranks or 1)  # NumPy is not loaded yet
        from npdp.parallel.world import run_ranks

        return run_ranks(config.ranks or 1, measure, config, arguments)[0]
    if launched is None and fault:
        raise InputError(fault)
    from npdp.parallel.agreement import agree
    from npdp.parallel.world import init

    world = init()
    agree(world, lambda: _refuse_if(fault or _wrong_ranks(config, world)))
    assert config is not None
    return measure(config, arguments)


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


def _parsed(arguments: Sequence[str]) -> tuple[Config | None, str | None]:
    try:
        return flags.parse(arguments), None
    except InputError as error:
        return None, str(error)


def _refuse_if(fault: str | None) -> None:
    if fault:
        raise InputError(fault)


def _wrong_ranks(config: Config | None, world: World) -> str | None:
    if config is None or config.ranks in (None, world.world_size):
        return None
    return (
        f"--ranks {config.ranks}, but this is a world of {world.world_size}: ranks are started by "
        f"`npdp bench {config.what} --ranks {config.ranks}` or `mpirun -n {config.ranks}`; or use --transport threads"
    )


def _command(config: Config, arguments: Sequence[str]) -> str:
    """Return what one types to measure the same again."""
    launched = environment.launch()
    if launched is not None and config.ranks is None:
        return f"mpirun -n {launched.world_size} python -m npdp.bench {shlex.join(arguments)}"
    return f"npdp bench {shlex.join(arguments)}"
