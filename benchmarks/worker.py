"""One contender, one round: warms up, runs steps for a while, prints the seconds a step took.

    python benchmarks/worker.py npdp mlp 0.5 [rows]

Contenders do not share a process, and none waits while another runs: what one leaves in the memory allocator, or
spins for, would help or hinder the others. Under a launcher rank 0 says how many steps all make.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import contenders


def agree_npdp(calls: int) -> int:
    import numpy as np

    import npdp

    number = np.array([calls])
    npdp.broadcast(number)
    return int(number[0])


def agree_torch(calls: int) -> int:
    import torch

    number = torch.tensor([calls])
    torch.distributed.broadcast(number, 0)
    return int(number)


def agree_numpy(calls: int) -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.bcast(calls))


AGREE: dict[str, Callable[[int], int]] = {
    "npdp": agree_npdp,
    "fused": agree_npdp,
    "server": agree_npdp,
    "server-sync": agree_npdp,
    "numpy": agree_numpy,
    "numpy-flat": agree_numpy,
    "torch": agree_torch,
    "horovod": agree_numpy,
    "jax": agree_numpy,
}


def main() -> None:
    who, name, seconds, *rows = sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:]
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK", "0")))
    world_size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if who == "torch":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if world_size > 1:
            torch.distributed.init_process_group("gloo")
    step = contenders.CONTENDERS[who](name, int(rows[0]) if rows else None, world_size > 1)
    for _ in range(10):
        step()
    start = time.perf_counter()
    for _ in range(3):
        step()
    calls = max(1, int(seconds * 3 / (time.perf_counter() - start)))
    if world_size > 1:
        calls = AGREE[who](calls)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    if rank == 0:
        print(f"round {(time.perf_counter() - start) / calls}", flush=True)
    if who == "torch" and world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
