# %% [markdown]
# # 5. The price: alpha, beta, gamma
#
# **At the end you will know** how to tell, before you run it, how long an all-reduce takes; when the ring is the best
# choice and when a tree is; and how to measure the three numbers that decide it on your own machine.
#
# It builds on [lesson 4](04_ring.ipynb). Reading takes about 12 minutes, running some seconds.

# %%
import time
from collections import Counter

import numpy as np

import npdp
from npdp.collectives import halving_doubling, naive, ring, tree
from npdp.collectives.verify import bytes_sent

# %% [markdown]
# ## Three numbers
#
# | | | a network of 10 Gbit/s, roughly |
# |---|---|---|
# | $\alpha$ | seconds for a message, however short | 50 µs |
# | $\beta$ | seconds for each byte sent | 0.8 ns: 1.25 GB/s |
# | $\gamma$ | seconds for each byte added | 0.1 ns |
#
# A message of $n$ bytes that is added takes $\alpha + n \beta + n \gamma$. Ranks work at the same time, so a step takes
# as long as its busiest rank, and a schedule takes the sum of its steps. As schedules are data, a few lines price any:

# %%
NETWORK = 50e-6, 0.8e-9, 0.1e-9  # alpha, beta, gamma


def price(schedule, nbytes, world_size, alpha, beta, gamma):
    """Seconds that a schedule takes, for a buffer of so many bytes."""
    seconds = 0.0
    for step in schedule:
        size = (step[0].stop - step[0].start) * nbytes / world_size  # of each message: here all in a step are alike
        ends = Counter(("from", move.source) for move in step) + Counter(("to", move.target) for move in step)
        busiest = max(ends.values())  # messages that one rank sends, or receives, in this step
        seconds += busiest * (alpha + size * beta) + step[0].accumulate * size * gamma
    return seconds


ALGORITHMS = {
    "naive": naive.allreduce,
    "ring": ring.allreduce,
    "tree": tree.allreduce,  # up a tree to rank 0, and down again: all bytes in each of 2 log2 P steps
}


def seconds(name, nbytes, world_size, constants=NETWORK):
    return price(ALGORITHMS[name](world_size), nbytes, world_size, *constants)


# %% [markdown]
# ## Predict
#
# 32 ranks on that network all-reduce a gradient of just 1 KB, by the ring. **How many microseconds does it take?**

# %%
prediction = 50  # your number, in microseconds

# %% [markdown]
# ## Run

# %%
measured = seconds("ring", 1000, 32) * 1e6
for name in ALGORITHMS:
    took = seconds(name, 1000, 32) * 1e6
    print(f"{name:6} {len(list(ALGORITHMS[name](32))):3} steps {took:7,.0f} us  {'#' * round(took / 50)}")

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction:,} us; the price is {measured:,.0f} us.")
if abs(prediction - measured) < 0.1 * measured:
    print("Right: 2 * 31 steps, each with a message of 50 us. The bytes hardly matter.")
else:
    print("A ring of 32 has 2 * 31 = 62 steps, one after the other, and each takes at least alpha: 62 * 50 = 3,100 us.")
    print("The 1,000 bytes themselves take 2 us in all.")
assert 3100 < measured < 3110

# %% [markdown]
# So the ring, which nobody beats in bytes, is dear where there are few. For a tree it is the other way round: it has
# only $2 \log_2 P$ steps, but in each the whole buffer travels. Your `price` gives just the textbook's formulas:
#
# | | |
# |---|---|
# | ring | $2(P-1)\,\alpha + 2\frac{P-1}{P} S \beta + \frac{P-1}{P} S \gamma$ |
# | tree ($P$ a power of two) | $2 \log_2 P\,(\alpha + S \beta) + \log_2 P\; S \gamma$ |

# %%
P, S, (alpha, beta, gamma) = 32, 1e6, NETWORK
assert np.isclose(seconds("ring", S, P), 2 * (P - 1) * alpha + (P - 1) / P * S * (2 * beta + gamma))
assert np.isclose(seconds("tree", S, P), 2 * 5 * (alpha + S * beta) + 5 * S * gamma)

print("32 ranks   ", *(f"{name:>11}" for name in ALGORITHMS))
for power in range(3, 10):
    prices = {name: seconds(name, 10**power, 32) * 1e3 for name in ALGORITHMS}
    best = min(prices, key=prices.get)
    print(f"10^{power} bytes ", *(f"{took:8,.2f} ms" for took in prices.values()), f"  {best}")

