"""Parameter servers in worlds of threads, for tests: programs under them, and runs with a slow worker."""

import time

import numpy as np
from training import fit
from worlds import Parallel, assert_close, criterion, loader, parameters, run

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader


def served(program, servers, workers, memory=True, staleness=0, **options):
    """Run `program(way)` under a parameter server; return what the workers return."""
    way = Parallel(strategy=npdp.ParameterServer(servers, staleness, **options))
    hosts = None if memory else range(servers + workers)
    return run(servers + workers, program, way, hosts=hosts)[:workers]


def assert_bits(program, layouts=((1, 2), (2, 3), (0, 2)), memories=(True, False), bits=True):
    """Assert that every worker gets, to the last bit, what all-reduce in rank order gives; or up to rounding."""
    for servers, workers in layouts:
        wanted = run(workers, program, Parallel(), algorithm="naive")[0]
        for memory in memories:
            for rank, got in enumerate(served(program, servers, workers, memory)):
                what = f"worker {rank} of {workers}, {servers} servers, memory {memory}"
                assert_close(got, wanted, what, 1e-12)
                assert not bits or all(np.array_equal(got[name], wanted[name]) for name in wanted), what


def steps(way, optimizers, model, batches=None, backwards=None, epochs=2, between=lambda number: None):
    """Train, several losses a step or one; return the parameters."""
    model = way.wrap(model)
    backwards = backwards or [lambda model, x, y: criterion(model(x), y)]
    number = 0
    for _ in range(epochs):
        for inputs, labels in batches or loader(5):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for loss in backwards:
                loss(model, inputs, labels).backward()
            for optimizer in optimizers:
                optimizer.step()
            number += 1
            between(number)
    return parameters(model)


def slow(staleness, *more, servers=1, workers=3, factor=10):
    """Train with one worker `factor` times as slow."""
    return fit("--quiet", "--strategy", "ps", "--staleness", staleness, "--servers", servers, "--epochs", "2",
               "--inject", f"slow@rank=1,factor={factor}", *more, ranks=workers + servers)  # fmt: skip


def staleness_of(one):
    """Return how many gradients had which staleness, by number."""
    return {int(staleness): count for staleness, count in one.end["staleness_histogram"].items()}


def numbers(count):
    """Return samples of which each has its own number as its label."""
    return ArrayDataset(np.arange(count * 2, dtype=np.float64).reshape(count, 2), np.arange(count))


def wrapped_for_numbers(way, count, batch_size, **options):
    """Return a model that has a class for each of so many numbers, wrapped, its optimiser, and batches of them."""
    model = nn.Linear(2, count + 1, dtype=np.float64)
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    batches = DataLoader(numbers(count), batch_size, **options)
    return way.wrap(model), optimizer, batches


def handed_out(way, count, batch_size, passes, breaks=None, accumulate=1, wait_s=0.0):
    """Return the labels that this worker gets in each pass, having made a step for each."""
    npdp.manual_seed(0)
    options = {"shuffle": True, "seed": 0, "accumulate": accumulate}
    model, optimizer, batches = wrapped_for_numbers(way, count, batch_size, **options)
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
