"""Optimisers on sparse parameters: rows are updated as arrays are, to the bit, and no other row is touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_tables import FLOATS, layers, row_gradient, seeds, sparse, table

from npdp import nn, optim
from npdp.autograd import Tensor
from npdp.autograd.rows import RowGradient
from npdp.nn.parameter import Parameter, lay_flat


def pair(dtype, lr, seed=0, count=50, width=3):
    """Return a sparse and a dense parameter of the same values, and an SGD for each."""
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(dtype)
    mine, dense = nn.SparseParameter(values.copy()), Parameter(values.copy())
    return mine, dense, optim.SGD([mine], lr=lr), optim.SGD([dense], lr=lr)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None)
@given(seeds, st.floats(0, 100))
def test_an_update_of_rows_has_the_bits_of_the_dense_one_and_touches_no_other_row(dtype, seed, lr):
    mine, dense, optimizer, other = pair(dtype, lr, seed)
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero(generator.random(50) < 0.4)
    before = mine.data.copy()
    mine.grad = RowGradient(rows, generator.standard_normal((len(rows), 3)).astype(dtype), mine.shape)
    dense.grad = mine.grad.dense()
    optimizer.step(), other.step()
    assert np.array_equal(mine.data[rows].view(np.uint8), dense.data[rows].view(np.uint8))
    untouched = np.setdiff1d(np.arange(50), rows)
    assert np.array_equal(mine.data[untouched], before[untouched])


def test_a_server_can_update_rows_by_itself():
    mine, _, optimizer, _ = pair(np.float32, 2.0)
    before = mine.data.copy()
    optimizer.update_rows(mine.data, np.array([4, 2]), np.ones((2, 3), np.float32), optimizer.param_groups[0])
    assert np.array_equal(mine.data[[2, 4]], before[[2, 4]] - 2) and np.array_equal(mine.data[5:], before[5:])


def test_who_updates_rows_can_be_replaced():
    mine, _, optimizer, _ = pair(np.float32, 0.1)
    seen, before = [], mine.data.copy()
    mine.row_updater = lambda o, parameter, gradient: seen.append((o, parameter, gradient))
    mine.grad = row_gradient(1, 50)
    optimizer.step()
    assert seen == [(optimizer, mine, mine.grad)] and np.array_equal(mine.data, before)


def test_sparse_and_dense_parameters_train_together():
    x, labels = sparse(table(1)), np.array([0, 1, 2, 0, 1, 2])
    mine, linear = layers(outputs=3)
    optimizers = [optim.SGD(layer.parameters(), lr=0.3) for layer in (mine, linear)]
    for _ in range(5):
        for layer, optimizer, inputs in zip((mine, linear), optimizers, (x, Tensor(x.dense()))):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(layer(inputs), labels).backward()
            optimizer.step()
    np.testing.assert_allclose(mine.weight.data.T, linear.weight.data, atol=1e-13)
    np.testing.assert_allclose(mine.bias.data, linear.bias.data, atol=1e-13)
    assert optimizers[0].iteration == 5


def test_sparse_parameters_are_never_laid_flat():
    layer = nn.SparseLinear(4, 2)
    flats = lay_flat(layer.parameters())
    assert [flat.parameters for flat in flats] == [[layer.bias]] and layer.weight.flat is None
    assert optim.SGD([layer.weight], lr=0.1).groups == [] and lay_flat([layer.weight]) == []


def test_zero_grad_and_a_step_without_a_gradient():
    layer = nn.Embedding(4, 2, sparse=True)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer(np.array([1])).sum().backward()
    optimizer.zero_grad()
    assert layer.weight.grad is None
    before = layer.weight.data.copy()
    optimizer.step()
    assert np.array_equal(layer.weight.data, before)


def test_a_step_between_forward_and_a_backward_that_does_not_read_the_weight_is_no_mistake():
    layer = nn.Embedding(4, 2, sparse=True)
    optimizer, y = optim.SGD(layer.parameters(), lr=0.1), None
    y = layer(np.array([1]))
    layer(np.array([2])).sum().backward()
    optimizer.step()
    y.sum().backward()


@pytest.mark.parametrize(("make", "said"), [
    (lambda p: optim.SGD(p, lr=1, momentum=0.9), "SGD with momentum changes every row"),
    (lambda p: optim.SGD(p, lr=1, weight_decay=0.1), "SGD with weight_decay changes every row"),
    (lambda p: optim.Adam(p), "Adam changes every row"),
    (lambda p: optim.AdamW(p), "AdamW changes every row"),
])  # fmt: skip
def test_an_optimiser_that_changes_every_row_refuses_a_sparse_parameter(make, said):
    with pytest.raises(ValueError, match=f"{said}.*Use SGD without momentum and weight decay"):
        make(nn.SparseLinear(4, 2).parameters())
    make(nn.SparseLinear(4, 2, sparse=False).parameters())


def test_a_dense_gradient_of_a_sparse_parameter_is_refused_before_anything_changes():
    layer, other = nn.Embedding(4, 2, sparse=True), nn.Linear(2, 1)
    optimizer = optim.SGD([*layer.parameters(), *other.parameters()], lr=0.1)
    before = other.weight.data.copy()
    other(layer.weight).sum().backward()
    with pytest.raises(TypeError, match=r"shape \(4, 2\) has a gradient of type ndarray.*sparse=False"):
        optimizer.step()
    assert np.array_equal(other.weight.data, before)


@settings(deadline=None)
@given(seeds, st.floats(0.01, 100))
def test_clipping_sees_rows_as_it_sees_arrays(seed, max_norm):
    mine, dense = nn.SparseParameter(np.zeros((7, 3))), Parameter(np.zeros((7, 3)))
    more = [Parameter(np.zeros(2)) for _ in range(2)]
    mine.grad, dense.grad = row_gradient(seed), row_gradient(seed).dense()
    for parameter in more:
        parameter.grad = np.array([3.0, 4.0])
    norms = [optim.clip_grad_norm_([p, q], max_norm) for p, q in zip((mine, dense), more)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-14)
    np.testing.assert_allclose(mine.grad.dense(), dense.grad, rtol=1e-13)
