# %% [markdown]
# # 6. Buckets and overlap
#
# **At the end you will know** why one all-reduce for each parameter is slow, in which order gradients become ready, and
# how training sends some of them while it still computes the others.
#
# It builds on [lesson 5](05_price.ipynb). Reading takes about 12 minutes, running a second.

# %%
import time

import numpy as np

import npdp
from npdp import Tensor, nn
from npdp.parallel.all_reduce import AllReduce
from npdp.parallel.naive import Naive

# %% [markdown]
# ## Many small messages
#
# A network has many parameters: each layer has a weight and a bias. [naive.py](../../npdp/parallel/naive.py) takes an
# all-reduce for each of them. By lesson 5, on 32 ranks with $\alpha$ = 50 µs, each costs at least 62 times $\alpha$,
# even if it is a bias of a few bytes. Say 8 layers, with weights of 4 MB and biases of 4 KB:

# %%
LAYERS, WEIGHT, BIAS = 8, 4e6, 4e3  # bytes


def ring_ms(nbytes, ranks=32, alpha=50e-6, beta=0.8e-9, gamma=0.1e-9):
    """Milliseconds of an all-reduce by the ring, from lesson 5's formula."""
    return 1e3 * (2 * (ranks - 1) * alpha + (ranks - 1) / ranks * nbytes * (2 * beta + gamma))


one_each = LAYERS * (ring_ms(WEIGHT) + ring_ms(BIAS))
all_at_once = ring_ms(LAYERS * (WEIGHT + BIAS))
print(f"one all-reduce a parameter: {one_each:.0f} ms, of which the biases {LAYERS * ring_ms(BIAS):.0f} ms")
print(f"one for all parameters:     {all_at_once:.0f} ms")
assert all_at_once < 0.6 * one_each

# %% [markdown]
# So gradients should travel together. npdp lays all of them side by side in one array, as PyTorch's DDP does, and cuts
# it into *buckets* of some megabytes. A bucket is one all-reduce.
#
# Why not one bucket for all? Because of a second saving. While backward still computes the gradients of some layers,
# those of others are ready, and the network idle. A bucket can leave as soon as its own gradients are ready: this is
# called *overlap*.
#
# ## Predict
#
# A model has layers 0, 1, 2 and 3; forward computes layer 0 first, and layer 3 gives the output. **Of which layer is
# the gradient ready first in backward?**

# %%
prediction = 0  # your number

# %% [markdown]
# ## Run
#
# npdp calls `ready(parameter)` of its strategy, here the class `AllReduce`, as soon as a gradient is complete, and this
# sends a bucket when all of its own are. We write down both. Buckets are small, 0.1 MB, so that there are several.


