"""One contender, one round: warms up, runs steps for a while, prints the seconds a step took.

    python benchmarks/worker.py npdp mlp 0.5
    python benchmarks/worker.py npdp mlp 0.5 64          rows of a rank's batch

Contenders do not share a process, and none waits while another runs: what one leaves in the memory allocator, or
spins for, would help or hinder the others. Under a launcher rank 0 says how many steps all make.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import contenders
import flags

from npdp.bench.models import MODELS


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


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, keeps=False)
    parser.add_argument("who", choices=AGREE, help="the contender")
    parser.add_argument("model", choices=MODELS, help="what it trains")
    parser.add_argument("seconds", type=flags.SECONDS, help="of the round")
    parser.add_argument("rows", type=flags.POSITIVE_INT, nargs="?", help="of a rank's batch (the model's own)")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    who, seconds = arguments.who, arguments.seconds
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK", "0")))
    world_size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if who == "torch":
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        if world_size > 1:
            torch.distributed.init_process_group("gloo")
    step = contenders.CONTENDERS[who](arguments.model, arguments.rows, world_size > 1)
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
    flags.run(main)
