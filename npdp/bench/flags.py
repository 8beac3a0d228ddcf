"""The flags of `npdp bench`, checked before any rank starts. It imports neither NumPy nor MPI."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from npdp.app import algorithm_flag
from npdp.app.flag_parser import POSITIVE_INT, Parser, number, number_of_ranks, require_one_launcher
from npdp.app.paths import require_apart, require_writable
from npdp.app.programs import is_program
from npdp.base import environment
from npdp.base.errors import InputError
from npdp.bench.models import MODELS
from npdp.bench.sizes import parse_sizes
from npdp.collectives.algorithms import ALGORITHMS, NATIVE, SCHEDULES, algorithms_of
from npdp.report.plot import require_plot
from npdp.report.table import size_text

REDUCTIONS = ("allreduce", "reduce_scatter")
OPS = ("sum", "mean", "min", "max", "prod")
ITEM_BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8}
BUFFERS_A_RANK = 3  # inputs in place, where the memory copy goes, and what an algorithm puts aside, at most

# Of a collective that MPI has too: what may be timed as well, and what always is
BESIDE = {
    "allreduce": f"; {NATIVE}, if asked for, is MPI_Iallreduce, which npdp polls so that it can be interrupted; "
    "a memory copy and, on several ranks of MPI, MPI_Allreduce itself, which blocks, always stand beside them"
}

EXAMPLES = {
    "allreduce": """
  npdp bench allreduce --ranks 2 --sizes 1K:64M                  each size twice the one before
  npdp bench allreduce --ranks 4 --sizes 1K,256K,1M --algorithm ring,mpi --json out.json --plot out.png
  npdp bench allreduce --ranks 2 --transport threads --sizes 4K:4M --factor 4
  mpirun -n 2 python -m npdp.bench allreduce --sizes 1K""",
    "reduce_scatter": """
  npdp bench reduce_scatter --ranks 2 --sizes 1K:64M --factor 4
  npdp bench reduce_scatter --ranks 4 --sizes 1M --algorithm ring --dtype float64""",
    "allgather": """
  npdp bench allgather --ranks 2 --sizes 1K:64M --factor 4
  npdp bench allgather --ranks 4 --sizes 1M --buffers ordinary""",
    "broadcast": """
  npdp bench broadcast --ranks 2 --sizes 1K:64M --factor 4
  npdp bench broadcast --ranks 4 --sizes 1M --algorithm tree""",
    "iteration": """
  npdp bench iteration --ranks 2
  npdp bench iteration --ranks 2 --models lin10,mlp --algorithm ring --json out.json""",
    "calibrate": """
  npdp calibrate --ranks 2                  measure, keep, and say what auto takes now
  npdp calibrate --ranks 4 --show           what is kept already
  mpirun -n 8 python -m npdp.bench calibrate""",
}


@dataclass(frozen=True)
class BenchConfig:
    """The flags that every benchmark has."""

    what: str
    ranks: int | None
    transport: str
    json: str | None


@dataclass(frozen=True)
class CalibrateConfig(BenchConfig):
    """The flags of `npdp calibrate`: the machine's constants, measured anew or only shown."""

    show: bool


@dataclass(frozen=True)
class TimedConfig(BenchConfig):
    """The flags of benchmarks timed in rounds, with constants measured anew or not."""

    rounds: int
    calibrate: bool


@dataclass(frozen=True)
class CollectiveConfig(TimedConfig):
    """The flags of a collective's benchmark: sizes in bytes, whole elements each; algorithms, None for all."""

    sizes: tuple[int, ...]
    algorithms: tuple[str, ...] | None
    dtype: str
    op: str
    buffers: str
    plot: str | None


@dataclass(frozen=True)
class IterationConfig(TimedConfig):
    """The flags of the benchmark of training iterations."""

    models: tuple[str, ...]
    algorithm: str