# %%
class Watched(AllReduce):
    """All-reduce in buckets that writes down what happens when."""

    def attach(self, parameters, communicator):
        super().attach(parameters, communicator)
        self.log, self.order = [], []
        self.layer = {id(parameter): number // 2 for number, parameter in enumerate(parameters)}  # weight, bias, ...

    def ready(self, parameter):
        self.order.append(self.layer[id(parameter)])
        self.log.append(f"gradient of layer {self.order[-1]}, shape {parameter.shape}, is ready")
        super().ready(parameter)

    def _send(self):
        self.log.append(f"                                                   bucket {self._next} leaves")
        super()._send()

    def exchange(self):
        self.log.append("backward is done")
        super().exchange()


def make_model(strategy):
    npdp.manual_seed(0)  # the same weights on every rank
    layers = [nn.Linear(100, 100, dtype=np.float64) for _ in range(4)]
    return nn.DataParallel(nn.Sequential(*layers), strategy=strategy)


def backward(model):
    """Gradients of a loss on inputs that are others on each rank."""
    inputs = np.random.default_rng(npdp.rank()).standard_normal((8, 100))
    (model(Tensor(inputs)) ** 2).mean().backward()
    return [parameter.grad.numpy().copy() for parameter in model.parameters()]


def watch():
    model = make_model(Watched(bucket_cap_mb=0.1, first_bucket_mb=0.1))
    return backward(model), model.strategy.log, model.strategy.order


gradients, log, order = npdp.run_ranks(2, watch)[0]
print("\n".join(log))
first = order[0]

# %% [markdown]
# ## Explain

# %%
print(f"You predicted layer {prediction}; it is layer {first}.")
if prediction == first:
    print("Right: backward goes from the loss to the inputs, so what forward computed last comes first.")
else:
    print("Backward is the chain rule from the loss to the inputs: it begins with what forward computed last.")
leaving = [line for line in log if "leaves" in line]
assert first == 3 and log.index(leaving[0]) < log.index("backward is done")

# %% [markdown]
# So buckets are cut *from the end*: bucket 0 has the last layers, and leaves first, while backward is still at work on
# the others. All ranks must send buckets in the same order. They do, since the order comes from the model, and not from
# who happens to be ready when.
#
# It changes nothing in the result. The naive strategy finds the same gradients:


# %%
def naive():
    return backward(make_model(Naive()))


for by_buckets, one_by_one in zip(gradients, npdp.run_ranks(2, naive)[0]):
    assert np.allclose(by_buckets, one_by_one, rtol=0, atol=1e-12)
print("the same gradients")

# %% [markdown]
# ## What overlap saves
#
# Back to the 8 layers on the network. Say backward takes 8 ms a layer. The network carries one all-reduce at a time,
# each as soon as its gradients are ready and the one before it is done.


# %%
def timeline(name, buckets, overlap):
    """Draw when backward computes (=) and the network works (digits: buckets); `buckets` has layers in each."""
    ready, wire, free = 0.0, "", 0.0
    backward_ms = 8.0 * sum(buckets)
    for number, layers in enumerate(buckets):
        ready += 8.0 * layers
        start = max(free, ready if overlap else backward_ms)
        free = start + ring_ms(layers * (WEIGHT + BIAS))
        wire = wire.ljust(round(start / 2)) + str(number) * round((free - start) / 2)
    print(f"{name}: {free:.0f} ms\n  backward {'=' * round(backward_ms / 2)}\n  network  {wire}\n")
    return free


waiting = timeline("one bucket", [8], overlap=False)
overlapping = timeline("four buckets, overlapped", [2, 2, 2, 2], overlap=True)
layerwise = timeline("a bucket a layer, overlapped", [1] * 8, overlap=True)
assert overlapping < layerwise < waiting

# %% [markdown]
# With four buckets most of the network's time is hidden behind backward: only the last bucket is left, whose gradients
# come at the very end. Eight buckets cost more than four, as each pays for its 62 messages. That is the choice to make:
# large buckets waste no messages, small ones leave early. npdp's buckets have 0.25 MB across hosts, and inside a host
# 25 MB, the first of them 1 MB (`bucket_cap_mb`, `first_bucket_mb`).
#
# Overlap only pays where the network works *by itself*. The ranks of one host add and copy with the very cores that
# backward needs: there npdp sums each bucket at once. What is left is the saving in messages:


# %%
def seconds(strategy_class):
    model = make_model(strategy_class())
    backward(model)
    npdp.barrier()
    start = time.perf_counter()
    for _ in range(10):
        model.zero_grad()
        backward(model)
    return (time.perf_counter() - start) / 10


for strategy_class in (Naive, AllReduce):
    print(f"{strategy_class.__name__:10} {1e3 * max(npdp.run_ranks(2, seconds, strategy_class)):.2f} ms an iteration")

# %% [markdown]
# ## Exercises
#
# 1. Let the first bucket be small: `timeline("...", [1, 2, 2, 3], True)`. Find the best cut by hand, then by a loop.
# 2. Faster computing: 2 ms a layer instead of 8. What can overlap still save? When is the network the limit?
# 3. Call `backward` under `with model.no_sync():` and look at the log. What would that be good for?
# 4. `npdp grade overlap yours.py` checks your own: buckets that leave in the same order on all ranks, and nothing
#    summed twice.
#
# **Read next:** [buckets.py](../../npdp/parallel/buckets.py), then [all_reduce.py](../../npdp/parallel/all_reduce.py):
# you know all of its parts now. Then lesson 7: the parameter server, which does without an all-reduce.
