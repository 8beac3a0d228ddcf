"""The same global batch on two cores, however they are used: ranks, BLAS threads, PyTorch's, JAX's.

    python benchmarks/strong_scaling.py

Each contender in its own processes, in turn. npdp's two ranks have half of the batch and one BLAS thread each.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flags
from machine import keep, medians
from step import seconds_a_step


class Contender(NamedTuple):
    who: str
    ranks: int
    threads: int


CONTENDERS = {
    "npdp, 2 ranks": Contender("fused", 2, 1),
    "npdp, 2 threads": Contender("npdp", 1, 2),
    "npdp, 1 core": Contender("npdp", 1, 1),
    "NumPy, 2 threads": Contender("numpy", 1, 2),
    "PyTorch, 2 threads": Contender("torch", 1, 2),
    "JAX, 2 threads": Contender("jax", 1, 2),
}


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__)
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--seconds", type=flags.SECONDS, default=0.5, metavar="S", help="of a round (0.5)")
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    there = flags.chosen(None, (contender.who for contender in CONTENDERS.values()))
    names = [name for name, contender in CONTENDERS.items() if contender.who in there]
    figures: dict[str, dict[str, float]] = {}
    for model in ("mlp", "mlpbig"):
        for batch_size in (128, 1024):
            measures = {}
            for name in names:
                who, ranks, threads = CONTENDERS[name]
                rows = batch_size // ranks
                measures[name] = partial(seconds_a_step, who, model, ranks, arguments.seconds, rows, threads)
            times = medians(arguments.rounds, measures)
            case = f"{model}, batch {batch_size}"
            figures[case] = {name: round(seconds * 1e6, 1) for name, seconds in times.items()}
            print(f"{case:18}", ", ".join(f"{name} {us:.0f} us" for name, us in figures[case].items()), flush=True)
    keep(parser, arguments, "strong-scaling", {"microseconds a step": figures}, there)


if __name__ == "__main__":
    flags.run(main)