# %% [markdown]
# Below some hundred kilobytes the tree, above it the ring: where they meet, the ring's extra steps cost what the tree's
# extra bytes do. *Halving-doubling* has as few steps as a tree and sends as few bytes as the ring, if $P$ is a power of
# two. By these formulas it beats both; but its partners are far apart, and in a large network their messages get in
# each other's way. npdp prices all its schedules so for the machine it runs on, and takes the cheapest:
# `algorithm="auto"`.

# %%
both = price(halving_doubling.allreduce(32), 1e6, 32, *NETWORK)
print(f"10^6 bytes by halving-doubling: {both * 1e3:.2f} ms")

# %% [markdown]
# ## Measured
#
# What are alpha, beta and gamma here, among four threads of this process? Time what a step of the ring does, with a
# small message and a large one: the small one takes $\alpha$, and what the large one takes more is bytes.


# %%
def step_time(nbytes, adds, steps):
    """Seconds of a step of the ring on this rank: out to the right, in from the left; the mean of several in a row."""
    transport, rank, world_size = npdp.init().transport, npdp.rank(), npdp.world_size()
    mine, theirs = np.ones(nbytes // 8), np.ones(nbytes // 8)
    npdp.barrier()
    start = time.perf_counter()
    for _ in range(steps):
        sending = transport.send(mine, (rank + 1) % world_size)
        transport.wait(transport.receive(theirs, (rank - 1) % world_size))
        transport.wait(sending)
        if adds:
            theirs += mine
    return (time.perf_counter() - start) / steps


def measure():
    small, large, added = step_time(8, False, 300), step_time(2**20, False, 50), step_time(2**20, True, 50)
    return small, max(large - small, 0) / 2**20, max(added - large, 0) / 2**20


HERE = tuple(np.median(npdp.run_ranks(4, measure), axis=0))  # of the four ranks
print(f"alpha {HERE[0] * 1e6:.0f} us, beta {HERE[1] * 1e9:.2f} ns, gamma {HERE[2] * 1e9:.2f} ns")

# %% [markdown]
# Now predict with these, and measure. **Which algorithm will win at 1 KB, and which at 4 MB?**


# %%
def time_allreduce(name, nbytes):
    buffer = np.zeros(nbytes // 8)
    npdp.allreduce(buffer, algorithm=name)  # what is prepared once does not count
    npdp.barrier()
    start = time.perf_counter()
    for _ in range(20):
        npdp.allreduce(buffer, algorithm=name)
    return (time.perf_counter() - start) / 20


for nbytes in (1024, 4 * 2**20):
    for name in ALGORITHMS:
        took, expected = max(npdp.run_ranks(4, time_allreduce, name, nbytes)), seconds(name, nbytes, 4, HERE)
        print(f"{nbytes:>9,} bytes  {name:6} predicted {expected * 1e6:7,.0f} us   measured {took * 1e6:7,.0f} us")

# %% [markdown]
# Times jump about from run to run. Look for two things:
#
# - At 1 KB the *order* is right, as a rule: the tree is quicker than the ring, which has more steps.
# - At 4 MB the ring was predicted to be far ahead, and it is not: all three take about as long. The model is wrong, and
#   it is worth asking why. It gives each rank a cable of its own. The threads of a process have none: all bytes go
#   through the same memory, moved by the same few cores, and what counts is the *total*, not what the busiest rank
#   moves. (Also, npdp sends these chunks of 1 MB in segments of 256 KB: four times alpha.) What is the total?

# %%
for name, schedule in ALGORITHMS.items():
    total = sum(bytes_sent(list(schedule(4)), 2**19, 8, 4))
    print(f"{name:6} {total / (4 * 2**20):.0f} times the buffer, over all ranks")
    assert total == 6 * 4 * 2**20

# %% [markdown]
# The same for all three, $2 (P - 1)$ times the buffer. So the ring wins on a network; inside one machine npdp takes no
# messages at all, but sums in shared memory. [cost.md](../cost.md) says what it adds to the three numbers, for caches
# and for cores that ranks share, and how far off its predictions are then.
#
# ## Exercises
#
# 1. Find the size at which ring and tree cost the same on 32 ranks, from the formulas, and check it with `price`. And
#    on a network with $\alpha$ = 2 µs?
# 2. The ring on 2, 8, 32, 128 ranks at 1 KB and at 100 MB: what grows, what does not?
# 3. `npdp calibrate --transport threads --ranks 4` measures these numbers with more care, and
#    `npdp bench allreduce --transport threads --ranks 4` prints npdp's predictions beside the times. (Without
#    `--transport threads` both take processes and MPI, where there is one.)
# 4. `npdp grade tree` and `npdp grade halving_doubling` let you write both.
#
# **Read next:** [cost.md](../cost.md), then [cost.py](../../npdp/collectives/cost.py). Then
# [lesson 6](06_buckets_overlap.ipynb): how training hides what is left of this price.
