# %% [markdown]
# # 2. Data parallel by hand
#
# **At the end you will know** the seven steps by which several ranks train one model together, why all of them end with
# the same weights as one rank would, and why one must not take the average of averages.
#
# It builds on [lesson 1](01_sgd.ipynb). Reading takes about 12 minutes, running a second.

# %%
import numpy as np

import npdp
from npdp import nn, optim
from npdp.base.partition import part
from npdp.data import ArrayDataset, DataLoader
from npdp.parallel.naive import Naive

# %% [markdown]
# ## The idea
#
# The gradient is a sum over the samples of a batch, divided by their number. A sum can be cut into parts, and each part
# be computed somewhere else. Who takes part is called a *rank*; there are $P$ ranks, numbered from 0. **Every rank has
# the whole model, and a part of each batch:**
#
# ```
#            1 split        2 forward  3 loss  4 backward   5 all-reduce     6 average   7 update
#
#   rank 0   samples 0, 1   →    outputs, loss, gradient  ┐                ┌  / 6    →   same step
#   rank 1   samples 2, 3   →    outputs, loss, gradient  ┼   the sum of   ┼  / 6    →   same step
#   rank 2   sample 4       →    outputs, loss, gradient  ┤  all gradients ┤  / 6    →   same step
#   rank 3   sample 5       →    outputs, loss, gradient  ┘                └  / 6    →   same step
# ```
#
# Only step 5 needs the other ranks. An *all-reduce* takes an array from each rank and leaves the sum of all of them on
# every rank. Here npdp does it; in lessons 3 and 4 you write it yourself.
#
# In these lessons ranks are threads of this process: `npdp.run_ranks(4, program)` calls `program()` on four ranks at
# once, and returns the list of what each has returned. On a cluster ranks are processes, and run the same program.


# %%
def hello():
    mine = np.array([10.0 + npdp.rank()])
    npdp.allreduce(mine)  # in place
    return f"I am rank {npdp.rank()} of {npdp.world_size()}, and the sum of all is {mine[0]}"


for line in npdp.run_ranks(4, hello):
    print(line)

# %% [markdown]
# ## The seven steps
#
# The task is that of lesson 1. Batches of 6 samples: four ranks have 2, 2, 1 and 1 of them.

# %%
generator = np.random.default_rng(0)
true_weight = np.array([[1.0], [-2.0], [0.5]])  # (features, 1)
x = generator.standard_normal((1000, 3))  # (samples, features)
y = x @ true_weight + 0.1 * generator.standard_normal((1000, 1))  # (samples, 1)
BATCH_SIZE, ETA = 6, 0.05


def train():
    """Train for an epoch, as each rank does; return the weights."""
    w = np.zeros((3, 1))  # the same on every rank
    for start in range(0, len(x), BATCH_SIZE):
        batch = range(start, min(start + BATCH_SIZE, len(x)))
        first, last = part(len(batch), npdp.world_size(), npdp.rank())  # 1 split
        mine = batch[first:last]
        outputs = x[mine] @ w  # 2 forward
        errors = outputs - y[mine]  # 3 loss: the mean of errors ** 2
        gradient = 2 * x[mine].T @ errors  # 4 backward: of the *sum* over my samples
        npdp.allreduce(gradient)  # 5 all-reduce: now of the sum over all samples of the batch
        gradient /= len(batch)  # 6 average: divided once, by the samples of all ranks
        w -= ETA * gradient  # 7 update: the same on every rank
    return w


# %%
(alone,) = npdp.run_ranks(1, train)
together = npdp.run_ranks(4, train)
print("one rank  ", alone.ravel())
for rank, w in enumerate(together):
    print("rank", rank, "    ", w.ravel())
assert all(np.array_equal(w, together[0]) for w in together), "all ranks have the same bits"
assert np.allclose(alone, together[0], rtol=0, atol=1e-12), "and those of one rank, up to rounding"

# %% [markdown]
# No rank ever saw the other ranks' samples, and yet all have the weights that one rank finds with all samples. That is
# the promise of data parallel training. It holds for any number of ranks, even if some have nothing to do:

