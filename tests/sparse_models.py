"""Models with sparse parameters, and data for them, small enough to train in a world of threads."""

import numpy as np

import npdp
from npdp import nn
from npdp.data import ArrayDataset, SparseDataset

COLUMNS, CLASSES, COUNT = 30, 4, 13


def dataset(count=COUNT):
    """Return samples of few features each."""
    generator = np.random.default_rng(count)
    x = (generator.random((count, COLUMNS)) < 0.2) * generator.standard_normal((count, COLUMNS))
    x[:, 0] = 1  # a feature that all samples have: a row that all ranks touch
    rows, columns = np.nonzero(x)
    indptr = np.searchsorted(rows, np.arange(count + 1))
    return SparseDataset((indptr, columns, x[rows, columns], COLUMNS), generator.integers(0, CLASSES, count))


def linear(dtype=np.float64):
    layer = nn.SparseLinear(COLUMNS, CLASSES, dtype=dtype)
    layer.weight.data[:] = np.random.default_rng(1).standard_normal(layer.weight.shape)
    return layer


def words(dtype=np.float64):
    """Return a model whose first layer is an embedding: its weight is used twice a sample."""
    npdp.manual_seed(2)

    class Words(nn.Module):
        def __init__(self):
            self.embedding, self.top = nn.Embedding(11, 3, dtype=dtype, sparse=True), nn.Linear(6, CLASSES, dtype=dtype)

        def forward(self, x):
            return self.top(nn.Flatten()(self.embedding(x)))

    return Words()


def word_data(count=COUNT):
    """Return samples of two words each."""
    generator = np.random.default_rng(count)
    return ArrayDataset(generator.integers(0, 11, (count, 2)), generator.integers(0, CLASSES, count))
