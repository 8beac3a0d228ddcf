# %% [markdown]
# # 8. Synchronous and asynchronous
#
# **At the end you will know** what is gained when nobody waits for the slowest worker, and what it costs: gradients
# that are *stale*. You will see both in a simulation whose clock is only a number, then in npdp, and repeat a run that
# depends on chance to the last bit.
#
# You need [lesson 7](07_parameter_server.ipynb). Reading takes about 15 minutes, running three seconds.

# %%
import heapq
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# %% [markdown]
# ## Who waits for whom
#
# Three workers; worker 1 takes longer. `=` is computing, `.` is waiting, `|` is an update of the server's parameters.
#
# ```
#   synchronous                             asynchronous
#   worker 0  ===.....|===.....|===.....|   ===|===|===|===|===|===|===|
#   worker 1  ========|========|========|   ========|========|========|
#   worker 2  ===.....|===.....|===.....|   ===|===|===|===|===|===|===|
# ```
#
# One switch has both ends and all between. With *staleness* $s$ a worker may go on when it has done at most $s$
# iterations more than the slowest:
#
# | $s$ | the server applies a gradient | a worker may go on |
# |---|---|---|
# | 0 | when all have come, as one update | with the update (*synchronous*) |
# | 1, 2, ... | at once | when it is at most $s$ ahead of the slowest (*bounded*, stale synchronous parallel, SSP) |
# | inf | at once | at once (*asynchronous*) |
#
# While a worker computes, others change the parameters. How many updates have come in between, the version that its
# gradient is applied to minus the version that it was computed on, is the *staleness of that gradient*.
#
# The simulation needs no server, no thread and no time: a list of *who will be done when*, of which we always take the
# next one.

# %%
def simulate(bound, seconds, until=1000.0):
    """Let workers that take so many seconds an iteration work with a server; return gradients per second, histogram."""
    workers = range(len(seconds))
    version, pulled, done = 0, [0 for _ in workers], [0 for _ in workers]
    under_way = [(seconds[worker], worker) for worker in workers]  # (when it will be done, who)
    waiting, histogram = [], Counter()
    heapq.heapify(under_way)
    while under_way[0][0] <= until:
        now, worker = heapq.heappop(under_way)
        done[worker] += 1
        waiting.append(worker)
        if bound > 0:  # applied on arrival
            histogram[version - pulled[worker]] += 1
            version += 1
        elif not under_way:  # all have come
            histogram[0] += len(workers)
            version += 1
        for worker in list(waiting):
            if done[worker] - min(done) <= bound:
                waiting.remove(worker)
                pulled[worker] = version
                heapq.heappush(under_way, (now + seconds[worker], worker))
    return sum(done) / until, dict(sorted(histogram.items()))


# %% [markdown]
# ## Predict
#
# Four workers. Three take 1 s an iteration, one takes 4 s. Synchronous, four gradients come every 4 s: 1 a second.
# **How many gradients a second come when nobody waits?** And would a bound of 3 help?

# %%
prediction = 4.0  # your number

# %% [markdown]
# ## Run

# %%
SECONDS = [1.0, 4.0, 1.0, 1.0]
rates = {}
for bound in (0, 1, 3, math.inf):
    rates[bound], histogram = simulate(bound, SECONDS)
    print(f"\nstaleness {bound}: {rates[bound]:.2f} gradients a second; how stale they were:")
    for staleness, count in histogram.items():
        print(f"  {staleness:3} {'#' * math.ceil(50 * count / sum(histogram.values()))} {count}")
    assert bound == math.inf or max(histogram) <= 3 * (2 * bound + 1)  # (W - 1)(2s + 1), for W workers

# %% [markdown]
# ## Explain

# %%
print(f"You predicted {prediction}; {rates[math.inf]:.2f} a second come when nobody waits.")
if abs(prediction - rates[math.inf]) < 0.05:
    print("Right: three workers bring 1 each, the slow one a quarter.")
else:
    print("Each works at its own pace: 1 + 1 + 1 + 1/4. The slow one is not free of charge, but it holds up nobody.")
assert abs(rates[math.inf] - 3.25) < 0.02 and rates[0] == 1.0 and rates[3] < 1.05

