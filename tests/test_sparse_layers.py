"""Layers on sparse rows and on numbers: each computes what its dense equivalent does, with gradients by rows."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_tables import FLOATS, layers, seeds, sparse, table
from worlds import run

import npdp
from npdp import nn, optim
from npdp.autograd import Tensor
from npdp.autograd.gradcheck import gradcheck
from npdp.autograd.rows import RowGradient
from npdp.data import SparseRows
from npdp.nn import products


@pytest.fixture(params=["scipy", "numpy"])
def product(request, monkeypatch):
    """With scipy, and as where it is not installed."""
    if request.param == "scipy":
        pytest.importorskip("scipy")
    else:
        monkeypatch.setattr(products, "_csr_array", lambda: None)


def backward(layer, x, seed=6):
    y = layer(x)
    y.backward(np.random.default_rng(seed).standard_normal(y.shape))
    return y.data


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("dtype", FLOATS)
def test_sparse_linear_is_linear_on_the_table(dtype):
    for count in (0, 1, 6):
        dense = table(4, count, dtype=dtype)
        dense[:, 3] = 0  # a column that nobody has, and a row without entries
        dense[1:2] = 0
        mine, linear = layers(dtype)
        tolerance = dict(rtol=0, atol=1e-5 if dtype == np.float32 else 1e-14)
        np.testing.assert_allclose(backward(mine, sparse(dense)), backward(linear, Tensor(dense)), **tolerance)
        assert type(mine.weight.grad) is RowGradient and mine.weight.grad.dtype == dtype
        assert np.array_equal(mine.weight.grad.rows, np.flatnonzero(dense.any(axis=0)))
        np.testing.assert_allclose(mine.weight.grad.dense().T, linear.weight.grad, **tolerance)
        np.testing.assert_allclose(mine.bias.grad, linear.bias.grad, **tolerance)


@pytest.mark.usefixtures("product")
@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 5), st.integers(1, 9), st.integers(1, 4), st.floats(0.05, 1))
def test_sparse_linear_and_linear_agree_on_any_table(seed, count, columns, outputs, part):
    mine, linear = layers(columns=columns, outputs=outputs)
    dense = table(seed, count, columns, part=part)
    np.testing.assert_allclose(backward(mine, sparse(dense)), backward(linear, Tensor(dense)), atol=1e-13)
    np.testing.assert_allclose(mine.weight.grad.dense().T, linear.weight.grad, atol=1e-13)


def test_entries_of_the_same_place_add_up():
    twice = SparseRows([0, 2], [3, 3], [0.5, 1.0], (1, 9))
    mine, linear = layers()
    np.testing.assert_allclose(backward(mine, twice), backward(linear, Tensor(twice.dense())), atol=1e-14)
    np.testing.assert_allclose(mine.weight.grad.dense().T, linear.weight.grad, atol=1e-14)


@pytest.mark.parametrize("make", [
    lambda: (nn.SparseLinear(9, 3, dtype=np.float64), sparse(table(7))),
    lambda: (nn.SparseLinear(9, 3, bias=False, dtype=np.float64), sparse(table(7))),
    lambda: (nn.Embedding(9, 3, dtype=np.float64, sparse=True), np.array([[1, 8, 1], [0, 1, 3]])),
])  # fmt: skip
def test_gradients_are_those_of_finite_differences(make):
    layer, x = make()
    target = np.random.default_rng(8).standard_normal(layer(x).shape)

    def loss():
        return nn.MSELoss()(layer(x), Tensor(target))

    loss().backward()
    for parameter in layer.parameters():
        gradient = np.array(parameter.grad)
        for place in np.ndindex(parameter.shape):
            before = parameter.data[place]
            sides = []
            for step in (1e-6, -1e-6):
                parameter.data[place] = before + step
                sides.append(loss().item())
            parameter.data[place] = before
            assert abs((sides[0] - sides[1]) / 2e-6 - gradient[place]) < 1e-7


def test_a_weight_that_is_used_twice_has_the_sum_and_so_has_a_second_backward():
    a, b = sparse(table(1)), sparse(table(2))
    mine, linear = layers()
    for _ in range(2):
        (mine(a) * mine(b)).sum().backward()
        (linear(Tensor(a.dense())) * linear(Tensor(b.dense()))).sum().backward()
    assert type(mine.weight.grad) is RowGradient
    np.testing.assert_allclose(mine.weight.grad.dense().T, linear.weight.grad, atol=1e-13)


def test_a_layer_that_is_told_so_has_an_array_for_a_gradient():
    dense = table(3)
    mine, linear = layers(sparse=False)
    backward(mine, sparse(dense)), backward(linear, Tensor(dense))
    assert isinstance(mine.weight.grad, np.ndarray)
    np.testing.assert_allclose(mine.weight.grad.T, linear.weight.grad, atol=1e-14)
    embedding = nn.Embedding(5, 2)
    optimizer = optim.Adam(embedding.parameters())  # every optimiser takes it
    embedding(np.array([1, 1])).sum().backward()
    optimizer.step()
    assert isinstance(embedding.weight.grad, np.ndarray) and embedding.weight.grad[1].tolist() == [2, 2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("numbers", [[], [3], [[0, 4, 4], [4, 1, 0]], np.ones((2, 2, 2), np.uint8)])
def test_embedding_is_one_hot_times_its_weight(dtype, numbers):
    numbers = np.array(numbers, np.int64) if isinstance(numbers, list) else numbers
    layer = nn.Embedding(5, 3, dtype=dtype, generator=np.random.default_rng(1), sparse=True)
    one_hot = Tensor(np.eye(5, dtype=dtype)[numbers].reshape(-1, 5))
    weight = Tensor(layer.weight.data.copy(), requires_grad=True)
    y, wanted = layer(Tensor(numbers)), one_hot @ weight
    assert y.shape == (*numbers.shape, 3) and y.dtype == dtype
    np.testing.assert_allclose(y.data.reshape(-1, 3), wanted.data, rtol=1e-6)
    (y * y).sum().backward(), (wanted * wanted).sum().backward()
    np.testing.assert_allclose(layer.weight.grad.dense(), weight.grad, rtol=1e-5)
    assert np.array_equal(layer.weight.grad.rows, np.unique(numbers))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("padding_idx", [0, 4, -2])
def test_a_padding_row_is_zeros_and_has_no_gradient(padding_idx, sparse):
    layer = nn.Embedding(5, 2, padding_idx, sparse=sparse, dtype=np.float64)
    padding = padding_idx % 5
    assert layer.padding_idx == padding and not layer.weight.data[padding].any()
    assert layer.weight.data.all(axis=1).sum() == 4
    layer.weight.data[padding] = 7
    y = layer(np.array([[padding, 1], [1, padding]]))
    assert y.data[0, 0].tolist() == [7, 7]
    (y * y).sum().backward()
    gradient = np.array(layer.weight.grad)
    assert not gradient[padding].any()
    np.testing.assert_allclose(gradient[1], 4 * layer.weight.data[1])
    optim.SGD(layer.parameters(), lr=0.1).step()
    assert layer.weight.data[padding].tolist() == [7, 7]


def test_embedding_begins_as_pytorchs_does():
    values = nn.Embedding(200, 50, generator=np.random.default_rng(0)).weight.data
    assert values.dtype == np.float32 and abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    npdp.manual_seed(3)
    first = nn.Embedding(4, 4).weight.data
    npdp.manual_seed(3)
    assert np.array_equal(nn.Embedding(4, 4).weight.data, first)


@pytest.mark.parametrize(("layer", "x", "error", "said"), [
    (lambda: nn.SparseLinear(0, 3), None, ValueError, "in_features must be a whole number, at least 1, got 0"),
    (lambda: nn.Embedding(3, 0), None, ValueError, "embedding_dim must be a whole number, at least 1, got 0"),
    (lambda: nn.SparseLinear(8, 3), sparse(table(1)), ValueError, r"input of shape \(n, 8\), got \(6, 9\)"),
    (lambda: nn.SparseLinear(9, 3), table(1), TypeError, "wanted SparseRows or a CSR matrix of scipy.sparse, got nd"),
    (lambda: nn.Embedding(5, 3), np.array([0, 5]), ValueError, r"numbers must be in \[0, 5\), got 5"),
    (lambda: nn.Embedding(5, 3), np.array([[2, -1]]), ValueError, r"numbers must be in \[0, 5\), got -1"),
    (lambda: nn.Embedding(5, 3), np.array([1.0]), TypeError, "numbers must be integers, got float64"),
    (lambda: nn.Embedding(5, 3, 5), None, ValueError, r"padding_idx must be a whole number in \[-5, 5\), got 5"),
    (lambda: nn.Embedding(5, 3, 1.0), None, TypeError, r"padding_idx must be a whole number in \[-5, 5\), got 1.0"),
])  # fmt: skip
def test_what_a_layer_cannot_take_is_refused(layer, x, error, said):
    with pytest.raises(error, match=said):
        layer()(x)


@pytest.mark.parametrize("layer", [nn.SparseLinear(9, 3), nn.Embedding(9, 3, sparse=True)])
def test_a_layer_asks_for_rows_before_it_reads_them(layer):
    asked = []

    def fetch(rows):
        asked.append(rows.tolist())
        layer.weight.data[rows] = 7

    layer.weight.fetch = fetch
    if isinstance(layer, nn.Embedding):
        x = Tensor(np.array([3, 1, 3]))
    else:
        x = SparseRows([0, 2, 3], [3, 1, 3], np.ones(3, np.float32), (2, 9))
    y = layer(x)
    assert asked == [[1, 3]] and (y.data % 7 == 0).all() and y.data.any()


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    layer = nn.SparseLinear(9, 3)
    with npdp.no_grad():
        assert not layer(sparse(table(1))).requires_grad
    layer.weight.requires_grad = False
    layer(sparse(table(1))).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None


def test_a_layer_that_several_ranks_use_at_once_answers_each_as_if_it_were_alone():
    generator = np.random.default_rng(0)
    count, features, each = 300, 20_000, 40
    layer = nn.SparseLinear(features, 2)
    layer.weight.data[:] = generator.standard_normal(layer.weight.shape)
    starts, values = np.arange(0, count * each + 1, each), np.ones(count * each, np.float32)
    columns = np.sort(generator.integers(0, features, (4, count, each)), axis=2).reshape(4, -1)
    batches = [SparseRows(starts, indices, values, (count, features)) for indices in columns]
    wanted = [layer(batch).numpy() for batch in batches]

    def wrong():
        found = 0
        with npdp.no_grad():
            for number in range(60):
                which = (number * (npdp.rank() + 1) + npdp.rank()) % len(batches)
                found += not np.array_equal(layer(batches[which]).numpy(), wanted[which])
        return found

    assert run(4, wrong) == [0] * 4


def test_copies_of_a_sparse_layer_are_sparse():
    layer, x = nn.SparseLinear(9, 3), sparse(table(1))
    layer(x)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        again(x).sum().backward()
        assert type(again.weight) is nn.SparseParameter and type(again.weight.grad) is RowGradient
        assert layer.weight.grad is None


def test_a_hook_on_a_sparse_parameter_is_refused():
    with pytest.raises(ValueError, match="a hook takes and gives arrays.*sparse=False"):
        nn.Embedding(3, 2, sparse=True).weight.register_hook(lambda g: None)
    nn.Embedding(3, 2).weight.register_hook(lambda g: None)


def test_gradcheck_knows_a_layer_behind_sparse_ones():
    layer = nn.Embedding(5, 3, sparse=True, dtype=np.float64)
    gradcheck(lambda w: layer(np.array([1, 2])) @ w, Tensor(np.ones((3, 2)), requires_grad=True))
