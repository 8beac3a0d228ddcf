"""The command `npdp calibrate`: measures and shows the constants by which `auto` chooses."""

from __future__ import annotations

import time
from dataclasses import asdict

from npdp import __version__
from npdp.base.errors import OutputError
from npdp.bench.flags import CalibrateConfig
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.communicator import Communicator
from npdp.collectives.constants import key
from npdp.collectives.machine import Kernel, Link, Rate
from npdp.parallel.agreement import agree
from npdp.parallel.calibrate import calibrate
from npdp.parallel.world import init
from npdp.report.console import Console
from npdp.report.machine import keep
from npdp.report.results import write_results
from npdp.report.table import runs_text, size_text

SIZES = tuple(1 << power for power in range(3, 27))


def measure(config: CalibrateConfig, command: str) -> int:
    """Measure the constants, or only show what there is; collective. Returns the exit code.

    Raises:
        OutputError: the file, or standard output, that could not be written.
    """
    world = init()
    console = Console(world.rank == 0)
    hosts, name = len(set(world.topology.hosts)), world.transport.name
    console.say(f"npdp {__version__}: what collectives cost, on {world.world_size} ranks, {name}, "
                f"{hosts} host{'s' * (hosts > 1)}")  # fmt: skip
    if config.show:
        console.say(f"  constants {world.chooser.constants.file or 'built in: nobody has measured yet'}")
    else:
        have_constants(anew=True)
    console.say(_table(world))
    for collective in SCHEDULES:
        auto = {nbytes: world.chosen(collective, nbytes, "auto") for nbytes in SIZES}
        console.say(f"{collective}: auto takes {runs_text(auto)}")
    files = (("--json", config.json, lambda: _keep(config, world, command)),)
    agree(world, lambda: write_results(console, files) if world.rank == 0 else None, OutputError)
    return 0


def _keep(config: CalibrateConfig, world: Communicator, command: str) -> None:
    assert config.json is not None
    key_of_world, machine = key(world.transport, world.topology.hosts), asdict(world.chooser.constants.machine)
    keep(config.json, command, key=key_of_world, constants=machine)


def have_constants(anew: bool) -> None:
    """Measure the constants where that is wanted or there are none, and say so; collective."""
    world = init()
    console = Console(world.rank == 0)
    if world.world_size == 1 or not (anew or world.chooser.constants.file is None):
        return
    start = time.perf_counter()
    console.live("measuring what messages and memory cost ...")
    found = calibrate(world)
    where = f"kept in {found.file}" if found.file else "not kept: no file can be written"
    console.say(f"constants for auto measured in {time.perf_counter() - start:.1f} s, {where}")


def _table(world: Communicator) -> str:
    """Return for people the constants that this world uses."""
    machine, shared = world.chooser.constants.machine, len(set(world.topology.hosts)) < world.world_size
    return "\n".join(
        [
            *(_link("messages inside a host", machine.inside) if shared else ()),
            *(_link("messages between hosts", machine.across) if world.topology.spans_hosts else ()),
            _line("a collective over messages", machine.call_s),
            _line("an addition", machine.add_s, "gamma", machine.gamma),
            *(_kernel(machine.kernel) if shared and world.memory.host is not None else ()),
        ]
    )


def _link(name: str, link: Link) -> list[str]:
    return [
        _line(name, link.one_way.alpha_s, "beta", link.one_way.beta),
        _line("  one each way at once", link.both_ways.alpha_s, "beta", link.both_ways.beta),
        _line("  each further one", link.further_s),
    ]


def _kernel(kernel: Kernel) -> list[str]:
    return [
        _line("shared memory", kernel.first_s, "direct", kernel.direct),
        _line("  each further post", kernel.post_s, "staged", kernel.staged),
    ]


def _line(name: str, seconds: float, symbol: str = "", rate: Rate | None = None) -> str:
    text = f"  {name:<27}{seconds * 1e6:8.2f} us"
    if rate is not None:
        pairs = [f"{each * 1e9:.3f} at {size_text(nbytes)}" for nbytes, each in zip(rate.nbytes, rate.seconds)]
        text += f"   {symbol} ns/byte: {', '.join(pairs)}"
    return text
