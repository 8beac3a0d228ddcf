"""Sparse rows, gradients by rows and layers for them, for tests: each beside the table that says the same."""

import numpy as np
from hypothesis import strategies as st

from npdp import nn
from npdp.autograd.rows import RowGradient
from npdp.data import SparseRows

FLOATS = (np.float32, np.float64)
seeds = st.integers(0, 2**32 - 1)


def row_gradient(seed, count=7, width=3):
    """Return a gradient with small whole numbers at some rows, so that sums are exact."""
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(generator.random(count) < 0.5)
    return RowGradient(rows, generator.integers(-5, 6, (len(rows), width)).astype(float), (count, width))


def table(seed, count=6, columns=9, dtype=np.float64, part=0.3):
    """Return a table of which a part is not 0."""
    generator = np.random.default_rng(seed)
    return ((generator.random((count, columns)) < part) * generator.standard_normal((count, columns))).astype(dtype)


def sparse(dense):
    """Return the rows of a table."""
    rows, columns = np.nonzero(dense)
    indptr = np.searchsorted(rows, np.arange(len(dense) + 1))
    return SparseRows(indptr, columns, dense[rows, columns], dense.shape)


def layers(dtype=np.float64, columns=9, outputs=4, seed=5, **options):
    """Return a SparseLinear and the Linear that computes the same."""
    generator = np.random.default_rng(seed)
    mine, dense = nn.SparseLinear(columns, outputs, dtype=dtype, **options), nn.Linear(columns, outputs, dtype=dtype)
    mine.weight.data[:] = generator.standard_normal((columns, outputs))
    mine.bias.data[:] = generator.standard_normal(outputs)
    dense.load_state_dict({"weight": mine.weight.data.T, "bias": mine.bias.data})
    return mine, dense
