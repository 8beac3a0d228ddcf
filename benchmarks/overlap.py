"""What of the exchange is hidden behind backward: an mlp's step on hosts joined by a slow link.

    python benchmarks/hosts.py run --hosts 2 --ranks-per-host 1 --rate 1gbit -- python benchmarks/overlap.py

Per step: backward alone, the exchange alone, and both with and without overlap, medians; hidden is what overlap saves.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import flags
from machine import keep

import npdp
from npdp import Tensor, nn, optim
from npdp.base.errors import InputError
from npdp.bench.models import LEARNING_RATE, batch, layers
from npdp.data.batch import Batch, BatchTensor
from npdp.report.machine import STARTED_BY

HOSTS = "python benchmarks/hosts.py run --hosts 2 --ranks-per-host 1 --rate 1gbit --"  # what is kept ran on these
ROUNDS, CALLS = 9, 10


def stepper(overlap: bool | None) -> Callable[[], float]:
    """Return a step, under DataParallel unless None, which returns the seconds of its backward, waiting included."""
    world = npdp.init()
    model = layers("mlp")
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)
    wrapped = model if overlap is None else nn.DataParallel(model, overlap=overlap)
    x, y = batch("mlp")
    part = Batch(len(x), world.rank * len(x), world.world_size * len(x), 0, world.world_size)
    inputs, labels = BatchTensor(x, part), Tensor(y)
    criterion = nn.CrossEntropyLoss()

    def step() -> float:
        loss = criterion(wrapped(inputs), labels)
        optimizer.zero_grad()
        start = time.perf_counter()
        loss.backward()
        taken = time.perf_counter() - start
        optimizer.step()
        return taken

    return step


def make_parser() -> flags.Parser:
    return flags.Parser(__doc__, __file__)


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    world = npdp.init()
    if world.world_size == 1:
        raise InputError(f"one rank exchanges nothing: {HOSTS} python benchmarks/{parser.prog}")
    steps = {"backward alone": stepper(None), "without overlap": stepper(False), "with overlap": stepper(True)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            world.barrier()
            step()
            taken[name].append(statistics.mean(step() for _ in range(CALLS)) * 1e3)
    ms = {name: round(statistics.median(values[1:]), 3) for name, values in taken.items()}
    ms["exchange alone"] = round(ms["without overlap"] - ms["backward alone"], 3)
    ms["hidden"] = round(ms["without overlap"] - ms["with overlap"], 3)
    smaller = min(ms["backward alone"], ms["exchange alone"])
    if world.rank == 0:
        print(ms, f"hidden: {ms['hidden'] / smaller:.2f} of the smaller of backward and exchange")
        elsewhere = "" if os.environ.get(STARTED_BY) == HOSTS else "on other hosts or ranks"
        keep(parser, arguments, "overlap", {"milliseconds, medians": ms}, why_not=elsewhere)


if __name__ == "__main__":
    flags.run(main)
