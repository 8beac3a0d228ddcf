"""PyTorch's DistributedDataParallel on gloo beside the same with npdp's hook: a bucket's mean, and a small GPT's step.

    python benchmarks/ddp_hook.py
    python benchmarks/ddp_hook.py --ranks 4

All run under torchrun, in the same processes and in turn, one thread a rank. `gloo` is what DDP does by itself, `hook`
npdp.torch.allreduce_hook, `alone` the model without DDP, each rank by itself. The GPT has 4 layers of width 128, 4
heads, 65 symbols and a context of 64, batch 12 a rank; a step is forward, backward, clipping and AdamW. Of a rank's
turns the median and the least count, on the first rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import flags
from machine import keep, output_of

SIZES = {"mean of 64 KB": 1 << 16, "of 1 MB": 1 << 20, "of 25 MB, a large model's bucket": 25 << 20}
STEP = "step of the GPT"
BYTES = 8 << 20  # of a turn, about
TURNS = 40  # of each contender in a round
SYMBOLS, CONTEXT, WIDTH, HEADS, LAYERS, BATCH = 65, 64, 128, 4, 4, 12
Call = Callable[[], object]
Times = dict[str, float]  # microseconds, by contender


def bucket_calls(nbytes: int) -> dict[str, Call]:
    """Return what leaves the mean of all ranks' buckets of so many bytes in them, by contender."""
    import torch

    import npdp.torch

    buffer, group = torch.zeros(nbytes // 4), torch.distributed.group.WORLD
    bucket: Any = SimpleNamespace(buffer=lambda: buffer, index=lambda: 0, is_last=lambda: True)
    state, size = npdp.torch.state(), torch.distributed.get_world_size()

    def gloo() -> None:
        torch.distributed.all_reduce(buffer.div_(size), group=group)

    return {"gloo": gloo, "hook": lambda: npdp.torch.allreduce_hook(state, bucket).wait()}


def gpt() -> Any:
    """Return a GPT with the same first weights on every rank."""
    import torch
    from gpt_in_torch import GPT

    torch.manual_seed(0)
    return GPT(LAYERS, HEADS, WIDTH, CONTEXT, SYMBOLS)


def step_of(model: Any) -> Call:
    """Return a step of training on one batch."""
    import torch

    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    x, y = torch.randint(SYMBOLS, (2, BATCH, CONTEXT), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def gpt_calls() -> dict[str, Call]:
    """Return a step of the GPT, by contender."""
    from torch.nn.parallel import DistributedDataParallel

    import npdp.torch

    models = {"gloo": DistributedDataParallel(gpt()), "hook": DistributedDataParallel(gpt()), "alone": gpt()}
    models["hook"].register_comm_hook(npdp.torch.state(), npdp.torch.allreduce_hook)
    return {who: step_of(model) for who, model in models.items()}


def in_turn(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Take turns of so many calls; return each turn's microseconds a call, by contender."""
    import torch

    taken: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(TURNS + 2):  # in two DDP lays out its buckets, and caches get warm
        for who, call in calls.items():
            torch.distributed.barrier()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            taken[who].append((time.perf_counter() - start) / repeats * 1e6)
    return {who: times[2:] for who, times in taken.items()}


def rank() -> None:
    """As a rank: measure all; the first one prints it."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    taken = {name: in_turn(bucket_calls(size), max(2, BYTES // size)) for name, size in SIZES.items()}
    taken[STEP] = in_turn(gpt_calls(), 1)
    if torch.distributed.get_rank() == 0:
        print(json.dumps(taken), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # PyTorch 2.13 with gloo aborts now and then at its own end


def one_round(ranks: int) -> dict[str, dict[str, list[float]]]:
    """Start the ranks; return what they have measured."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return json.loads(output_of("torchrun", [*launcher, __file__, "--rank"], ranks).splitlines()[-1])


def make_parser() -> flags.Parser:
    parser = flags.Parser(__doc__, __file__, named=["ranks"])
    parser.add_argument("--ranks", type=flags.RANKS, default=2, metavar="N", help="of the job (2)")
    parser.add_argument("--rounds", type=flags.ROUNDS, default=5, metavar="N", help="of which the median counts (5)")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.rank:
        rank()
        return
    flags.chosen(["torch"], ["torch"])
    rounds = [one_round(arguments.ranks) for _ in range(arguments.rounds)]
    figures: dict[str, dict[str, Times]] = {}
    for what, contenders in rounds[0].items():
        turns = {who: [us for taken in rounds for us in taken[what][who]] for who in contenders}
        figures[what] = {
            "medians": {who: round(statistics.median(taken), 1) for who, taken in turns.items()},
            "least": {who: round(min(taken), 1) for who, taken in turns.items()},
        }
        for kind, us in figures[what].items():
            each = ", ".join(f"{who} {time_us:.0f} us" for who, time_us in us.items())
            print(f"{what:<34} {kind:<8} {each}: gloo / hook {us['gloo'] / us['hook']:.2f}")
    name = f"ddp-hook-{arguments.ranks}-ranks"
    keep(parser, arguments, name, {"microseconds": figures}, ["torch"])


if __name__ == "__main__":
    flags.run(main)
