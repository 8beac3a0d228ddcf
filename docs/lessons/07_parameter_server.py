# %% [markdown]
# # 7. The parameter server
#
# **At the end you will know** how ranks train together without an all-reduce: one rank owns the parameters, the others
# *pull* them and *push* gradients. You will have written such a server in 30 lines, and seen that it gives the result
# of the all-reduce, and what it costs.
#
# You need [lesson 2](02_data_parallel.ipynb). Reading takes about 12 minutes, running three seconds.

# %%
import subprocess
import sys

import numpy as np

import npdp
from npdp import nn, optim
from npdp.base.partition import part
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.naive import Naive

# %% [markdown]
# ## Who owns the parameters?
#
# With an all-reduce every rank has all parameters and updates its own copy. Here only the *server* does. The other
# ranks are *workers*, and have no more than a copy for one batch:
#
# ```
#   worker 0  ──── push: my gradient ───────→  ┌─────────────────┐
#   worker 1  ────────────────────────────→    │ server          │   w ← w − η · (sum of the gradients)
#   worker 2  ────────────────────────────→    │ w, version v    │   v ← v + 1
#       ↑                                      └────────┬────────┘
#       └───────── pull: w, version v ──────────────────┘
# ```
#
# The *version* counts the updates that the parameters have had. A push says on which version its gradient was computed.
# The difference, the version it is applied to minus the version it was computed on, is its *staleness*. Today it is
# always 0, because the server waits for all workers. [Lesson 8](08_staleness.ipynb) changes that.
#
# `npdp.send(array, to)` and `npdp.receive(array, source)` move one array from one rank to another. A send ends when its
# receive is there.

# %%
generator = np.random.default_rng(0)
x = generator.standard_normal((100, 3))  # (samples, features)
y = x @ np.array([[1.0], [-2.0], [0.5]]) + 0.1 * generator.standard_normal((100, 1))
BATCH_SIZE, ETA, EPOCHS = 10, 0.05, 3
BATCHES = [range(start, start + BATCH_SIZE) for _ in range(EPOCHS) for start in range(0, len(x), BATCH_SIZE)]


# %%
def serve(workers):
    """Rank `workers`, the last: own the parameters, and update them once a batch."""
    message = np.zeros(4)  # the version, then the three weights
    w, push, staleness = message[1:], np.zeros(4), []
    for _ in BATCHES:
        for worker in range(workers):  # each pulls
            npdp.send(message, to=worker)
        total = np.zeros(3)
        for worker in range(workers):  # each pushes
            npdp.receive(push, source=worker)
            staleness.append(message[0] - push[0])
            total += push[1:]
        w -= ETA * total
        message[0] += 1  # a new version
    assert set(staleness) == {0}
    return message[0], w


def work(workers):
    """Ranks 0, 1, ... below `workers`: compute gradients, and own nothing."""
    message = np.zeros(4)
    for batch in BATCHES:
        npdp.receive(message, source=workers)  # pull
        w = message[1:].reshape(3, 1)
        first, last = part(len(batch), workers, npdp.rank())  # my part of the batch
        mine = batch[first:last]
        gradient = 2 * x[mine].T @ (x[mine] @ w - y[mine]) / len(batch)  # (3, 1), my share of the batch's mean
        message[1:] = gradient[:, 0]  # the version stays in front
        npdp.send(message, to=workers)  # push


def train_by_hand(workers=3):
    return serve(workers) if npdp.rank() == workers else work(workers)


version, by_hand = npdp.run_ranks(4, train_by_hand)[-1]  # three workers and a server
print(f"version {version:.0f}, weights {by_hand.round(3)}")
assert version == len(BATCHES) == 30  # each batch makes a version

# %% [markdown]
# ## Predict
#
# So why do we need an all-reduce at all? Count what passes through the server. A gradient has $S$ numbers. In one
# iteration each worker pushes it, and pulls as many parameters. In a ring each rank sends and receives $2 S (P-1)/P$
# numbers each.
#
# Say that the model has $S$ = 1000 numbers, and there are 8 workers and one server. **How many numbers enter or leave
# the server in one iteration?**

# %%
prediction = 4000  # your number

# %% [markdown]
# ## Run


