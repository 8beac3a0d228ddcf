# %% [markdown]
# # 4. The ring
#
# **At the end you will know** the ring all-reduce, in which every rank does the same work and none moves more than
# twice the gradient's bytes, however many ranks there are. You will have written it, proven it, seen it at work, and
# broken it.
#
# It builds on [lesson 3](03_naive_allreduce.ipynb). Reading takes about 15 minutes, running a second.

# %%
import numpy as np

import npdp
from npdp.collectives import WrongSchedule, add, prove, put, show
from npdp.collectives.verify import bytes_sent

# %% [markdown]
# ## Two ideas
#
# In the naive all-reduce one rank adds everything. **First idea: let each rank add a share.** Cut the array into as
# many *chunks* as there are ranks; rank 0 finds the sum of chunk 0, rank 1 that of chunk 1, and so on. That is called
# *reduce-scatter*: the sum is there, scattered over the ranks. After it, each rank gives its finished chunk to all
# others: *allgather*. Both together are an all-reduce.
#
# **Second idea: only talk to your neighbours.** Ranks stand in a ring. Each sends to its right and receives from its
# left, all at the same time, so that every cable is busy all the time.
#
# ```
#        ┌──→ rank 0 ──→ rank 1 ──┐
#        │                        │
#        └─── rank 3 ←── rank 2 ←─┘
# ```
#
# Follow chunk 3 through the reduce-scatter. Rank 0 begins: it sends its chunk 3 to rank 1, which adds its own; rank 1
# sends this partial sum on to rank 2, which adds its own; rank 2 sends it on to rank 3, which adds its own. The sum of
# chunk 3 is complete, on rank 3, after $P - 1 = 3$ steps:
#
# ```
#    rank 0       rank 1          rank 2             rank 3
#    a       ──→  a + b      ──→  a + b + c     ──→  a + b + c + d
#         step 0          step 1             step 2
# ```
#
# Meanwhile chunk 0 does the same from rank 1 to rank 0, chunk 1 from rank 2 to rank 1, and chunk 2 from rank 3 to rank
# 2. In step $s$, rank $r$ sends chunk $r - s - 1$, counted round the ring: modulo $P$. Check it: rank 0 in step 0 sends
# chunk $0 - 0 - 1 = -1$, which is chunk 3; rank 1 in step 1 sends $1 - 1 - 1 = -1$, chunk 3 again.
#
# Then the finished chunks go round in the same way, and each rank puts them where its partial sums were. Rank $r$ has
# finished chunk $r$, so in step $s$ of the allgather it sends chunk $r - s$.


# %%
def ring(world_size):
    ranks = range(world_size)
    for step in range(world_size - 1):  # reduce-scatter: pass on the partial sum that you got last
        yield [add(rank, (rank + 1) % world_size, (rank - step - 1) % world_size) for rank in ranks]
    for step in range(world_size - 1):  # allgather: pass on the finished chunk that you got last
        yield [put(rank, (rank + 1) % world_size, (rank - step) % world_size) for rank in ranks]


print(show(ring(3)))

# %% [markdown]
# Look at the table after step 1: each rank has one chunk with all contributions, `0 1 2`, on the diagonal. That is the
# end of the reduce-scatter. Now prove the ring for all numbers of ranks up to 16, and carry it out.

# %%
for world_size in range(1, 17):
    prove(ring(world_size), "allreduce", world_size)


def program():
    gradient = np.arange(6.0) + 10 * npdp.rank()  # 6 numbers on 4 ranks: chunks of 2, 2, 1 and 1
    npdp.allreduce(gradient, algorithm=ring)
    return gradient


sums = npdp.run_ranks(4, program)
print(sums[0], "on rank 0")
assert all(np.array_equal(total, 4 * np.arange(6.0) + 60) for total in sums)

# %% [markdown]
# ## Predict
#
# Again gradients of 100 MB and 32 ranks. In the naive all-reduce 6,200 MB went through the root's cable. **How many MB
# go through each cable of the ring, in and out together?** (How many steps? How large is what a rank sends in each?)

# %%
prediction = 6200 / 32  # your number, in MB

# %% [markdown]
# ## Run

