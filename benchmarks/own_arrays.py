"""A step on arrays of the user's own, whose rows ranks tell each other, beside one on what the loader yields.

    python benchmarks/own_arrays.py

Two ranks, lin10 and softmax, under DataParallel; medians of rounds in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import flags
from machine import keep, output_of

MODELS, ROUNDS, CALLS = ("lin10", "softmax"), 15, 300


def stepper(name: str, own: bool) -> Callable[[], None]:
    """Return a training step of a new model; collective, as is the step."""
    import npdp
    from npdp import nn, optim
    from npdp.bench.models import LEARNING_RATE, batch, layers
    from npdp.data.batch import Batch, BatchTensor

    model = nn.DataParallel(layers(name))
    criterion = nn.MSELoss() if name == "lin10" else nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)
    x, y = batch(name)
    world, count = npdp.init(), len(x)
    part = Batch(count, world.rank * count, world.world_size * count, 0, world.world_size)
    inputs, labels = x if own else BatchTensor(x, part), npdp.Tensor(y)

    def step() -> None:
        loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def program() -> None:
    """Time the steps on this rank, in turn; rank 0 prints microseconds."""
    import npdp

    world = npdp.init()
    found = {}
    for name in MODELS:
        steps = {way: stepper(name, way == "own") for way in ("loader", "own")}
        taken: dict[str, list[float]] = {way: [] for way in steps}
        for _ in range(ROUNDS):
            for way, step in steps.items():
                step()
                world.barrier()
                before = time.perf_counter()
                for _ in range(CALLS):
                    step()
                taken[way].append((time.perf_counter() - before) / CALLS * 1e6)
        found[name] = {way: statistics.median(values) for way, values in taken.items()}
    if world.rank == 0:
        print(json.dumps(found), flush=True)


def measure() -> dict[str, dict[str, float]]:
    """Run the program on two ranks."""
    from npdp.app import launch

    command = [launch.find_mpirun(), "-n", "2", sys.executable, __file__, "--rank"]
    found: dict[str, dict[str, float]] = json.loads(output_of("own arrays", command, 2).splitlines()[-1])
    return found


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__)
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.rank:
        program()
        return
    rounds = [measure() for _ in range(arguments.rounds)]
    figures = {}
    for name in MODELS:
        loader, own = (statistics.median(taken[name][way] for taken in rounds) for way in ("loader", "own"))
        figures[name] = {"loader": round(loader, 1), "own": round(own, 1), "ratio": round(own / loader, 3)}
        print(name, figures[name], flush=True)
    keep(parser, arguments, "own-arrays", {"microseconds a step, medians": figures})


if __name__ == "__main__":
    flags.run(main)