# %%
def numbers_through(servers, workers=8, count=1000):
    """Do one iteration, with a shard a server; return how many numbers passed through this rank."""
    rank, passed = npdp.rank(), 0
    for server in range(workers, workers + servers):
        first, last = part(count, servers, server - workers)
        shard = np.zeros(last - first)
        for worker in range(workers):
            for source, target in ((server, worker), (worker, server)):  # pull, push
                if rank == source:
                    npdp.send(shard, to=target)
                elif rank == target:
                    npdp.receive(shard, source=source)
                passed += shard.size * (rank in (source, target))
    return passed


through = {servers: npdp.run_ranks(8 + servers, numbers_through, servers)[-1] for servers in (1, 2, 4, 8)}
for servers, numbers in through.items():
    print(f"{servers} server(s): {numbers:6} numbers each  " + "#" * (numbers // 500))
print(f"ring of 8:   {2 * 2 * 1000 * 7 // 8:6} numbers each  " + "#" * (3500 // 500))
assert through[1] == 2 * 8 * 1000 and through[4] == through[1] / 4

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction}; {through[1]} numbers pass through one server.")
if prediction == through[1]:
    print("Right: 8 workers, each 1000 down and 1000 up.")
else:
    print("8 workers push 1000 each, and pull 1000 each: 2 * 8 * 1000. It grows with the number of workers.")

# %% [markdown]
# One server is a bottleneck, as the root of the naive all-reduce was. The cure is to cut the *parameters* into
# *shards*, one a server. Where each of 8 ranks is worker and server of a shard (`servers=0`), it moves 3500 numbers, as
# in a ring. So bytes are no reason for servers. The waiting is: a server can go on without the slowest worker. See
# lesson 8.
#
# ## What npdp has
#
# Only the wrapper of the model changes: `nn.DataParallel(model, strategy=npdp.ParameterServer(servers=1))`. Ranks in
# order are workers, then servers, as above. On a server's rank the line that wraps the model serves until all workers
# are done, and then ends that rank's program. Does it give the *same bits* as an all-reduce over three ranks?


# %%
def train(strategy):
    model = nn.Linear(3, 1, bias=False, dtype=np.float64)
    model.weight.data[...] = 0
    optimizer = optim.SGD(model.parameters(), lr=ETA)
    model = nn.DataParallel(model, strategy=strategy())  # a server stays in this line
    for _ in range(EPOCHS):
        for inputs, targets in DataLoader(ArrayDataset(x, y), batch_size=BATCH_SIZE):
            loss = nn.MSELoss()(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # the gradient stays here
            optimizer.step()  # push it, pull what comes of it
    return model.module.weight.data[0].copy()


with_server = npdp.run_ranks(4, train, npdp.ParameterServer)  # three workers, one server
with_allreduce = npdp.run_ranks(3, train, Naive)
print("server     ", with_server[0], "\nall-reduce ", with_allreduce[0])
assert np.array_equal(with_server[0], with_allreduce[0]), "the same bits: the server adds in worker order"
assert np.allclose(with_server[0], by_hand, rtol=0, atol=1e-12)

# %% [markdown]
# The same from the command line, on the digits. The hash `parameters_sha256` tells any two models apart.


# %%
def sha256_of(flags):
    command = [sys.executable, "-m", "npdp", "train", "--transport", "threads", "--epochs", "2", *flags.split()]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return output.split("sha256")[1].split()[0]


hashes = [sha256_of(flags) for flags in ("--ranks 4 --strategy ps --servers 1", "--ranks 3 --strategy naive")]
print(*hashes, sep="\n")
assert hashes[0] == hashes[1]

# %% [markdown]
# ## Exercises
#
# 1. Give the server momentum 0.9. Where does the velocity live: with the server, or with the workers? How much memory
#    does a worker save, compared with an all-reduce?
# 2. Let workers push first and pull afterwards, and change nothing in `serve`. Read the error: who waits for whom?
# 3. `npdp grade parameter_server yours.py` checks your own server.
#
# **Read next:** [server.py](../../npdp/parallel/parameter_server/server.py): the same logic, with no messages in it.
# Then [lesson 8](08_staleness.ipynb): the server stops waiting.
