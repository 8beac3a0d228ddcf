"""Runs a command on its ranks: those that a launcher has started, threads, or this process alone.

What one rank cannot use no rank uses: all share the verdict, and leave together with exit code 2 and one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from npdp.app.flag_parser import flag_of
from npdp.base import environment
from npdp.base.errors import DivergedError, InputError, OutputError, StoppedError
from npdp.comm.failures.ending import end_with_launcher
from npdp.report.console import note, refuse

if TYPE_CHECKING:
    from npdp.collectives.communicator import Communicator

# What need not be alike on all ranks: where results go and come from, and what is made to go wrong
OF_ONE_RANK = ("ranks", "quiet", "inject", "metrics", "save", "json", "plot", "record_arrivals", "replay_arrivals")
POSITIONAL = ("what",)  # of npdp bench


class RankFlags(Protocol):
    """The flags that choose the ranks of a command."""

    @property
    def transport(self) -> str: ...

    @property
    def ranks(self) -> int | None: ...


Flags = TypeVar("Flags", bound=RankFlags)


def main(parse: Callable[[], Flags], program: Callable[[Flags], int], command: Callable[[Flags], str]) -> int:
    """Run a program on every rank; return this rank's exit code.

    It is 2 where flags or input cannot be used, 1 where results cannot be written or are no numbers, else what the
    program returns.

    Args:
        parse: returns the flags, or raises InputError.
        program: runs on a rank of the world that there is; collective. Returns the exit code, the same on all ranks.
        command: what starts ranks by itself, for a message: `npdp train`, say.
    """
    launched = environment.launch()
    if launched is not None:
        end_with_launcher()  # before anything is loaded: a launcher may die while its ranks begin
    try:
        code = run(parse, program, command)
        return _agreed(code) if environment.survives_deaths() else code  # else that of a job of which nobody is left
    except (InputError, OutputError, DivergedError) as error:
        if _speaks():
            refuse(str(error))
        return _agreed(2 if isinstance(error, InputError) else 1)
    except StoppedError as stopped:
        if _speaks():
            note(str(stopped))
        return _agreed(stopped.code)
    except KeyboardInterrupt as error:
        return interrupted(error)
    except Exception as error:
        if place := getattr(error, "npdp_place", ""):  # of a world of threads; else ending.py says it
            refuse(f"rank {error.npdp_rank} failed in {place}")  # type: ignore[attr-defined]
        raise


def _speaks() -> bool:
    """Return whether this rank speaks for all: the first that lives."""
    launched = environment.launch()
    if launched is None:
        return True
    from npdp.parallel.world import rank_if_made

    rank = rank_if_made()
    return (launched.rank if rank is None else rank) == 0


def interrupted(error: KeyboardInterrupt) -> int:
    """Say that Ctrl-C has ended this process and return its exit code; a launcher's rank raises it, to end them all."""
    if environment.launch() is not None:
        raise error
    refuse("ended by SIGINT")
    return 128 + signal.SIGINT


def _agreed(code: int) -> int:
    """Return this rank's exit code: that of all ranks, or 0 where the command that started it can be told by a file."""
    if environment.launch() is not None:  # what a rank starts has the variable too
        with contextlib.suppress(KeyError, OSError):  # nobody waits for one, or this is another host
            with open(os.environ[environment.VERDICT], "w") as file:
                file.write(str(code))
            return 0
    return code


def run(parse: Callable[[], Flags], program: Callable[[Flags], int], command: Callable[[Flags], str]) -> int:
    """Do the same without words.

    Raises:
        InputError: flags or input that cannot be used; on all ranks alike, before any of them begins.
        OutputError: results that could not be written; on all ranks alike.
        DivergedError: training ended without a finite loss; on all ranks alike.
    """
    given = _parsed(parse)
    launched = environment.launch()
    if launched is not None and launched.rank != 0:
        warnings.filterwarnings("ignore", module="npdp")  # rank 0 says it for all
    if not isinstance(given, InputError) and given.transport == "threads":
        environment.set_blas_threads(given.ranks or 1)  # NumPy is not loaded yet
        from npdp.parallel.world import run_ranks

        return run_ranks(given.ranks or 1, program, given)[0]
    if launched is None and isinstance(given, InputError):
        raise given
    from npdp.parallel.agreement import agree, require_equal
    from npdp.parallel.world import init

    world = init()
    flags = agree(world, lambda: _usable(given, world, command))
    require_equal(world, "flags", [_in_words(*flag) for flag in vars(flags).items() if flag[0] not in OF_ONE_RANK])
    return program(flags)


def _parsed(parse: Callable[[], Flags]) -> Flags | InputError:
    try:
        return parse()
    except InputError as error:
        return error


def _usable(given: Flags | InputError, world: Communicator, command: Callable[[Flags], str]) -> Flags:
    """Return flags as they were given, or raise InputError where they are none, or for another number of ranks."""
    if isinstance(given, InputError):
        raise given
    spares = getattr(given, "spares", 0)
    if given.ranks not in (None, world.world_size - spares):
        raise InputError(
            f"--ranks {given.ranks}, but this is a world of {world.world_size}: ranks are started by `{command(given)} "
            f"--ranks {given.ranks}` or `mpirun -n {given.ranks + spares}`; or use --transport threads"
        )
    return given


def _in_words(name: str, value: Any) -> str:
    """Return a flag as it is typed, as `--hidden 64,64`."""
    flag = flag_of(name) if name not in POSITIONAL else name
    if value is None or value is False:
        return f"no {flag}"
    if value is True:
        return flag
    return f"{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
