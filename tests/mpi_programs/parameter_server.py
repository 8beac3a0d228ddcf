"""Under mpirun: programs that train under a parameter server or local SGD; rank 0 says what came of it."""

import json
import math
import os
import sys
import time
import warnings

import numpy as np

import npdp
from npdp import nn, optim
from npdp.comm.errors import CommunicationError
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.parameter_server.shard import DenseShard

STRATEGIES = {
    "none": None,
    "ps": npdp.ParameterServer(),
    "ps 2 servers": npdp.ParameterServer(2),
    "ps colocated": npdp.ParameterServer(0),
    "ps bounded": npdp.ParameterServer(1, 2),
    "ps asynchronous": npdp.ParameterServer(1, math.inf),
    "ps colocated asynchronous": npdp.ParameterServer(0, math.inf),
    "local-sgd": npdp.LocalSGD(8),
}


def data(count=100):
    x = np.random.default_rng(1).standard_normal((count, 10))
    return ArrayDataset(x, x.sum(axis=1, keepdims=True))


def make(strategy):
    model = nn.Linear(10, 1, dtype=np.float64, generator=np.random.default_rng(0))
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    return npdp.DistributedDataParallel(model, strategy=STRATEGIES[strategy]), optimizer


def step(model, optimizer, inputs, labels):
    loss = nn.MSELoss()(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def loop(strategy):
    """The user's loop of the README."""
    npdp.init()
    model = nn.Linear(10, 1, dtype=np.float64, generator=np.random.default_rng(0))
    criterion = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    dataloader = DataLoader(data(), batch_size=32, shuffle=True)
    model = npdp.DistributedDataParallel(model, strategy=STRATEGIES[strategy])
    for _epoch in range(10):
        for inputs, labels in dataloader:
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if npdp.rank() == 0:
        weight = model.module.weight.data
        print(json.dumps({"workers": npdp.world_size(), "error": float(np.abs(weight - 1).max())}), flush=True)


def fault():
    print(f"at {time.monotonic()}", flush=True)
    raise KeyError("the fault on purpose")


def on_a_server(strategy):
    """The update of a server raises, in its main thread or in a worker's second one."""
    updates, whole = [], DenseShard.apply

    def apply(self, pushes, version):
        updates.append(self)
        if len(updates) == 20 and (not ranks_serve(strategy) or npdp.rank() == 1):
            fault()
        whole(self, pushes, version)

    DenseShard.apply = apply
    for_ever(strategy)


def ranks_serve(strategy):
    return "colocated" in strategy


def on_a_worker(strategy):
    for_ever(strategy, fails=True)


def for_ever(strategy, fails=False):
    model, optimizer = make(strategy)
    batches = DataLoader(data(), batch_size=32, shuffle=True)
    if npdp.rank() == 0:
        print(f"begins {time.monotonic()}", flush=True)
    steps = 0
    while True:
        for inputs, labels in batches:
            if fails and npdp.rank() == 1 and steps == 20:
                fault()
            step(model, optimizer, inputs, labels)
            steps += 1


def one_leaves_early(strategy):
    model, optimizer = make(strategy)
    steps = 0
    for _ in range(30):
        for inputs, labels in DataLoader(data(), batch_size=32):
            if npdp.rank() == 1 and steps == 3:
                print(f"at {time.monotonic()}", flush=True)
                return
            step(model, optimizer, inputs, labels)
            steps += 1
    print(f"worker {npdp.rank()} has taken {steps} steps", flush=True)


def with_an_iterator(strategy):
    """Batches are drawn one at a time, and the pass is still open when the program ends."""
    global batches  # as at the top of a script: it outlives all else
    model, optimizer = make(strategy)
    batches = iter(DataLoader(data(), batch_size=32))
    step(model, optimizer, *next(batches))
    print("done", flush=True)


def step_in_a_child(strategy):
    """A child of each worker takes a step, from the same parameters, as if it were the worker; then the workers do."""
    model, optimizer = make(strategy)
    x = np.ones((32, 10))
    for _ in range(3):
        step(model, optimizer, x, x[:, :1])
    warnings.simplefilter("ignore", DeprecationWarning)  # of what is tried here: a fork beside threads
    if os.fork() == 0:
        try:
            step(model, optimizer, x, x[:, :1])
        except CommunicationError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
    for _ in range(3):
        step(model, optimizer, x, x[:, :1])
    print("done", flush=True)


globals()[sys.argv[1]](sys.argv[2])
