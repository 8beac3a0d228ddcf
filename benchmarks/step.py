"""One training step of the four models: npdp, NumPy by hand, and PyTorch, each in its own processes, in turn.

    python benchmarks/step.py                    one rank, one BLAS thread; PyTorch eager
    python benchmarks/step.py --ranks 2          two ranks, one BLAS thread each, the batch per rank: PyTorch's DDP on
                                                 gloo, NumPy with one Allreduce of mpi4py a parameter, or for all;
                                                 Horovod, and JAX with mpi4jax bound to a core each, where they are
                                                 installed (--python, if elsewhere); `alone` is npdp's step on one
                                                 rank, in the same run
    python benchmarks/step.py --models mlp --who npdp,torch --rounds 1
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import flags
from contenders import CONTENDERS
from machine import clean_environment, keep, medians

from npdp.base.errors import InputError
from npdp.bench.models import MODELS

WORKER = str(Path(__file__).with_name("worker.py"))
WHO = (*CONTENDERS, "alone")
SERVED = ("server", "server-sync")  # with a parameter server, which is a rank by itself
TRIES = 3  # torchrun aborts now and then when its ranks leave
PYTHONS: dict[str, str] = {}  # of contenders that are installed elsewhere
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def command(who: str, ranks: int) -> list[str]:
    """Return what starts a contender on so many ranks."""
    if ranks == 1:
        return [sys.executable]
    if who == "torch":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    from npdp.app import launch

    bound = ["--bind-to", "core"] if who == "jax" else []  # it would use all cores
    return [launch.find_mpirun(), "-n", str(ranks), *bound, PYTHONS.get(who, sys.executable)]


def seconds_a_step(
    who: str, model: str, ranks: int, seconds: float, rows: int | None = None, threads: int = 1
) -> float:
    """Run one round of a contender; return the seconds that a step took."""
    arguments = [WORKER, who, model, str(seconds), *([str(rows)] if rows else [])]
    return float(lines_of(who, ranks, arguments, "round ", 1, threads)[0].split()[1])


def lines_of(
    who: str, ranks: int, arguments: list[str], beginning: str, count: int, threads: int = 1
) -> list[str]:
    """Start a contender's ranks; return the lines that begin so, of which there must be so many."""
    from npdp.app import launch

    environment = {**clean_environment(), **launch.settings(ranks), **dict.fromkeys(THREADS, str(threads))}
    for _ in range(TRIES):
        run = subprocess.run(
            [*command(who, ranks), *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
            preexec_fn=launch.before_mpirun(ranks),
        )  # fmt: skip
        found = [line for line in run.stdout.splitlines() if line.startswith(beginning)]
        if len(found) == count:
            return found
    raise SystemExit(f"{who} failed {TRIES} times ({' '.join(arguments)}):\n{run.stderr[-2000:]}")


def chosen(wanted: tuple[str, ...] | None, ranks: int) -> list[str]:
    """Return who is compared: the contenders that are named, or the usual ones."""
    on_several = ["fused", "numpy-flat", "horovod", "jax", "alone"] if ranks > 1 else []
    modules = {**flags.MODULES, "jax": "mpi4jax"} if ranks > 1 else flags.MODULES
    here = {who: module for who, module in modules.items() if who not in PYTHONS}
    names = flags.chosen(wanted, ["npdp", "numpy", "torch", *on_several], here)
    if ranks == 1 and (served := [who for who in names if who in SERVED]):
        raise InputError(f"--who {served[0]}: a server and its workers are ranks, give --ranks 2 or more")
    return names


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["ranks", "python"])
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--seconds", type=flags.SECONDS, default=0.5, metavar="S", help="of a round (0.5)")
    parser.add_argument("--models", type=flags.names(MODELS), default=tuple(MODELS), metavar="NAME,NAME",
                        help=f"({','.join(MODELS)})")  # fmt: skip
    parser.add_argument("--who", type=flags.names(WHO), metavar="NAME,NAME",
                        help=f"contenders: {', '.join(WHO)} (the usual ones that are installed)")  # fmt: skip
    parser.add_argument("--ranks", type=flags.RANKS, default=1, metavar="N", help="of each contender (1)")
    parser.add_argument("--python", action="append", default=[], metavar="WHO=PATH", type=flags.python_of(CONTENDERS),
                        help="the Python of a contender, if another: --python jax=/opt/jax/bin/python")  # fmt: skip
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    PYTHONS.update(arguments.python)
    contenders = chosen(arguments.who, arguments.ranks)
    first = "npdp" if "npdp" in contenders else contenders[0]
    figures = {}
    for model in arguments.models:
        measures = {}
        for who in contenders:
            whose, ranks = ("npdp", 1) if who == "alone" else (who, arguments.ranks)
            measures[who] = partial(seconds_a_step, whose, model, ranks, arguments.seconds)
        times = medians(arguments.rounds, measures)
        figures[model] = {who: round(value * 1e6, 2) for who, value in times.items()}
        ratios = ", ".join(f"{times[first] / value:.3f} of {who}" for who, value in times.items() if who != first)
        print(f"{model:8}", ", ".join(f"{who} {value:.1f} us" for who, value in figures[model].items()), "|", ratios,
              flush=True)  # fmt: skip
    name = f"step-{arguments.ranks}-ranks"
    keep(parser, arguments, name, {"microseconds a step, medians": figures}, contenders, PYTHONS)


if __name__ == "__main__":
    flags.run(main)
