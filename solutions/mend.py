import numpy as np

import npdp


def allreduce(array):
    """Return the sum over all ranks, by a ring: partial sums go round to the right, then finished chunks."""
    rank, size = npdp.rank(), npdp.world_size()
    chunks = np.array_split(array.copy(), size)
    for step in range(size - 1):
        mine, theirs = (rank - step - 1) % size, (rank - step - 2) % size
        coming = np.empty_like(chunks[theirs])
        exchange(chunks[mine], coming)
        chunks[theirs] += coming
    for step in range(size - 1):
        mine, theirs = (rank - step) % size, (rank - step - 1) % size
        exchange(chunks[mine], chunks[theirs])
    return np.concatenate(chunks)


def exchange(outgoing, incoming):
    """Send to the rank on the right, and receive from the left. A send ends when its receive is there."""
    right, left = (npdp.rank() + 1) % npdp.world_size(), (npdp.rank() - 1) % npdp.world_size()
    if npdp.world_size() == 1:
        return
    if npdp.rank() % 2 == 0:  # one of two neighbours must receive first
        npdp.send(outgoing, to=right)
        npdp.receive(incoming, source=left)
    else:
        coming = np.empty_like(incoming)
        npdp.receive(coming, source=left)
        npdp.send(outgoing, to=right)
        incoming[...] = coming


def gradient(x, y, w):
    """Return the sum over samples of the gradients of (x @ w - y)**2 / 2; x has no rows where there are no samples."""
    each = x * (x @ w - y)[:, None]  # (samples, parameters)
    return each.sum(axis=0)


def average(gradient_sum, count):
    """Return the mean gradient over the samples of all ranks; each has its own sum, over `count` samples."""
    return allreduce(gradient_sum) / allreduce(np.array([float(count)]))[0]


def batches(samples, size):
    """Return an epoch's batches as lists of sample numbers, each sample once; the last batch may be smaller."""
    starts = range(0, samples, size)
    return [list(range(start, min(start + size, samples))) for start in starts]


def learning_rate(base, base_batch, batch):
    """Return the rate for batches of this size, where `base` is right for `base_batch`: it grows with the batch."""
    return base * batch / base_batch


def order(seed, samples):
    """Return the samples in a random order, the same on all ranks."""
    return np.random.default_rng(seed).permutation(samples)


def noise(seed, count):
    """Return random numbers for dropout: other ones on each rank, the same ones when it is run again."""
    return np.random.default_rng([seed, npdp.rank()]).standard_normal(count)


def train(x, y, batch_size):
    """Train one epoch of a linear model from zeros, with a rate of 0.1 for batches of 32; return the parameters."""
    w = np.zeros(x.shape[1])
    eta = learning_rate(0.1, 32, batch_size)
    for batch in batches(len(x), batch_size):
        mine = np.array_split(batch, npdp.world_size())[npdp.rank()].astype(int)
        w = w - eta * average(gradient(x[mine], y[mine], w), len(mine))
    return w