# %% [markdown]
# The bound of 3 gained nothing: the fast ones run 3 iterations ahead, and then wait as before. A bound helps against a
# worker that is slow *now and then*, as on a shared machine: exercise 2. And look at the histogram without a bound: the
# fast workers' gradients are about 3 updates old, those of the slow one 12.
#
# ## What staleness does to the loss
#
# A step along an old gradient is a correction of an error that others have corrected meanwhile. Take the simplest loss,
# $L(w) = \frac{1}{2} w^2$, whose gradient is $w$ itself. With gradients that are $\tau$ updates old,
#
# $$ w_{t+1} = w_t - \eta\, w_{t-\tau}. $$
#
# Fresh gradients converge for $\eta < 2$. Stale ones need $\eta < 2 \sin \frac{\pi}{2 (2\tau + 1)}$, which is about
# $\frac{\pi}{2}$ divided by $\tau$. So **the price of staleness is a smaller learning rate.**


# %%
def distance_after(tau, eta, steps=400):
    """Return how far from the minimum, 0, it ends, having begun at 1."""
    w = [1.0] * (tau + 1)
    for _ in range(steps):
        w.append(w[-1] - eta * w[-1 - tau])
    return max(abs(value) for value in w[-20:])


print("            eta = 0.1     0.3     0.5     0.9     1.5")
for tau in (0, 1, 2, 4, 12):
    limit = 2 * math.sin(math.pi / (2 * (2 * tau + 1)))
    ends = {eta: distance_after(tau, eta) for eta in (0.1, 0.3, 0.5, 0.9, 1.5)}
    print(f"staleness {tau:2}  ", *(f"{'converges' if end < 1 else 'EXPLODES':>9}"[:9] for end in ends.values()),
          f"  limit {limit:.2f}")  # fmt: skip
    assert all((end < 1) == (eta < limit) for eta, end in ends.items())

# %% [markdown]
# ## The real thing
#
# Four workers and a server on the digits, asynchronous. `--inject` makes each iteration take 2 ms longer, and those of
# worker 1 four times as long. The workers are threads of one process.


# %%
def train(*flags):
    """Return the last line of the metrics, which says how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run.jsonl"
        command = f"-m npdp train --transport threads --ranks 5 --strategy ps --epochs 3 --quiet --metrics {metrics}"
        slow = "--inject delay@ms=2 --inject slow@rank=1,factor=4"
        subprocess.run([sys.executable, *command.split(), *slow.split(), *flags], check=True)
        return json.loads(metrics.read_text().splitlines()[-1])


with tempfile.TemporaryDirectory() as folder:
    record = f"{folder}/arrivals"
    waits = train("--staleness", "0")
    first = train("--staleness", "inf", "--record-arrivals", record)
    second = train("--staleness", "inf")
    again = train("--staleness", "inf", "--replay-arrivals", record)
for name, end in (("synchronous", waits), ("asynchronous", first), ("asynchronous again", second), ("replayed", again)):
    print(f"{name:19} {end['samples_per_s']:6.0f} samples/s, test accuracy {end['test_accuracy']:.3f}, "
          f"sha256 {end['parameters_sha256'][:8]}, staleness {end['staleness_histogram']}")  # fmt: skip

# %% [markdown]
# The two asynchronous runs used the same samples, and ended with other parameters: the order in which gradients arrive
# is chance. The third has the bits of the first. It had a record of that order, in which a gradient that comes too
# early is held back until its turn. Without that nobody could look twice at a mistake.

# %%
assert again["parameters_sha256"] == first["parameters_sha256"]
assert set(waits["staleness_histogram"]) == {"0"} and waits["samples_seen"] == first["samples_seen"] == 3 * 1437

# %% [markdown]
# ## Exercises
#
# 1. All workers alike: `simulate(math.inf, [1.0] * 4)`. Is there staleness without a slow worker? How much, and why?
# 2. Let each iteration take 4 s with chance 0.1 and else 1 s (replace `seconds[worker]` by a draw). What does a bound
#    of 3 gain now?
# 3. `--staleness-lr '1/(1+s)'` divides the learning rate of a stale gradient. Which line of `distance_after` would do
#    that, and does it converge for $\tau = 12$, $\eta = 0.5$?
# 4. `npdp grade parameter_server yours.py` also tries your server with staleness.
#
# **Read next:** [the policies in server.py](../../npdp/parallel/parameter_server/server.py), the table above as three
# short classes.