def parse(arguments: Sequence[str] | None = None) -> CollectiveConfig | IterationConfig | CalibrateConfig:
    """Return the flags.

    Raises:
        InputError: what is wrong with them, in one line.
    """
    values = vars(make_parser().parse_args(arguments))
    if values["json"] is not None:
        require_writable("--json", values["json"])
    require_one_launcher(values["transport"])
    if values["what"] == "iteration":
        return _iteration(values)
    if values["what"] == "calibrate":
        return _calibrate(values)
    return _collective(values)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `npdp bench`."""
    parser = Parser(
        prog="npdp bench",
        description="Time collectives or training iterations on the ranks of this machine, and check the results.",
        epilog="examples:\n" + "\n".join(examples.strip("\n").splitlines()[0] for examples in EXAMPLES.values()),
    )
    benchmarks = parser.add_subparsers(dest="what", required=True, metavar="WHAT", title="WHAT (each has --help)")
    for name in (*SCHEDULES, "iteration", "calibrate"):
        text, add_flags = KINDS.get(name, (f"Time {name}: each algorithm, at each size.", _add_collective_flags))
        flags = benchmarks.add_parser(
            name, help=text, description=text, epilog=f"examples:{EXAMPLES[name]}", allow_abbrev=False,
            prog="npdp calibrate" if name == "calibrate" else None,
        )  # fmt: skip
        add_flags(flags, name)
        _add_common_flags(flags)
    return parser


def _add_timing_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument("--rounds", type=POSITIVE_INT, default=5, metavar="N",
                       help="at least so many, of which the median counts (5)")
    flags.add_argument("--calibrate", action="store_true",
                       help="measure anew the constants by which auto chooses (done anyway where there are none yet)")


def _add_common_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument("--ranks", type=number_of_ranks, metavar="N",
                       help="how many to start (1); under a bare mpirun, which says it itself, leave it out")
    flags.add_argument("--transport", choices=("mpi", "threads"), default="mpi",
                       help="mpi (default; one rank needs none), or threads of one process")
    flags.add_argument("--json", metavar="FILE", help="write the figures, with the machine's description")


def _add_collective_flags(flags: argparse.ArgumentParser, collective: str) -> None:
    _add_timing_flags(flags)
    flags.add_argument("--sizes", default="1K:16M", metavar="SIZES",
                       help="bytes: a range 1K:64M, a list 1K,256K,1M, or both; K, M, G are powers of 1024 (1K:16M)")
    flags.add_argument("--factor", type=number(int, lambda value: value >= 2, "a whole number, at least 2"), default=2,
                       metavar="F", help="from one size of a range to the next (2)")
    names = ", ".join(name for name in algorithms_of(collective) if name != NATIVE)
    flags.add_argument("--algorithm", metavar="NAME,NAME",
                       help=f"which (all: {names}); file.py:function is your own, which is proven first; auto times "
                            f"what auto takes{BESIDE.get(collective, '')}")
    flags.add_argument("--dtype", choices=tuple(ITEM_BYTES), default="float32", help="of the elements (float32)")
    if collective in REDUCTIONS:
        flags.add_argument("--op", choices=OPS, default="sum", help="what is done with them (sum)")
    flags.add_argument("--buffers", choices=("shared", "ordinary"), default="shared",
                       help="memory that the ranks of a host share (default), or each rank's own")
    flags.add_argument("--plot", metavar="FILE", help="draw times against bytes: .png, .svg or .pdf; needs npdp[plot]")


def _add_iteration_flags(flags: argparse.ArgumentParser, _: str) -> None:
    _add_timing_flags(flags)
    flags.add_argument("--models", default=",".join(MODELS), metavar="NAME,NAME", help=f"which ({', '.join(MODELS)})")
    flags.add_argument(algorithm_flag.FLAG, type=algorithm_flag.algorithm_name, default="auto",
                       metavar="{" + ",".join(ALGORITHMS) + ",FILE.py:FUNCTION}", help=algorithm_flag.HELP)


def _add_calibrate_flags(flags: argparse.ArgumentParser, _: str) -> None:
    flags.add_argument("--show", action="store_true", help="measure nothing: print what is known already")


KINDS = {  # of benchmarks that are no collective: what is done, and flags
    "iteration": ("Time a training iteration: each model.", _add_iteration_flags),
    "calibrate": (
        "Measure the constants by which auto chooses an algorithm, in a second or two, and keep them.",
        _add_calibrate_flags,
    ),
}


def _calibrate(values: dict[str, Any]) -> CalibrateConfig:
    if _is_one_rank(values):
        raise InputError("constants are measured between ranks: give --ranks 2 or more")
    return CalibrateConfig(**values)


def _iteration(values: dict[str, Any]) -> IterationConfig:
    models = _names("--models", values.pop("models"), MODELS)
    _require_native(values, [values["algorithm"]])
    return IterationConfig(models=models, **values)


def _collective(values: dict[str, Any]) -> CollectiveConfig:
    values.setdefault("op", "sum")
    if values["op"] == "mean" and values["dtype"].startswith("int"):
        raise InputError(f"--op mean: the mean of {values['dtype']} is no {values['dtype']}")
    if values["plot"] is not None:
        require_plot("--plot", values["plot"])
        require_writable("--plot", values["plot"])
        require_apart(json=values["json"], plot=values["plot"])
    sizes = _whole_elements(parse_sizes(values.pop("sizes"), values.pop("factor")), values["dtype"])
    _require_memory(sizes[-1], _ranks_here(values["ranks"]))
    names = values.pop("algorithm")
    known = ("auto", *algorithms_of(values["what"]))
    chosen = None if names is None else _names("--algorithm", names, known, is_program)
    _require_native(values, chosen or ())
    return CollectiveConfig(sizes=sizes, algorithms=chosen, **values)


def _names(
    flag: str, text: str, known: Collection[str], others: Callable[[str], bool] = lambda name: False
) -> tuple[str, ...]:
    """Return the names of a list, each once, in the order in which they are given; `others` may be named too."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known and not others(name):
            raise InputError(f"{flag}: no {name!r}; there are {', '.join(known)}")
    return names


