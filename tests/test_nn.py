"""Modules and layers: names of parameters, parts and their order, copies, Linear's first values and results."""

import copy
import pickle

import numpy as np
import pytest
from arithmetic import TiedModel

import npdp
from npdp import nn, optim
from npdp.autograd import Tensor


# Modules
def test_parameters_are_named_by_their_path_and_a_shared_one_comes_once():
    model = TiedModel()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["scale", "first.weight", "first.bias", "body.1.weight", "body.1.bias"]
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()}) == 5
    assert [name for name, _ in model.named_modules()] == ["", "first", "body", "body.0", "body.1", "again"]


def test_a_module_prints_what_it_is_made_of():
    text = repr(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Dropout(0.25), nn.Sequential(nn.ReLU())))
    assert text == (
        "Sequential(\n  (0): Linear(2, 3, bias=False)\n  (1): Dropout(p=0.25)\n"
        "  (2): Sequential(\n    (0): ReLU()\n  )\n)"
    )
    assert repr(nn.MSELoss("sum")) == "MSELoss(reduction='sum')"


def test_train_and_eval_reach_all_modules():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Dropout())))
    assert all(module.training for module in model.modules())
    assert model.eval() is model and not any(module.training for module in model.modules())
    assert model.train() is model and model[1][1][0].training


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


def test_zero_grad_forgets_all_gradients():
    model = TiedModel()
    model(np.ones((2, 30), np.float32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_sequential_applies_its_modules_in_order():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Sigmoid())
    x = Tensor(np.ones((4, 2), np.float32))
    assert len(model) == 4 and isinstance(model[1], nn.Tanh)
    np.testing.assert_array_equal(model(x).data, model[0](x).tanh().sigmoid().data)
    assert nn.Sequential()(x) is x


def test_a_module_put_in_the_place_of_another_is_used():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    setattr(model, "1", nn.Tanh())
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh]
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(model(x).data, np.tanh(model[0](x).data))


def test_a_copy_of_a_model_trains_by_itself():
    model = nn.Linear(3, 20)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = twin.weight.data.copy()
        mine = optim.SGD(twin.parameters(), lr=0.1)
        twin(np.ones((2, 3), np.float32)).sum().backward()
        mine.step()
        assert not np.array_equal(twin.weight.data, before)
        assert np.array_equal(model.weight.data, before)
    assert optimizer.parameters[0].grad is None


def test_parallel_names_are_found_where_pytorch_has_them():
    assert nn.DataParallel.__name__ == "DataParallel"
    with pytest.raises(AttributeError, match="has no attribute 'Conv7d'"):
        _ = nn.Conv7d


# Linear
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_draws_its_first_values_within_bounds_from_the_generator(dtype):
    layers = [nn.Linear(100, 50, dtype=dtype, generator=np.random.default_rng(s)) for s in (3, 3, 4)]
    for name in ("weight", "bias"):
        first, same, other = (getattr(layer, name).data for layer in layers)
        assert first.dtype == dtype and np.abs(first).max() <= 0.1
        assert np.abs(first).max() > 0.09 and abs(first.mean()) < 0.02
        assert abs(first.std() - 0.1 / np.sqrt(3)) < 0.01
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()
    assert layers[0].weight.shape == (50, 100)


def test_the_seed_makes_the_first_values():
    npdp.manual_seed(5)
    first = nn.Linear(3, 2).state_dict()
    second = nn.Linear(3, 2).state_dict()
    npdp.manual_seed(5)
    again = nn.Linear(3, 2).state_dict()
    np.testing.assert_array_equal(first["weight"], again["weight"])
    assert (first["weight"] != second["weight"]).any()


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (0, 3), (0, 4, 3), (2, 0, 3)])
def test_linear_works_on_the_last_axis(shape):
    layer = nn.Linear(3, 2, dtype=np.float64)
    x = Tensor(np.arange(float(np.prod(shape))).reshape(shape), requires_grad=True)
    y = layer(x)
    np.testing.assert_allclose(y.data, x.data @ layer.weight.data.T + layer.bias.data)
    y.sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(layer.weight.data.sum(0), shape))
    assert layer.weight.grad.shape == (2, 3)
    np.testing.assert_allclose(layer.bias.grad, np.full(2, np.prod(shape[:-1])))


def test_linear_without_bias_has_one_parameter():
    layer = nn.Linear(3, 2, bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight"] and layer.bias is None
    np.testing.assert_array_equal(layer(np.zeros((2, 3), np.float32)).data, np.zeros((2, 2)))


def test_flatten_keeps_rows():
    assert nn.Flatten()(np.zeros((4, 2, 3))).shape == (4, 6)
    assert nn.Flatten()(np.zeros((0, 2, 3))).shape == (0, 6)
    assert nn.Flatten()(np.zeros(4)).shape == (4, 1)


@pytest.mark.parametrize(("message", "call"), [
    ("Linear: in_features must be a whole number, at least 1, got 0", lambda: nn.Linear(0, 2)),
    (r"Linear: wanted an input of shape \(..., 3\), got \(2, 4\)", lambda: nn.Linear(3, 1)(np.zeros((2, 4)))),
    (r"wanted an input of shape \(..., 3\), got \(\)", lambda: nn.Linear(3, 1)(1.0)),
    (r"p must be in \[0, 1\), got 1", lambda: nn.Dropout(1)),
    (r"p must be in \[0, 1\), got nan", lambda: nn.Dropout(float("nan"))),
])  # fmt: skip
def test_what_a_layer_cannot_take_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()
