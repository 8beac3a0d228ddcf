"""`p.data` and `p.grad` are the parameter's own memory, and take PyTorch's methods as well as NumPy's."""

import copy
import pickle

import numpy as np
import pytest

import npdp
from npdp import nn, optim
from npdp.autograd.values import Values


def trained(steps=1, optimizer=True):
    model = nn.Linear(3, 2, generator=np.random.default_rng(0))
    made = optim.SGD(model.parameters(), lr=0.1) if optimizer else None
    for _ in range(steps):
        model(np.ones((4, 3), np.float32)).sum().backward()
    return model, made


@pytest.mark.parametrize("laid_flat", [True, False])
def test_methods_in_place_change_the_parameter_itself(laid_flat):
    model, _ = trained(optimizer=laid_flat)
    weight, gradient = model.weight, model.weight.grad.numpy().copy()
    weight.data.copy_(np.ones((2, 3), np.float32))
    weight.data.add_(weight.grad, alpha=-0.5)
    np.testing.assert_array_equal(weight.array, 1 - 0.5 * gradient)
    weight.grad.data.mul_(2)
    np.testing.assert_array_equal(weight.raw_grad, 2 * gradient)
    weight.grad.zero_()
    weight.data.zero_()
    assert not weight.raw_grad.any() and not weight.array.any()


@pytest.mark.parametrize("change", [
    lambda p: p.data.__isub__(0.1), lambda p: setattr(p, "data", p.data - 0.1),
    lambda p: setattr(p, "data", npdp.Tensor(p.data - 0.1)), lambda p: p.data.add_(-0.1),
])  # fmt: skip
def test_values_may_be_set_in_any_way_and_the_optimiser_goes_on_from_them(change):
    model, optimizer = trained()
    wanted = model.weight.array - np.float32(0.1) - np.float32(0.1) * model.weight.raw_grad
    change(model.weight)
    optimizer.step()
    np.testing.assert_allclose(model.weight.array, wanted, rtol=1e-6)
    assert model.weight.array is model.weight.data_buffer


def test_what_is_changed_where_it_is_keeps_its_place():
    model, _ = trained()
    weight = model.weight
    weight.data -= 0.1
    weight.grad *= 0.5
    assert weight.array is weight.data_buffer and weight.raw_grad is weight.grad_buffer
    assert type(weight.array) is type(weight.raw_grad) is np.ndarray  # results of another class cost NumPy more
    weight.grad = npdp.Tensor(np.zeros((2, 3), np.float32))
    assert type(weight.raw_grad) is np.ndarray and not weight.raw_grad.any()


def test_a_gradient_may_be_set_where_there_is_none():
    model, optimizer = trained(steps=0)
    for parameter in model.parameters():
        parameter.grad = np.full_like(parameter.data, 2)
    before = model.weight.array.copy()
    optimizer.step()
    np.testing.assert_allclose(before - model.weight.array, 0.2, rtol=1e-5)


def test_they_are_numpy_s_arrays_too():
    model, _ = trained()
    data, grad = model.weight.data, model.weight.grad
    assert isinstance(data, np.ndarray) and np.shares_memory(data, model.weight.array)
    assert grad.sum() == grad.numpy().sum() and grad.abs().sum() == np.abs(grad).sum()
    assert repr(grad) == repr(model.weight.raw_grad)
    assert data.view(-1).shape == data.view(6).shape == (6,) and data.view(3, 2).shape == (3, 2)
    assert data.view(np.int32).dtype == np.int32 and type(data.view(np.ndarray)) is np.ndarray
    with pytest.raises(AttributeError):
        data.nonsense  # noqa: B018
    for twin in (copy.deepcopy(grad), pickle.loads(pickle.dumps(grad))):
        np.testing.assert_array_equal(twin, grad)


def test_results_are_plain():
    model, _ = trained()
    output = model(np.ones((4, 3), np.float32)) @ model.weight
    output.sum().backward()
    assert type(output.array) is np.ndarray and not any(isinstance(v, Values) for v in model.state_dict().values())
