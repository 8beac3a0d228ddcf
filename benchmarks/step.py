"""One training step of the four models: npdp, NumPy by hand, and PyTorch, each in its own processes, in turn.

    python benchmarks/step.py                    one rank, one BLAS thread; PyTorch eager
    python benchmarks/step.py --ranks 2          two ranks, one BLAS thread each, the batch per rank: PyTorch's DDP on
                                                 gloo, NumPy with one Allreduce of mpi4py a parameter, or for all;
                                                 Horovod, and JAX with mpi4jax bound to a core each, where they are
                                                 installed (--python, if elsewhere); `alone` is npdp's step on one
                                                 rank, in the same run
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from machine import MODULES, clean_environment, installed, keep

from npdp.bench.models import MODELS

WORKER = str(Path(__file__).with_name("worker.py"))
TRIES = 3  # torchrun aborts now and then when its ranks leave
PYTHONS: dict[str, str] = {}  # of contenders that are installed elsewhere
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def command(who: str, ranks: int) -> list[str]:
    """Return what starts a contender on so many ranks."""
    if ranks == 1:
        return [sys.executable]
    if who == "torch":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    from npdp import launch

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
    from npdp import launch

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


def usual_contenders(ranks: int) -> list[str]:
    """Return who is compared where nobody is named."""
    on_several = ["fused", "numpy-flat", "horovod", "jax", "alone"] if ranks > 1 else []
    modules = {who: module for who, module in {**MODULES, "jax": "mpi4jax"}.items() if who not in PYTHONS}
    return installed(["npdp", "numpy", "torch", *on_several], modules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round (0.5)")
    parser.add_argument("--models", default="lin10,softmax,mlp,mlpbig")
    parser.add_argument("--who", help="contenders, with commas between them (all that are installed)")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--python", action="append", default=[], metavar="WHO=PATH",
                        help="the Python of a contender, if another: --python jax=/opt/jax/bin/python")  # fmt: skip
    arguments = parser.parse_args()
    if unknown := set(arguments.models.split(",")) - MODELS.keys():
        parser.error(f"--models: wanted some of {', '.join(MODELS)}, got {', '.join(sorted(unknown))}")
    PYTHONS.update(each.split("=", 1) for each in arguments.python)
    contenders = arguments.who.split(",") if arguments.who else usual_contenders(arguments.ranks)
    figures = {}
    for model in arguments.models.split(","):
        taken: dict[str, list[float]] = {who: [] for who in contenders}
        for _ in range(arguments.rounds):
            for who, values in taken.items():
                whose, ranks = ("npdp", 1) if who == "alone" else (who, arguments.ranks)
                values.append(seconds_a_step(whose, model, ranks, arguments.seconds))
        times = {who: statistics.median(values) for who, values in taken.items()}
        figures[model] = {who: round(value * 1e6, 2) for who, value in times.items()}
        ratios = ", ".join(f"{times['npdp'] / value:.3f} of {who}" for who, value in times.items() if who != "npdp")
        print(f"{model:8}", ", ".join(f"{who} {value:.1f} us" for who, value in figures[model].items()), "|", ratios,
              flush=True)  # fmt: skip
    if arguments.who or arguments.models != parser.get_default("models"):
        print("not kept: only some models or contenders")
        return
    name, what = f"step-{arguments.ranks}-ranks", f"python benchmarks/step.py --ranks {arguments.ranks}"
    print("kept in", keep(name, what, {"microseconds a step, medians": figures}))


if __name__ == "__main__":
    main()
