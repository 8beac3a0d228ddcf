"""One training step of a GPT: npdp and PyTorch, eager and compiled, each in its own processes, in turn.

    python benchmarks/language_model.py                            one rank, one BLAS thread
    python benchmarks/language_model.py --ranks 2                  two ranks, the batch per rank: PyTorch's DDP on gloo
    python benchmarks/language_model.py --threads 2 --shapes gpt2  one process, two threads

A step is forward, backward, clipping to norm 1, and AdamW in two groups. Page faults are those of a warm step, memory
is a rank's peak. The models are npdp.models.gpt and the same written with PyTorch's layers (gpt_in_torch.py).
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flags
import numpy as np
from machine import keep
from step import lines_of


class Shape(NamedTuple):
    """Shape of a GPT and of its batch on a rank."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    vocabulary: int


SHAPES = {
    "small": Shape(4, 4, 128, 64, 12, 65),
    "medium": Shape(6, 6, 384, 256, 4, 65),
    "gpt2": Shape(12, 12, 768, 64, 4, 50257),
}
WHO = ("npdp", "fused", "torch", "torch-compiled")
Step = Callable[[], Any]


def batch_of(shape: Shape, rank: int) -> tuple[Any, Any]:
    """Return a rank's tokens and those that follow, (batch, context) each."""
    tokens = np.random.default_rng(rank).integers(0, shape.vocabulary, (shape.batch, shape.context + 1))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def npdp_step(shape: Shape, fused: bool) -> Step:
    import npdp
    from npdp import nn, optim
    from npdp.models.gpt import GPT

    npdp.init()
    npdp.manual_seed(0)
    model = GPT(shape.vocabulary, shape.context, shape.layers, shape.heads, shape.width)
    optimizer = optim.AdamW(_groups(model), lr=1e-4)
    wrapped = nn.DataParallel(model, update="fused" if fused else "replicated")
    criterion, (x, y) = nn.CrossEntropyLoss(), batch_of(shape, npdp.rank())
    parameters = list(model.parameters())

    def step() -> None:
        loss = criterion(wrapped(x).reshape(-1, shape.vocabulary), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        if not fused:
            optim.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def torch_step(shape: Shape, compiled: bool) -> Step:
    import torch
    from gpt_in_torch import GPT

    torch.manual_seed(0)
    model: Any = GPT(*shape[:4], shape.vocabulary)
    rank = int(os.environ.get("RANK", "0"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(_groups(model), lr=1e-4)
    run = torch.compile(model) if compiled else model
    x, y = map(torch.from_numpy, batch_of(shape, rank))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(run(x).view(-1, shape.vocabulary), y.view(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _groups(model: Any) -> list[dict[str, Any]]:
    """Return weights, which decay, and the rest, which does not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def work(who: str, shape: Shape, seconds: float) -> None:
    """Run steps for a while on this rank; rank 0 prints what one took."""
    if who.startswith("torch"):
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        step = torch_step(shape, who == "torch-compiled")
    else:
        step = npdp_step(shape, who == "fused")
    start = time.perf_counter()
    for _ in range(3):
        step()
    calls = max(3, int(seconds * 3 / (time.perf_counter() - start)))
    calls = agreed(who, calls)
    times, faults = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    found = {"s": statistics.median(times), "faults": faults / calls, "MB": peak_mb()}
    if int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK", "0"))) == 0:
        print("round", json.dumps(found), flush=True)


def agreed(who: str, calls: int) -> int:
    """Return rank 0's number of calls."""
    from worker import AGREE

    several = max(int(os.environ.get(name, "1")) for name in ("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE")) > 1
    return AGREE[who.removesuffix("-compiled")](calls) if several else calls


def peak_mb() -> float:
    """Return the most memory that this process has held."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["ranks", "threads"])
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--seconds", type=flags.SECONDS, default=2.0, metavar="S", help="of a round (2)")
    parser.add_argument("--shapes", type=flags.names(SHAPES), default=("small", "medium"), metavar="NAME,NAME",
                        help=f"of {', '.join(SHAPES)} (small,medium)")  # fmt: skip
    parser.add_argument("--who", type=flags.names(WHO), default=("npdp", "torch"), metavar="NAME,NAME",
                        help=f"contenders: {', '.join(WHO)} (npdp,torch)")  # fmt: skip
    parser.add_argument("--ranks", type=flags.RANKS, default=1, metavar="N", help="of each contender (1)")
    parser.add_argument("--threads", type=flags.POSITIVE_INT, default=1, metavar="N", help="of BLAS on each rank (1)")
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in arguments.shapes:
        taken: dict[str, list[dict[str, float]]] = {who: [] for who in arguments.who}
        for _ in range(arguments.rounds):
            for who in arguments.who:
                command = [__file__, "work", who, name, str(arguments.seconds)]
                (line,) = lines_of("torch" if who.startswith("torch") else "npdp", arguments.ranks, command, "round ",
                                   1, arguments.threads)  # fmt: skip
                taken[who].append(json.loads(line.removeprefix("round ")))
        shape = SHAPES[name]
        figures[name] = {}
        for who, rounds in taken.items():
            ms, faults, mb = (statistics.median(each[key] for each in rounds) for key in ("s", "faults", "MB"))
            tokens_per_s = shape.batch * shape.context * arguments.ranks / ms
            figures[name][who] = {"ms": round(ms * 1e3, 2), "tokens a second": round(tokens_per_s),
                                  "page faults a step": round(faults), "MB": round(mb)}  # fmt: skip
            print(f"{name:8} {who:14}", ", ".join(f"{value:,} {key}" for key, value in figures[name][who].items()),
                  flush=True)  # fmt: skip
    where = f"language-model-{arguments.ranks}-ranks-{arguments.threads}-threads"
    keep(parser, arguments, where, {"medians": figures}, [who for who in arguments.who if who.startswith("torch")])


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], SHAPES[sys.argv[3]], float(sys.argv[4]))
    else:
        flags.run(main)
