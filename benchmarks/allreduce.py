"""The all-reduce algorithms side by side, called from Python, with MPI's own; results are checked while timing.

    mpirun -n 2 python benchmarks/allreduce.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from machine import keep

import npdp

SIZES = (64, 2 << 10, 8 << 10, 32 << 10, 128 << 10, 512 << 10, 2 << 20, 16 << 20)  # bytes
ALGORITHMS = ("naive", "tree", "ring", "halving_doubling", "mpi")
ROUNDS = 5


def microseconds(nbytes: int, algorithm: str, calls: int) -> float:
    """Return the median time of a call over the rounds; the sum of ranks' numbers must come out each time."""
    world = npdp.init()
    taken = []
    for _ in range(ROUNDS + 1):
        buffers = [np.full(nbytes // 4, 1.0 + world.rank, np.float32) for _ in range(2)]
        world.barrier()
        start = time.perf_counter()
        for number in range(calls):
            npdp.allreduce(buffers[number % 2], algorithm=algorithm)
        taken.append((time.perf_counter() - start) / calls * 1e6)
        wanted = world.world_size * (world.world_size + 1) / 2 * float(world.world_size) ** ((calls + 1) // 2 - 1)
        assert buffers[0][0] == buffers[0][-1] == np.float32(wanted), (buffers[0][0], wanted)
    return statistics.median(taken[1:])


def main() -> None:
    world = npdp.init()
    figures: dict[str, dict[str, float]] = {}
    for nbytes in SIZES:
        calls = max(2, min(20, 2**21 // nbytes))  # few enough for the sums to stay exact in float32
        figures[str(nbytes)] = {name: round(microseconds(nbytes, name, calls), 1) for name in ALGORITHMS}
        if world.rank == 0:
            print(f"{nbytes:>9} bytes", figures[str(nbytes)], flush=True)
    if world.rank == 0:
        name = f"allreduce-{world.world_size}-ranks"
        keep(name, f"mpirun -n {world.world_size} python benchmarks/allreduce.py", {"microseconds, medians": figures})


if __name__ == "__main__":
    main()