# %%
for world_size in (2, 3, 7, 9):
    difference = np.abs(npdp.run_ranks(world_size, train)[0] - alone).max()
    print(f"{world_size} ranks: largest difference to one rank {difference:.1e}")
    assert difference < 1e-12

# %% [markdown]
# ## Predict
#
# It is tempting to let each rank take the mean over its own samples, as it would alone, and then average these means.
# Rank 0 has four samples, whose gradients are 1, 1, 1 and 1. Rank 1 has one sample, whose gradient is 6. The average of
# the two averages is $(1 + 6) / 2 = 3.5$. **What would one rank with all five samples find?**

# %%
prediction = 3.5  # your number

# %% [markdown]
# ## Run

# %%
parts = [np.array([1.0, 1.0, 1.0, 1.0]), np.array([6.0])]


def average_of_averages():
    mean = np.array([parts[npdp.rank()].mean()])
    npdp.allreduce(mean)
    return mean[0] / npdp.world_size()


def sum_first():
    sum_and_count = np.array([parts[npdp.rank()].sum(), len(parts[npdp.rank()])])
    npdp.allreduce(sum_and_count)
    return sum_and_count[0] / sum_and_count[1]


wrong, right = npdp.run_ranks(2, average_of_averages)[0], npdp.run_ranks(2, sum_first)[0]
print("average of averages", wrong, "  sum first, divide once", right)
assert right == np.concatenate(parts).mean() and wrong != right

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction}; all five samples have the mean {right}.")
if prediction == right:
    print("Right: (1 + 1 + 1 + 1 + 6) / 5. Each sample counts once.")
else:
    print("The sum is 1 + 1 + 1 + 1 + 6 = 10, over five samples. The average of averages lets the one sample")
    print("of rank 1 count as much as the four of rank 0: the smaller a part, the more its samples weigh.")

# %% [markdown]
# With equal parts both are the same, so the mistake is easily missed: it shows when a batch cannot be cut evenly, as
# the last one of an epoch often cannot. (PyTorch's DDP averages averages, and its sampler repeats samples to make parts
# even; npdp does neither.)
#
# ## What npdp has
#
# All this is in one file, [naive.py](../../npdp/parallel/naive.py). It has a trick: the loss of each rank is multiplied
# by $n_r / N$, my samples over all samples, before backward begins. The sum over the ranks is then the mean, with
# nothing left to divide: $\sum_r \frac{n_r}{N} \cdot \frac{\text{sum}_r}{n_r} = \frac{1}{N} \sum_r \text{sum}_r$.


# %%
def train_with_npdp():
    model = nn.Linear(3, 1, bias=False, dtype=np.float64)
    model.weight.data[...] = 0
    optimizer = optim.SGD(model.parameters(), lr=ETA)
    loader = DataLoader(ArrayDataset(x, y), batch_size=BATCH_SIZE)  # 1: gives this rank its part of each batch
    model = nn.DataParallel(model, strategy=Naive())
    for inputs, targets in loader:
        loss = nn.MSELoss()(model(inputs), targets)  # 2, 3
        optimizer.zero_grad()
        loss.backward()  # 4, 5, 6
        optimizer.step()  # 7
    return model.module.weight.data.T


difference = np.abs(npdp.run_ranks(4, train_with_npdp)[0] - alone).max()
print(f"npdp on 4 ranks: largest difference to our one rank {difference:.1e}")
assert difference < 1e-12

# %% [markdown]
# ## Exercises
#
# 1. Leave step 6 out. Which learning rate would make up for it, and when would that go wrong?
# 2. Let rank 1 begin with other weights (`w = np.full((3, 1), float(npdp.rank()))`). Do the ranks ever agree?
# 3. Take the wrong average in `train`: `/= len(mine)` before the all-reduce, `/= npdp.world_size()` after it. How far
#    off are the weights? What happens on 7 ranks, where a part is empty?
# 4. `npdp grade average yours.py` checks your own average over uneven parts, with all the cases that one forgets.
#
# **Read next:** [naive.py](../../npdp/parallel/naive.py) and [strategy.py](../../npdp/parallel/strategy.py). Then
# [lesson 3](03_naive_allreduce.ipynb): what is inside `npdp.allreduce`, at its simplest.
