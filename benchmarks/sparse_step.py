"""A step that touches 1,000 of 2^20 rows, pushed as rows and as the whole gradient, with a parameter server.

    python benchmarks/sparse_step.py

One worker and one server, a weight of 2^20 x 64 float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import flags
import numpy as np
from machine import keep, output_of

FEATURES, WIDTH, ROWS, ENTRIES = 2**20, 64, 50, 20  # 50 samples of 20 entries each: 1,000 rows are touched


def program(sparse: bool, steps: int) -> None:
    """Time steps on the worker; print seconds and bytes."""
    import npdp
    from npdp import nn, optim
    from npdp.data import SparseRows
    from npdp.data.batch import Batch, BatchRows

    npdp.init()
    model = nn.SparseLinear(FEATURES, WIDTH, bias=False, sparse=sparse)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss()
    model = nn.DataParallel(model, strategy=npdp.ParameterServer(servers=1))
    generator = np.random.default_rng(0)
    columns = np.sort(generator.choice(FEATURES, ROWS * ENTRIES, replace=False).reshape(ROWS, ENTRIES).astype(np.int32))
    values = np.ones(columns.size, np.float32)
    x = SparseRows(np.arange(0, columns.size + 1, ENTRIES), columns.reshape(-1), values, (ROWS, FEATURES))
    x = BatchRows(x, Batch(ROWS, 0, ROWS, 0))  # as a loader gives it
    y = generator.integers(0, WIDTH, ROWS)
    times = []
    for _ in range(steps + 3):
        before, moved = time.perf_counter(), model.strategy.exchanged_bytes
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - before)
        moved = model.strategy.exchanged_bytes - moved
    print(json.dumps({"seconds": statistics.median(times[3:]), "bytes": moved}), flush=True)


def measure(sparse: bool, steps: int) -> dict:
    """Run the program on two ranks."""
    from npdp.app import launch

    command = [launch.find_mpirun(), "-n", "2", sys.executable, __file__, "--rank", str(int(sparse)), str(steps)]
    return json.loads(output_of("rows" if sparse else "the whole gradient", command, 2).splitlines()[-1])


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__)
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--rank", nargs=2, type=int, help=argparse.SUPPRESS)  # sparse or not, steps
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.rank:
        program(bool(arguments.rank[0]), arguments.rank[1])
        return
    rounds = [(measure(True, 200), measure(False, 10)) for _ in range(arguments.rounds)]
    figures = {
        name: {"us a step": round(statistics.median(pair[way]["seconds"] for pair in rounds) * 1e6, 1),
               "bytes a step": rounds[0][way]["bytes"]}
        for way, name in enumerate(("rows", "dense"))
    }  # fmt: skip
    rows, dense = figures["rows"], figures["dense"]
    print(f"rows {rows}, dense {dense}: {dense['us a step'] / rows['us a step']:.0f} times faster, "
          f"{rows['bytes a step'] / dense['bytes a step']:.4%} of the bytes")  # fmt: skip
    keep(parser, arguments, "sparse-step", figures)


if __name__ == "__main__":
    flags.run(main)
