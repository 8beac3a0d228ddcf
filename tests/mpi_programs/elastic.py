"""A small training through deaths; its last line says, as JSON, what came out on this rank.

Arguments: the algorithm, and JSON of who dies where: [[number at launch, iteration], ...].
"""

import json
import os
import signal
import sys
import time

import numpy as np

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.elastic import State, run

SAMPLES, BATCH, EPOCHS, FEATURES, CLASSES = 300, 37, 3, 10, 5


def main(algorithm, deaths):
    npdp.init(algorithm)
    number = npdp.rank()
    generator = np.random.default_rng(1)
    dataset = ArrayDataset(generator.standard_normal((SAMPLES, FEATURES)), generator.integers(0, CLASSES, SAMPLES))
    first, last = nn.Linear(FEATURES, 16, bias=False, dtype=np.float64), nn.Linear(16, CLASSES, dtype=np.float64)
    model = nn.Sequential(first, nn.BatchNorm1d(16, dtype=np.float64), nn.Dropout(0.2), last)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(dataset, BATCH, shuffle=True)
    state, criterion = State(nn.DataParallel(model), optimizer, loader), nn.CrossEntropyLoss()
    losses = {}
    died_s, recovered_s = [], []

    def step(inputs, labels):
        optimizer.zero_grad()
        loss = criterion(state.model(inputs), labels)
        if [number, state.ledger.done] in deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        loss.backward()
        optimizer.step()

    def after(iteration):
        while died_s:
            recovered_s.append(time.monotonic() - died_s.pop())

    run(step, state, EPOCHS, after, losses.__setitem__, lambda recovery: died_s.append(recovery.began_s))
    values = [value for _, value in sorted(state.model.state_dict().items())]
    print(json.dumps({
        "number": number, "world_size": state.world.world_size, "samples": state.ledger.samples,
        "checksum": state.ledger.checksum, "recoveries": state.ledger.recoveries, "losses": losses,
        "values": np.concatenate([np.ravel(value) for value in values]).tolist(), "recovered_s": recovered_s,
    }))  # fmt: skip


main(sys.argv[1], json.loads(sys.argv[2]))
