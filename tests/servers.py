"""Parameter servers in worlds of threads, for tests: programs under them, and runs with a slow worker."""

import time

import numpy as np
from training import fit
from worlds import Parallel, criterion, run

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader


def served(program, servers, workers, memory=True, staleness=0, **options):
    """Run `program(way)` under a parameter server; return what the workers return."""
    way = Parallel(strategy=npdp.ParameterServer(servers, staleness, **options))
    hosts = None if memory else range(servers + workers)
    return run(servers + workers, program, way, hosts=hosts)[:workers]


def slow(staleness, *more, servers=1, workers=3, factor=10):
    """Train with one worker ten times as slow."""
    return fit("--quiet", "--strategy", "ps", "--staleness", staleness, "--servers", servers, "--epochs", "2",
               "--inject", f"slow@rank=1,factor={factor}", *more, ranks=workers + servers)  # fmt: skip


def staleness_of(one):
    return {int(staleness): count for staleness, count in one.end["staleness_histogram"].items()}


def numbers(count):
    return ArrayDataset(np.arange(count * 2, dtype=np.float64).reshape(count, 2), np.arange(count))


def handed_out(way, count, batch_size, passes, breaks=None, accumulate=1, wait_s=0.0):
    """Return the labels that this worker gets in each pass, having made a step for each."""
    npdp.manual_seed(0)
    model = nn.Linear(2, count + 1, dtype=np.float64)
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    batches = DataLoader(numbers(count), batch_size, shuffle=True, seed=0, accumulate=accumulate)
    model = way.wrap(model)
    seen = []
    for number in range(passes):
        seen.append([])
        for step, (x, y) in enumerate(batches):
            if (npdp.rank(), number, step) == breaks:
                break
            criterion(model(x), y).backward()
            seen[-1] += y.data.tolist()
            if (step + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                time.sleep(wait_s * npdp.rank())
    return seen
