# %% [markdown]
# # 3. The naive all-reduce, and why it does not scale
#
# **At the end you will know** how an all-reduce is made of single messages, how to write down who sends what to whom as
# data, and why the simplest way breaks down when there are many ranks.
#
# It builds on [lesson 2](02_data_parallel.ipynb). Reading takes about 10 minutes, running a second.

# %%
import numpy as np

import npdp
from npdp.collectives import add, prove, put, show
from npdp.collectives.verify import bytes_sent

# %% [markdown]
# ## One rank does it all
#
# Each rank has a gradient; each shall have the sum. The simplest way: rank 0, the *root*, gets all gradients, adds them
# up, and sends the sum back.
#
# ```
#            gather and add                    send back
#
#   rank 1  ────┐                            ┌────→  rank 1
#   rank 2  ────┼──→  rank 0: sum  ──────────┼────→  rank 2
#   rank 3  ────┘                            └────→  rank 3
# ```
#
# Below `npdp.allreduce` there are only messages between two ranks. A `send` and a `receive` only begin; `wait` returns
# when the message has come.


# %%
def naive_allreduce(array):
    """All-reduce in place, by messages."""
    transport = npdp.init().transport  # moves messages for this rank
    peers = range(1, npdp.world_size())
    if npdp.rank() == 0:
        theirs = np.empty_like(array)
        for peer in peers:
            transport.wait(transport.receive(theirs, peer))
            array += theirs
        for peer in peers:
            transport.wait(transport.send(array, peer))
    else:
        transport.wait(transport.send(array, 0))
        transport.wait(transport.receive(array, 0))


def program():
    gradient = np.arange(4.0) + 10 * npdp.rank()  # another one on each rank
    naive_allreduce(gradient)
    return gradient


sums = npdp.run_ranks(4, program)
for rank, total in enumerate(sums):
    print("rank", rank, total)
assert all(np.array_equal(total, [60, 64, 68, 72]) for total in sums)

# %% [markdown]
# ## The same as data
#
# Who sends what to whom need not be hidden in such loops. npdp writes it down as a value, a *schedule*: a list of
# steps, each a list of moves, for all ranks at once. `add(source, target, ...)` is a message that the receiver adds to
# what it has; the receiver of `put(source, target, ...)` replaces what it has. The array is thought of as cut into as
# many chunks as there are ranks, which lesson 4 needs. Here all of them travel together: chunks 0 up to `world_size`.


# %%
def naive(world_size):
    for rank in range(1, world_size):
        yield [add(rank, 0, 0, world_size)]  # gather and add, one after the other
    yield [put(0, rank, 0, world_size) for rank in range(1, world_size)]  # send back


print(show(naive(3)))

# %% [markdown]
# `1 +> 0` is rank 1 sending and rank 0 adding; `0 -> 1` replaces. The tables say *whose* contribution is in each chunk
# after each step: at the end that of ranks 0, 1 and 2, everywhere. `prove` checks just that, for any schedule and
# number of ranks: each chunk holds each rank's contribution exactly once, and nobody waits for ever. It says nothing if
# all is well. What was proven can be carried out, by `npdp.allreduce(array, algorithm=naive)`.

# %%
for world_size in range(1, 17):
    prove(naive(world_size), "allreduce", world_size)


def program_with_schedule():
    gradient = np.arange(4.0) + 10 * npdp.rank()
    npdp.allreduce(gradient, algorithm=naive)
    return gradient


assert np.array_equal(npdp.run_ranks(4, program_with_schedule), sums)

# %% [markdown]
# ## Predict
#
# A model with 25 million parameters has gradients of 100 MB. It is trained on 32 ranks, with the naive all-reduce.
# **How many MB go through rank 0's network cable in each iteration, in and out together?**

# %%
prediction = 200  # your number, in MB

# %% [markdown]
# ## Run
#
# Counted from the schedule: `bytes_sent` adds up the bytes of each rank's moves; what arrives is counted likewise.


# %%
def received(schedule, count, itemsize, world_size):
    """Bytes that each rank receives: what it would send if all moves went the other way."""
    backwards = [[move._replace(source=move.target, target=move.source) for move in step] for step in schedule]
    return bytes_sent(backwards, count, itemsize, world_size)


def traffic_mb(world_size):
    """MB in and out of each rank, for 25 million float32 numbers."""
    schedule, count = list(naive(world_size)), 25_000_000
    out, into = bytes_sent(schedule, count, 4, world_size), received(schedule, count, 4, world_size)
    return [(sent + got) / 1e6 for sent, got in zip(out, into)]


for world_size in (2, 4, 8, 16, 32):
    root, other = traffic_mb(world_size)[:2]
    print(f"{world_size:3} ranks   rank 0 {root:6,.0f} MB {'#' * round(root / 100)}")
    print(f"            others {other:6,.0f} MB {'#' * round(other / 100)}")
measured = traffic_mb(32)[0]
assert measured == 2 * 31 * 100 and set(traffic_mb(32)[1:]) == {200}

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction} MB; it is {measured:,.0f} MB.")
if prediction == measured:
    print("Right: 31 ranks send 100 MB each, and 31 times 100 MB go back.")
elif prediction == 200:
    print("200 MB is what each of the *others* has: 100 MB out, 100 MB in. The root has that with each of its")
    print("31 peers: 2 * 31 * 100 MB.")
else:
    print("31 ranks send 100 MB each, and the root sends 100 MB back to each: 2 * (P - 1) * S = 2 * 31 * 100 MB.")

# %% [markdown]
# With $P$ ranks and gradients of $S$ bytes, the root has $2 (P-1) S$ bytes to move, all others $2 S$. Twice as many
# ranks halve what each has to *compute*, but double what the root has to *move*. Say that one rank computes an
# iteration in 16 s, and that a cable of 10 Gbit/s carries 1250 MB/s:

# %%
for world_size in (2, 4, 8, 16, 32, 64):
    compute_s, move_s = 16 / world_size, 2 * (world_size - 1) * 100 / 1250
    bar = "=" * round(3 * compute_s) + "." * round(3 * move_s)
    print(f"{world_size:3} ranks {compute_s + move_s:6.2f} s  {bar}")
print("                     = computing   . all-reduce, through the root's cable")

# %% [markdown]
# It gets better up to 8 ranks, and then worse: 64 ranks are slower than 2. Meanwhile the cables of all others are idle
# most of the time. That is the root's fault, not the all-reduce's: in the next lesson all ranks work alike, and none
# moves more than $2 S$ out and $2 S$ in, however many there are.
#
# Naive has its place: for a few bytes, or for two ranks, nothing is simpler. It is also the measure of the others,
# since it adds in rank order, and one sees that it is right.
#
# ## Exercises
#
# 1. Let the receiver of `naive_allreduce` forget to add (`array[...] = theirs`). Then do it in the schedule (`put`
#    instead of `add`), and read what `prove` says.
# 2. The root first receives from rank 1, and waits. What if rank 1 is late, but rank 2 is not? Could one step have all
#    the `add`s? Try it with `prove`.
# 3. Let rank 1 send to 0 and at the same time 3 to 2; then 2 to 0; and back: a *tree*. How many steps for 4, 8, 16
#    ranks? How many bytes at the root?
# 4. `npdp grade naive yours.py` and `npdp grade tree yours.py` check your own.
#
# **Read next:** [naive.py](../../npdp/collectives/naive.py) and [tree.py](../../npdp/collectives/tree.py), and of the
# page on [schedules](../schedules.md) the first half. Then [lesson 4](04_ring.ipynb): the ring.
