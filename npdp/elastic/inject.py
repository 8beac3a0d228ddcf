"""Faults on purpose, as `--inject kind@key=value,...` asks for them: what they are called. faults.py has what they do.

    slow@rank=1,factor=4                        rank 1 sleeps so that each of its iterations takes 4 times as long
    delay@ms=20                                 every rank sleeps 20 ms an iteration, as if it computed so long
    kill@rank=2,iteration=17,part=exchange      SIGKILL, as that rank comes there; with ms=3, so long after it
    raise@ segv@ stop@ exit@code=3              an exception, a SIGSEGV, a SIGSTOP, an end without a word
    nan@rank=2,iteration=17,parameter=bias      a NaN in that rank's own gradient, before the ranks' are summed
    mismatch@rank=2,iteration=17                that rank calls a collective that the others do not
    diskfull@iteration=17                       from there on checkpoints and the model cannot be written

Without rank= it befalls all. Iterations count from 1, as checkpoints and metrics count them. A fault comes once, but
for a full disk: the first time that its rank enters the part in that iteration or later.

Nothing here imports NumPy: flags are read first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from npdp.base.errors import InputError

PARTS = ("data", "forward", "backward", "exchange", "update", "checkpoint", "recovery")
CAME = "NPDP_INJECTED"  # a file in which each fault that comes at a place is noted before it does; set by npdp chaos
MOST = "1e6"  # a factor, or milliseconds: beyond it nothing would ever end


@dataclass(frozen=True)
class Fault:
    """Injected fault.

    Attributes:
        rank: by the numbers that ranks have at the start; None: all.
        iteration, part: where it comes.
        ms: how long it is, or comes after that.
        spec: as it was typed.
    """

    kind: str
    rank: int | None = None
    iteration: int = 1
    part: str = "backward"
    factor: float = 1.0
    ms: float = 0.0
    code: int = 1
    parameter: str = ""
    spec: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.spec


class Kind(NamedTuple):
    """Kind of fault.

    Attributes:
        wants, takes: its keys: those that must be given, and others.
        help: what it does.
        of_process: whether it ends, or stops, a process.
    """

    wants: tuple[str, ...]
    takes: tuple[str, ...]
    help: str
    of_process: bool = False


PLACE = ("rank", "iteration", "part")
KINDS: Mapping[str, Kind] = MappingProxyType({
    "slow": Kind(("rank", "factor"), (), "each iteration takes factor times as long"),
    "delay": Kind(("ms",), ("rank",), "each iteration takes ms longer"),
    "kill": Kind((), (*PLACE, "ms"), "SIGKILL", True),
    "segv": Kind((), (*PLACE, "ms"), "SIGSEGV, by a read at address 0", True),
    "stop": Kind((), (*PLACE, "ms"), "SIGSTOP", True),
    "exit": Kind((), (*PLACE, "code"), "the process ends with a code (1), without a word", True),
    "raise": Kind((), PLACE, "an exception"),
    "nan": Kind((), ("rank", "iteration", "parameter"), "a NaN in the gradient of a parameter (the first)"),
    "mismatch": Kind(("rank",), ("iteration", "part"), "a collective that the others do not call"),
    "diskfull": Kind((), ("rank", "iteration"), "checkpoints and the model cannot be written from then on"),
})  # fmt: skip
LASTING = ("slow", "delay")  # in every iteration; they change no result


def parse(spec: str) -> Fault:
    """Return the fault that a `kind@key=value,...` asks for.

    Raises:
        InputError: what is wrong with it: wanted, got.
    """
    name, at, rest = spec.partition("@")
    if not at or name not in KINDS:
        raise InputError(f"--inject: wanted kind@key=value,... with a kind of {', '.join(KINDS)}, got {spec!r}")
    kind = KINDS[name]
    given: dict[str, str] = {}
    for pair in rest.split(",") if rest or kind.wants else ():
        key, equals, value = pair.partition("=")
        if not equals or key not in kind.wants + kind.takes or key in given:
            keys = ", ".join(kind.wants + kind.takes)
            raise InputError(f"--inject {name}: wanted {keys}, each once as key=value, got {pair!r}")
        given[key] = value
    missing = [key for key in kind.wants if key not in given]
    if missing:
        raise InputError(f"--inject {name}: {', '.join(missing)} missing in {spec!r}")
    values: dict[str, Any] = {key: _value(name, key, text) for key, text in given.items()}
    return Fault(name, **values, spec=spec)


def _value(kind: str, key: str, text: str) -> Any:
    wanted, read = KEYS[key]
    try:
        return read(text)
    except ValueError:
        raise InputError(f"--inject {kind}: wanted {wanted}, got {text!r}") from None


def _number(least: int, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most:  # false for NaN
            raise ValueError
        return value

    return read


def _whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return read


def _part(text: str) -> str:
    if text not in PARTS:
        raise ValueError
    return text


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


# key -> what is wanted, in words, and what reads it
KEYS: Mapping[str, tuple[str, Callable[[str], Any]]] = MappingProxyType({
    "rank": ("a rank, a whole number", _whole(0)),
    "iteration": ("an iteration, a whole number from 1", _whole(1)),
    "part": (f"a part of {', '.join(PARTS)}", _part),
    "factor": (f"a number from 1 to {MOST} for factor", _number(1, float(MOST))),
    "ms": (f"a number from 0 to {MOST} for ms", _number(0, float(MOST))),
    "code": ("a code from 0 to 255", _whole(0, 255)),
    "parameter": ("a parameter's name", _name),
})  # fmt: skip


def require_processes(faults: Sequence[Fault], transport: str) -> None:
    """Raise InputError where a fault is to befall a process, and ranks are threads of one."""
    found = next((fault for fault in faults if KINDS[fault.kind].of_process), None)
    if found is not None and transport == "threads":
        raise InputError(
            f"--inject {found.kind}: it befalls a process, and with --transport threads all ranks are one: "
            "use --transport mpi, or raise@"
        )


def require_ranks(faults: Sequence[Fault], workers: int) -> None:
    """Raise InputError where a fault is to befall a rank that does not train."""
    for fault in faults:
        if fault.rank is not None and fault.rank >= workers:
            raise InputError(
                f"--inject {fault.kind}: wanted a rank that trains, 0 to {workers - 1}, got {fault.rank}"
            )
