"""The whole command, from the shell to the prompt: `mpirun -n R python -m npdp.train` against torchrun with DDP.

    python benchmarks/command.py
    python benchmarks/command.py --ranks 2

Both train a softmax on the digits, 20 epochs, global batch 64, momentum 0.9.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import flags
from machine import clean_environment, keep


def torch_program() -> None:
    """As many updates of the same model as `npdp.train` makes by default, as one writes it for torchrun."""
    import torch
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader, TensorDataset
    from torch.utils.data.distributed import DistributedSampler

    from npdp.data import sources

    torch.distributed.init_process_group("gloo")
    split = sources.load("digits")
    dataset = TensorDataset(torch.from_numpy(split.train.x), torch.from_numpy(split.train.y))
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=64 // torch.distributed.get_world_size(), sampler=sampler)
    model = DistributedDataParallel(torch.nn.Linear(64, 10))
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.distributed.destroy_process_group()


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["ranks"])
    parser.add_argument("--ranks", type=flags.RANKS, default=4, metavar="N", help="that the command starts (4)")
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--torch-rank", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.torch_rank:
        torch_program()
        return
    from npdp.app import launch

    ranks = str(arguments.ranks)
    commands = {
        "npdp": [launch.find_mpirun(), "-n", ranks, sys.executable, "-m", "npdp.train"],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
                     __file__, "--torch-rank"],
    }  # fmt: skip
    taken: dict[str, list[float]] = {who: [] for who in flags.chosen(None, commands, {"torchrun": "torch"})}
    for _ in range(arguments.rounds):
        for who in taken:
            start = time.perf_counter()
            run = subprocess.run(commands[who], env={**clean_environment(), **launch.settings(arguments.ranks)},
                                 capture_output=True, text=True, timeout=300)  # fmt: skip
            if run.returncode:  # torchrun aborts now and then when its ranks leave; that round does not count
                print(f"{who} ended with {run.returncode}: {run.stderr[-300:]}")
                continue
            taken[who].append(time.perf_counter() - start)
    if failed := [who for who, values in taken.items() if not values]:
        raise SystemExit(f"{failed[0]} failed in every round")
    times = {who: round(statistics.median(values), 3) for who, values in taken.items()}
    print(", ".join(f"{who} {value} s, {value / times['npdp']:.1f} of npdp's" for who, value in times.items()))
    keep(parser, arguments, f"command-{ranks}-ranks", times, taken)


if __name__ == "__main__":
    flags.run(main)
