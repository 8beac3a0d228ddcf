"""One epoch of softmax regression on Fashion-MNIST, loader and shuffling included, each contender in its own process.

    python benchmarks/epoch.py
    python benchmarks/epoch.py --data fashion-mnist --rounds 1

Batch 128, momentum 0.9, float32. npdp on one rank and on two with one BLAS thread each; PyTorch with TensorDataset and
DataLoader on two threads; scikit-learn's SGDClassifier with log loss. The data is in Debian's dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flags
import numpy as np
from machine import keep, medians, output_of

FOLDER = "/usr/share/datasets/fashion-mnist"
BATCH, EPOCHS = 128, 4  # the first epoch warms up
THREADS = {"npdp": 1, "npdp on 2 ranks": 1, "torch": 2, "sklearn": 2}


def arrays(folder: str) -> tuple[Any, Any]:
    from npdp.data import sources

    train = sources.load(folder).train
    return train.take(slice(0, len(train)))


def timed_epochs(
    loader: Any, model: Any, criterion: Any, optimizer: Any, barrier: Callable[[], None] = lambda: None
) -> list[float]:
    """Train with the loop that npdp and PyTorch share; return the seconds of each epoch."""
    seconds = []
    for _ in range(EPOCHS):
        barrier()
        start = time.perf_counter()
        for inputs, labels in loader:
            loss = criterion(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        barrier()
        seconds.append(time.perf_counter() - start)
    return seconds


def npdp_epochs(folder: str) -> list[float]:
    import npdp
    from npdp import nn, optim
    from npdp.data import DataLoader, sources

    npdp.init()
    model = nn.Linear(784, 10)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(sources.load(folder).train, batch_size=BATCH, shuffle=True)
    criterion, model = nn.CrossEntropyLoss(), nn.DataParallel(model)
    seconds = timed_epochs(loader, model, criterion, optimizer, npdp.barrier)
    return seconds if npdp.rank() == 0 else []


def torch_epochs(folder: str) -> list[float]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(2)
    x, y = arrays(folder)
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=BATCH, shuffle=True)
    model, criterion = torch.nn.Linear(784, 10), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return timed_epochs(loader, model, criterion, optimizer)


def sklearn_epochs(folder: str) -> list[float]:
    from sklearn.linear_model import SGDClassifier

    x, y = arrays(folder)
    classifier = SGDClassifier(loss="log_loss", n_jobs=2)
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        classifier.partial_fit(x, y, classes=np.arange(10))
        seconds.append(time.perf_counter() - start)
    return seconds


PROGRAMS = {"npdp": npdp_epochs, "npdp on 2 ranks": npdp_epochs, "torch": torch_epochs, "sklearn": sklearn_epochs}


def measure(who: str, folder: str) -> float:
    """Run a contender in processes of its own; return the seconds of its median epoch after the first."""
    from npdp.app import launch

    threads = str(THREADS[who])
    ranks = [launch.find_mpirun(), "-n", "2"] if who.endswith("2 ranks") else []
    command = [*ranks, sys.executable, __file__, "--who", who, "--data", folder]
    printed = output_of(who, command, 2, OPENBLAS_NUM_THREADS=threads, OMP_NUM_THREADS=threads)
    lines = [line.split()[1:] for line in printed.splitlines() if line.startswith("epochs")]
    seconds = [float(word) for line in lines for word in line]
    return statistics.median(seconds[1:])


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__)
    parser.add_argument("--data", type=flags.there, default=FOLDER, metavar="FOLDER", help=f"({FOLDER})")
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--who", choices=PROGRAMS, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.who:
        seconds = PROGRAMS[arguments.who](arguments.data)
        if seconds:
            print("epochs", *seconds)
        return
    contenders = flags.chosen(None, PROGRAMS)
    times = medians(arguments.rounds, {who: partial(measure, who, arguments.data) for who in contenders})
    for who, value in times.items():
        print(f"{who:16} {value:.4f} s   npdp takes {times['npdp'] / value:.2f} of it")
    keep(parser, arguments, "epoch", {"seconds an epoch, medians": times}, contenders)


if __name__ == "__main__":
    flags.run(main)
