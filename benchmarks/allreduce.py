"""An all-reduce in place, as npdp, Open MPI and gloo do it, and a memory copy: each in its own processes, in turn.

    python benchmarks/allreduce.py --ranks 2
    python benchmarks/allreduce.py --ranks 4 --sizes 1K,1M --who shared,mpi

`shared` is npdp.allreduce on npdp.shared_empty, `ordinary` the same on a NumPy array, `mpi` mpi4py's blocking Allreduce
with IN_PLACE, `gloo` torch.distributed's all_reduce, `copy` all ranks copying as many bytes at once. float32, sums,
called from Python; the first rank's time. Results are checked by `npdp bench`, which also has npdp's other algorithms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import flags
import numpy as np
from machine import keep
from step import lines_of

SIZES = "1K,32K,256K,1M,4M,16M,64M"
CALLS, BYTES = 300, 1 << 29  # of a round: at most so many, and about so many bytes
Call = Callable[[], object]
Barrier = Callable[[], object]


def npdp_calls(shared: bool) -> tuple[Callable[[int], Call], Barrier, int]:
    """Return what makes an all-reduce of so many bytes, a barrier, and the rank."""
    import npdp

    world = npdp.init()

    def make(nbytes: int) -> Call:
        buffer = npdp.shared_empty(nbytes // 4, np.float32) if shared else np.zeros(nbytes // 4, np.float32)
        buffer[...] = 0
        return lambda: npdp.allreduce(buffer)

    return make, world.barrier, world.rank


def mpi_calls(copies: bool) -> tuple[Callable[[int], Call], Barrier, int]:
    """Return the same of mpi4py, or with a copy in place of the all-reduce."""
    from mpi4py import MPI

    def make(nbytes: int) -> Call:
        buffer, other = np.zeros(nbytes // 4, np.float32), np.ones(nbytes // 4, np.float32)
        if copies:
            return lambda: np.copyto(buffer, other)
        return lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, buffer)

    return make, MPI.COMM_WORLD.Barrier, MPI.COMM_WORLD.rank


def gloo_calls() -> tuple[Callable[[int], Call], Barrier, int]:
    """Return the same of torch.distributed on gloo."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")

    def make(nbytes: int) -> Call:
        buffer = torch.zeros(nbytes // 4)
        return lambda: torch.distributed.all_reduce(buffer)

    return make, torch.distributed.barrier, torch.distributed.get_rank()


WHO: dict[str, Callable[[], tuple[Callable[[int], Call], Barrier, int]]] = {
    "shared": lambda: npdp_calls(True),
    "ordinary": lambda: npdp_calls(False),
    "mpi": lambda: mpi_calls(False),
    "gloo": gloo_calls,
    "copy": lambda: mpi_calls(True),
}


def work(who: str, sizes: tuple[int, ...]) -> None:
    """As one of a contender's ranks: time each size; the first rank prints it."""
    make, barrier, rank = WHO[who]()
    for nbytes in sizes:
        call = make(nbytes)
        calls = max(5, min(CALLS, BYTES // nbytes))
        for _ in range(3):
            call()
        barrier()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if rank == 0:
            print("took", nbytes, (time.perf_counter() - start) / calls, flush=True)
    barrier()


def one_round(who: str, ranks: int, sizes: tuple[int, ...]) -> dict[int, float]:
    """Start a contender's ranks; return the seconds of a call by bytes."""
    arguments = [__file__, "--work", who, "--sizes", ",".join(map(str, sizes))]
    lines = lines_of("torch" if who == "gloo" else who, ranks, arguments, "took ", len(sizes))
    return {int(nbytes): float(seconds) for _, nbytes, seconds in map(str.split, lines)}


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["ranks"])
    parser.add_argument("--ranks", type=flags.RANKS, default=2, metavar="N", help="of each contender (2)")
    parser.add_argument("--sizes", type=flags.sizes, default=flags.sizes(SIZES), help=f"in bytes ({SIZES})")
    parser.add_argument("--who", type=flags.names(WHO), metavar="NAME,NAME",
                        help=f"contenders: {', '.join(WHO)} (all that are installed)")  # fmt: skip
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--work", choices=WHO, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    sizes = arguments.sizes
    if arguments.work:
        work(arguments.work, sizes)
        return
    names = flags.chosen(arguments.who, WHO)
    rounds: dict[str, list[dict[int, float]]] = {who: [] for who in names}
    for _ in range(arguments.rounds):
        for who in names:
            rounds[who].append(one_round(who, arguments.ranks, sizes))
    figures = {}
    for nbytes in sizes:
        times = {who: statistics.median(taken[nbytes] for taken in rounds[who]) for who in names}
        figures[str(nbytes)] = {who: round(seconds * 1e6, 2) for who, seconds in times.items()}
        first = names[0]
        ratios = ", ".join(f"{who} {times[who] / times[first]:.2f}" for who in names[1:])
        print(f"{nbytes:>9} bytes  {first} {times[first] * 1e6:.1f} us; in times of it: {ratios}", flush=True)
    name = f"allreduce-{arguments.ranks}-ranks"
    keep(parser, arguments, name, {"microseconds a call, medians": figures}, names)


if __name__ == "__main__":
    flags.run(main)