def _whole_elements(sizes: Sequence[int], dtype: str) -> tuple[int, ...]:
    item = ITEM_BYTES[dtype]
    if sizes[0] < item:
        raise InputError(f"--sizes: {sizes[0]} bytes are less than one {dtype}")
    return tuple(sorted({nbytes // item * item for nbytes in sizes}))


def _require_native(values: dict[str, Any], chosen: Sequence[str]) -> None:
    """Raise InputError where MPI's own all-reduce is wanted and there is none."""
    alone = _is_one_rank(values)
    if NATIVE in chosen and (alone or values["transport"] == "threads"):
        why = "one rank runs without MPI" if alone else "--transport threads has none"
        raise InputError(f"--algorithm {NATIVE} is MPI's own all-reduce, polled; {why}")


def _is_one_rank(values: dict[str, Any]) -> bool:
    return (values["ranks"] or 1) == 1 and not environment.is_one_of_several()


def _ranks_here(wanted: int | None) -> int:
    launched = environment.launch()
    return launched.local_size if launched is not None and launched.world_size > 1 else wanted or 1


def _require_memory(nbytes: int, ranks: int) -> None:
    """Raise InputError where a size cannot fit into this machine: better now than by the kernel's killer."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = nbytes * ranks * BUFFERS_A_RANK
    if wanted > there:
        raise InputError(
            f"--sizes: {size_text(nbytes)} on {ranks} rank{'s' * (ranks != 1)} takes {wanted / 1e9:,.0f} GB "
            f"({BUFFERS_A_RANK} buffers each); this machine has {there / 1e9:,.0f} GB"
        )
