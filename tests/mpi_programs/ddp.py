"""PyTorch's DistributedDataParallel with npdp's hook beside DDP without one, under mpirun or torchrun.

    ddp.py compare [hosts]     rank 0 prints the relative difference of gradients, by case; ranks on as many hosts
    ddp.py die | differ [hosts]  rank 1 is killed in a backward; gives DDP another size of buckets than the others
    ddp.py sizes               each rank has a process group of its own
    ddp.py pair die [hosts]    starts two ranks of itself, which no launcher ends, and prints how the first ended
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import npdp
import npdp.torch
from npdp.base.environment import at_last

STEPS = 4


def join():
    """Make the process group; who has no launcher's address meets in a directory that this job alone has."""
    if "MASTER_ADDR" in os.environ:  # torchrun
        dist.init_process_group("gloo")
        return
    folder = os.environ.get("MEETING") or os.environ["PMIX_SERVER_TMPDIR"]
    rank, world_size = (int(os.environ["RANK"]), 2) if "RANK" in os.environ else (npdp.rank(), npdp.world_size())
    dist.init_process_group("gloo", rank=rank, world_size=world_size, init_method=f"file://{folder}/meeting")


def lay_on_hosts(number):
    """Have npdp take the ranks for those of so many hosts."""
    host = dist.get_rank() * number // dist.get_world_size()
    socket.gethostname = lambda: f"host {host}"
    if "RANK" not in os.environ:
        npdp.init().transport.host_number = host


class Branches(nn.Module):
    """Even ranks use one branch, odd ones the other; nobody uses the third."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.branches[dist.get_rank() % 2](x))


def mlp():
    return nn.Sequential(nn.Linear(6, 300), nn.Tanh(), nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 2))


def twins(make, dtype, **options):
    """Return a model under DDP, without the hook and with it."""
    torch.manual_seed(1)
    models = [make().to(dtype) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    wrapped = [DistributedDataParallel(model, **options) for model in models]
    wrapped[1].register_comm_hook(npdp.torch.state(), npdp.torch.allreduce_hook)
    return wrapped


def difference(make, dtype=torch.float32, accumulate=1, uneven=False, **options):
    """Return the largest relative difference of the gradients of a step, of both models, whose parameters stay."""
    model, hooked = twins(make, dtype, **options)
    rank = dist.get_rank()
    steps = STEPS + (rank if uneven else 0)
    batches = [torch.randn(3 + rank, 6, dtype=dtype) for _ in range(steps * accumulate)]
    for each in (model, hooked):
        each.left = []
        with each.join() if uneven else nullcontext():
            for number, x in enumerate(batches, 1):
                syncs = number % accumulate == 0
                with nullcontext() if syncs else each.no_sync():
                    (each(x) ** 2).mean().backward()
                if syncs:
                    each.left.append([p.grad if p.grad is None else p.grad.clone() for p in each.parameters()])
                    each.zero_grad()
    return max(map(relative, model.left, hooked.left))


def relative(wanted, got):
    """Return the relative difference of two lists of gradients, as a norm over all of them."""
    assert [gradient is None for gradient in wanted] == [gradient is None for gradient in got]
    wanted, got = (torch.cat([g.flatten() for g in gradients if g is not None]) for gradients in (wanted, got))
    return float((wanted - got).norm() / wanted.norm())


def compare():
    torch.manual_seed(7 + dist.get_rank())
    found = {
        "plain": difference(mlp),
        "buckets": difference(mlp, bucket_cap_mb=0.05),
        "views": difference(mlp, gradient_as_bucket_view=True),
        "float64": difference(mlp, torch.float64),
        "accumulation": difference(mlp, accumulate=3),
        "unused": difference(Branches, find_unused_parameters=True),
        "static graph": difference(mlp, static_graph=True, bucket_cap_mb=0.05),
        "uneven": difference(mlp, uneven=True),
    }
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, found)
    if dist.get_rank() == 0:
        print(json.dumps({case: max(each[case] for each in everyones) for case in found}))


def train(what):
    """Train with the hook; after some steps rank 1 dies, or from the start it has other buckets."""
    mine = dist.get_rank() == 1
    cap = 0.05 if what == "differ" and mine else 25
    _, hooked = twins(mlp, torch.float32, bucket_cap_mb=cap, find_unused_parameters=True)  # else DDP sees to it itself
    for step in range(STEPS):
        loss = (hooked(torch.randn(5, 6)) ** 2).mean()
        if what == "die" and mine and step == 2:
            print("dies", time.time(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        loss.backward()


def pair(*arguments):
    """Start two ranks as a shell would, and tell when and how the first ended."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, *arguments],
                env={**os.environ, "MEETING": folder, "RANK": str(rank)},
                stderr=subprocess.PIPE if rank == 0 else None,
                text=True,
            )
            for rank in range(2)
        ]
        _, stderr = ranks[0].communicate()
        print(json.dumps({"code": ranks[0].returncode, "at": time.time(), "said": stderr}))
        ranks[1].wait()


def end(done):
    """Leave without PyTorch's own end, which aborts now and then in 2.13, with gloo, without the hook as well."""
    sys.stdout.flush()
    if done:
        os._exit(0)


def main(what, hosts="1"):
    torch.set_num_threads(1)
    done: list[str] = []
    at_last(lambda: end(done))  # before npdp's own, and so called after it
    if what == "sizes":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        npdp.torch.state()
    join()
    lay_on_hosts(int(hosts))
    compare() if what == "compare" else train(what)
    dist.barrier()
    done.append(what)


pair(*sys.argv[2:]) if sys.argv[1] == "pair" else main(*sys.argv[1:])