# %%
NUMBERS = 25_000_000  # float32: 100 MB
for world_size in (2, 4, 8, 16, 32):
    out = [nbytes / 1e6 for nbytes in bytes_sent(list(ring(world_size)), NUMBERS, 4, world_size)]
    each = 2 * max(out)  # a rank receives as much as it sends
    print(f"{world_size:3} ranks  each {each:5.1f} MB {'#' * round(each / 25)}  (naive {200 * world_size - 200:,})")
    assert np.isclose(each, 2 * 2 * (world_size - 1) / world_size * 100, rtol=1e-3) and np.isclose(min(out), max(out))
measured = each

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction:,.1f} MB; it is {measured:,.1f} MB.")
if abs(prediction - measured) < 1:
    print("Right: 2 * 31 steps, in each a chunk of 100 / 32 MB out, and as much in.")
elif abs(prediction - measured / 2) < 1:
    print("That goes out, and as much comes in. It is the root's traffic shared out evenly; but there each message had")
    print("only one end at the root, and here both ends are at ranks of the ring.")
else:
    print("There are 2 * 31 steps: 31 to add, 31 to spread. In each a rank sends one chunk, 100 / 32 MB, and receives")
    print("one: 2 * 31 * 2 * 100 / 32 MB.")

# %% [markdown]
# Each rank sends $2 \frac{P-1}{P} S$ bytes: always less than $2 S$, whatever $P$ is. Nobody can do with less: all but a
# $P$-th of the array must leave a rank to be added elsewhere, or sums must; and as much must come back. The ring is as
# good as it gets, in *bytes*. It pays in *steps*: $2 (P - 1)$ of them, one after the other. Lesson 5 is about that.
#
# ## Break it
#
# A ring is easy to get wrong by one. `prove` says in which step and move it first went wrong, and what it should have
# been. Here are three slips. **Before you run the cell, find each yourself, and say what will go wrong.**


# %%
def slip_1(world_size):
    ranks = range(world_size)
    for step in range(world_size - 1):
        yield [add(rank, (rank + 1) % world_size, (rank - step) % world_size) for rank in ranks]
    for step in range(world_size - 1):
        yield [put(rank, (rank + 1) % world_size, (rank - step) % world_size) for rank in ranks]


def slip_2(world_size):
    ranks = range(world_size)
    for step in range(world_size - 2):
        yield [add(rank, (rank + 1) % world_size, (rank - step - 1) % world_size) for rank in ranks]
    for step in range(world_size - 1):
        yield [put(rank, (rank + 1) % world_size, (rank - step) % world_size) for rank in ranks]


def slip_3(world_size):
    steps = list(ring(world_size))
    steps[1][2] = steps[1][2]._replace(accumulate=False)
    return steps


for slip in (slip_1, slip_2, slip_3):
    try:
        prove(slip(4), "allreduce", 4)
    except WrongSchedule as wrong:
        print(f"{slip.__name__}: {wrong}\n")
    else:
        raise AssertionError("a broken ring was not found out")

# %% [markdown]
# Read the sentences slowly: *which* step, *who* adds or replaces *what*, *what* it should be, and what would be missing
# in the end. Below each is the content of the chunks concerned, before and after that step. Training with such a ring
# is refused with the same sentence, before any rank begins; without the proof it would train on wrong gradients, and
# perhaps never tell you.
#
# ## Exercises
#
# 1. Let the ring run to the left. What changes in the formulas? `prove` knows when you are done.
# 2. Leave out the allgather. What does `prove` say? And `prove(..., "reduce_scatter", 4)`?
# 3. Write the ring by messages, as `naive_allreduce` in lesson 3. (Begin to send before you wait for what comes: if all
#    ranks first wait, all wait for ever. Try that, too.)
# 4. `npdp grade ring yours.py` checks your own, and `npdp grade mend` gives you a broken one to mend. Harder:
#    `npdp grade halving_doubling`, which needs only $2 \log_2 P$ steps for the same bytes.
#
# **Read next:** [ring.py](../../npdp/collectives/ring.py), then [verify.py](../../npdp/collectives/verify.py), which is
# what proves it, and [schedules](../schedules.md). Then [lesson 5](05_price.ipynb): what it costs.
