"""nn.init and nn.utils: PyTorch's distributions, in place, from a generator; gradients clipped; parameters in a row."""

import numpy as np
import pytest
from torch_layers import random, torch
from worlds import run

import npdp
from npdp import nn
from npdp.autograd import Tensor

init, theirs = nn.init, torch.nn.init
GAINS = [("linear", None), ("conv2d", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("selu", None),
         ("leaky_relu", None), ("leaky_relu", 0.3)]  # fmt: skip
DRAWN = [
    ("uniform_", {}), ("uniform_", dict(a=-3.0, b=1.0)), ("normal_", {}), ("normal_", dict(mean=2.0, std=0.1)),
    ("trunc_normal_", {}), ("trunc_normal_", dict(mean=1.0, std=2.0, a=0.0, b=2.5)),
    ("xavier_uniform_", {}), ("xavier_uniform_", dict(gain=3.0)), ("xavier_normal_", dict(gain=0.5)),
    ("kaiming_uniform_", {}), ("kaiming_uniform_", dict(a=5**0.5)), ("kaiming_normal_", dict(nonlinearity="relu")),
    ("kaiming_normal_", dict(mode="fan_out", nonlinearity="tanh")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "param"), GAINS)
def test_gains_are_pytorchs(name, param):
    assert init.calculate_gain(name, param) == pytest.approx(theirs.calculate_gain(name, param), rel=1e-15)


@pytest.mark.parametrize(("name", "options"), DRAWN, ids=str)
@pytest.mark.parametrize("shape", [(200, 300), (40, 50, 3, 10)], ids=str)
def test_what_is_drawn_has_pytorchs_mean_deviation_and_bounds(name, options, shape):
    torch.manual_seed(0)
    ours, other = nn.Parameter(np.zeros(shape)), torch.empty(shape, dtype=torch.float64)
    assert getattr(init, name)(ours, **options, generator=np.random.default_rng(0)) is ours
    getattr(theirs, name)(other, **options)
    mine, wanted = ours.data, other.numpy()
    scale = wanted.std()
    assert abs(mine.mean() - wanted.mean()) < 0.03 * scale and abs(mine.std() / scale - 1) < 0.02
    if "normal" not in name or "trunc" in name:
        assert abs(mine.min() - wanted.min()) < 0.02 * scale and abs(mine.max() - wanted.max()) < 0.02 * scale


def test_values_are_written_in_place_where_they_are_and_in_the_order_in_which_they_lie():
    layer = nn.Linear(40, 30)
    before = layer.weight.array
    init.normal_(layer.weight, generator=np.random.default_rng(3))
    assert layer.weight.array is before and layer.weight.version == [1] and layer.weight.requires_grad
    wanted = np.random.default_rng(3).normal(0, 1, (30, 40)).astype(np.float32)
    np.testing.assert_array_equal(layer.weight.data, wanted)
    for fill, value in ((init.ones_, 1), (init.zeros_, 0), (lambda t: init.constant_(t, 0.3), np.float32(0.3))):
        assert (fill(layer.bias).data == value).all()


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (2, 3, 2)], ids=str)
def test_orthogonal_rows_or_columns_are_orthonormal_times_the_gain(shape):
    matrix = init.orthogonal_(nn.Parameter(np.zeros(shape)), gain=2.0).data.reshape(shape[0], -1)
    product = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_ranks_draw_the_same():
    def program():
        npdp.manual_seed(5)
        return init.trunc_normal_(nn.Parameter(np.zeros((3, 4)))).data

    first, *others = run(3, program)
    assert all(np.array_equal(first, other) for other in others)


def test_what_cannot_be_drawn_is_refused():
    vector = nn.Parameter(np.zeros(3))
    for draw in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_):
        with pytest.raises(ValueError, match=r"_: wanted at least two axes, got shape \(3,\)"):
            draw(vector)
    with pytest.raises(ValueError, match="kaiming_uniform_: mode must be fan_in or fan_out, got 'in'"):
        init.kaiming_uniform_(nn.Parameter(np.zeros((2, 2))), mode="in")
    with pytest.raises(ValueError, match="calculate_gain: wanted one of leaky_relu, linear, .* got 'gelu'"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match=r"trunc_normal_: wanted \[a, b\] that keeps a hundredth of N\(0.0, 1.0\^2\)"):
        init.trunc_normal_(vector, a=9.0, b=10.0)


# nn.utils
def test_gradients_are_clipped_by_value_as_pytorchs():
    ours, other = Tensor(random(20), requires_grad=True), torch.tensor(random(20), requires_grad=True)
    for x in (ours, other):
        (x * x).sum().backward()
    assert nn.utils.clip_grad_value_([ours, nn.Parameter(np.ones(2))], 0.5) is None
    torch.nn.utils.clip_grad_value_(other, 0.5)
    np.testing.assert_array_equal(ours.grad, other.grad.numpy())
    assert nn.utils.clip_grad_norm_ is npdp.optim.clip_grad_norm_
    with pytest.raises(ValueError, match="clip_grad_value_: clip_value must be at least 0, got -1"):
        nn.utils.clip_grad_value_(ours, -1)


def test_parameters_go_into_a_vector_and_back():
    layer, twin = nn.Linear(20, 30), nn.Linear(20, 30)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    flat = [np.ravel(p.data) for p in layer.parameters()]
    np.testing.assert_array_equal(vector.data, np.concatenate(flat))
    (vector * 2).sum().backward()
    assert (layer.weight.grad == 2).all()
    nn.utils.vector_to_parameters(vector, twin.parameters())
    for mine, other in zip(layer.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(mine.data, other.data)
    with pytest.raises(ValueError, match=r"wanted a vector of 630 elements, got shape \(3,\)"):
        nn.utils.vector_to_parameters(Tensor(np.zeros(3)), twin.parameters())
