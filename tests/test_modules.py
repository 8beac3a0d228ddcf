"""Building a model part by part, and changing it: what may be a part, the number of each dropout, parameters."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from npdp import nn, optim
from npdp.autograd import Tensor, no_grad
from npdp.nn.forward import Forward
from npdp.nn.masks import Masks


class Block(nn.Module):
    """A part of a model, to which a dropout may come later."""

    def __init__(self):
        self.first = nn.Linear(2, 2)


class Model(nn.Module):
    """A dropout, and a part after it."""

    def __init__(self):
        self.early = nn.Dropout(0.5, seed=1)
        self.block = Block()


def test_children_are_the_attributes_and_apply_goes_from_the_leaves_up():
    model, seen = Model(), []
    assert list(model.children()) == [model.early, model.block]
    assert model.apply(seen.append) is model
    assert seen == [model.early, model.block.first, model.block, model]


def test_parameters_are_frozen_and_unfrozen_together():
    model = nn.Sequential(Model(), nn.Linear(2, 1))
    assert model[0].requires_grad_(False) is model[0]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]
    model.requires_grad_()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_ddp_is_found_where_pytorch_has_it():
    from npdp.nn.parallel import DataParallel, DistributedDataParallel

    assert DistributedDataParallel is DataParallel is nn.DataParallel
    with pytest.raises(ImportError, match="cannot import name 'scatter'"):
        from npdp.nn.parallel import scatter  # noqa: F401


def numbers(model):
    """Return the number of each dropout, in the order of the model, which is made ready for its first forward."""
    model.join_forwards(Forward())
    return [module.layer_number for module in model.modules() if isinstance(module, nn.Dropout)]


def mask(layer):
    return layer(np.ones((4, 30), np.float32)).data


def test_a_dropout_that_comes_later_to_a_part_of_a_model_has_a_mask_of_its_own():
    model = Model()
    model.block.late = nn.Dropout(0.5, seed=1)
    assert numbers(model) == [0, 1]
    assert not np.array_equal(mask(model.early), mask(model.block.late))


def test_dropouts_are_numbered_by_the_model_that_is_called_or_was_wrapped():
    model = Model()
    model.block.late = nn.Dropout(0.5, seed=1)
    whole = nn.Sequential(nn.Dropout(), model)
    nn.DataParallel(model.block)
    assert model.block.late.layer_number == 0
    assert numbers(model) == [0, 1] and numbers(whole) == [0, 1, 2]


def test_a_wrapped_model_keeps_its_dropouts_where_it_is_a_part_of_another():
    class Pair(nn.Module):
        def __init__(self):
            self.own = nn.Dropout(0.5, seed=1)
            self.part = nn.DataParallel(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))

        def forward(self, x):
            return self.part(self.own(x))

    model = Pair()
    model(np.ones((2, 3), np.float32))
    assert model.part._forwards is model.part.module[1].forwards and model.own.forwards is not model.part._forwards


def test_a_model_that_is_called_without_its_wrapper_has_another_mask_each_time_and_a_copy_begins_anew():
    model = nn.DataParallel(nn.Sequential(nn.Dropout(0.5, seed=1), nn.Identity()))
    x = np.ones((4, 30), np.float32)
    first, second, third = model(x).data, model.module(x).data, model.module(x).data
    assert not any(np.array_equal(*pair) for pair in ((first, second), (first, third), (second, third)))
    twin = copy.deepcopy(model.module)
    np.testing.assert_array_equal([twin(x).data, twin(x).data], [first, second])


def test_a_layer_that_is_set_twice_counts_twice():
    tied = nn.Dropout()
    assert numbers(nn.Sequential(tied, tied, nn.Dropout())) == [1, 1, 2]


def test_a_part_that_was_taken_out_counts_by_itself():
    model = Model()
    nn.Sequential(model)
    block, model.block = model.block, Block()
    block.late, block.later, model.block.late = nn.Dropout(), nn.Dropout(), nn.Dropout()
    assert numbers(model) == numbers(block) == [0, 1]


def test_a_copy_numbers_its_own_dropouts():
    model = Model()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.block.late = nn.Dropout()
        assert numbers(twin) == [0, 1] and numbers(model) == [0]


def test_a_sequential_of_a_dict_calls_its_modules_by_their_names():
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    model = nn.Sequential(OrderedDict([("last", first), ("act", nn.ReLU()), ("first", last)]))
    assert [name for name, _ in model.named_parameters()] == ["last.weight", "last.bias", "first.weight", "first.bias"]
    assert model.first is last and model[0] is first and len(model) == 3
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(model(x).data, nn.Sequential(first, nn.ReLU(), last)(x).data)


@pytest.mark.parametrize(
    ("error", "message", "modules"),
    [
        (TypeError, "^Sequential: wanted a Module at 0, got list", [[nn.ReLU()]]),
        (TypeError, "^Sequential: wanted a Module at 1, got function", [nn.ReLU(), lambda x: x]),
        (TypeError, "^Sequential: wanted a Module at 1, got dict", [nn.ReLU(), {"a": nn.ReLU()}]),
        (TypeError, "^Sequential: wanted a Module at 'act', got type", [{"act": nn.ReLU}]),
        (ValueError, "no attribute's, got 'forward'", [{"forward": nn.ReLU()}]),
        (ValueError, "without dots .*, got 'a.b'", [{"a.b": nn.ReLU()}]),
    ],
)
def test_a_sequential_refuses_what_it_would_not_run(error, message, modules):
    with pytest.raises(error, match=message):
        nn.Sequential(*modules)


def test_a_part_of_a_sequential_is_one_and_a_module_may_take_the_place_of_another():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2))
    model.eval()
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(model[:-1](x).data, model[0](x).data)
    assert [name for name, _ in model[1:].named_parameters()] == ["2.weight", "2.bias"] and len(model[3:]) == 0
    layers = nn.ModuleList(model)[1:].append(nn.ReLU())
    assert [name for name, _ in layers.named_children()] == ["0", "1", "2"] and layers[1] is model[2]
    model[-1] = head = nn.Linear(3, 5)
    assert model[2] is head and len(model) == 3 and model(x).shape == (1, 5)
    with pytest.raises(TypeError, match="^Sequential: wanted a Module at '0', got function"):
        model[0] = lambda x: x
    with pytest.raises(IndexError):
        model[3] = nn.ReLU()


def test_a_list_of_modules_gives_its_parameters_to_who_holds_it():
    class Model(nn.Module):
        def __init__(self):
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2)).append(nn.Dropout())

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Model()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert len(model.layers) == 3
    model.eval()
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(model(x).data, model.layers[1](model.layers[0](x)).data)
    with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
        model.layers(x)
    with pytest.raises(TypeError, match="^ModuleList: wanted a Module at 3, got list"):
        model.layers.append([nn.ReLU()])


# Changing parameters by hand
def test_parameters_are_changed_in_place_by_the_loop_that_pytorch_users_write():
    model, x = nn.Linear(3, 2), np.ones((4, 3), np.float32)
    before, version = model.state_dict(), model.weight.version[0]
    model(x).sum().backward()
    with no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
        model.bias += Tensor([1.0, 2.0])
        model.bias *= 3
        model.bias /= np.float64(2)
    np.testing.assert_array_equal(model.weight.data, before["weight"] - 2)
    np.testing.assert_allclose(model.bias.data, (before["bias"] - 2 + [1, 2]) * 1.5, rtol=1e-6)
    assert model.bias.dtype == np.float32 and isinstance(model.bias, nn.Parameter)
    assert model.weight.version[0] == version + 1


def test_a_parameter_is_not_changed_while_recording():
    trained, frozen = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2), requires_grad=False)
    for parameter, other in ((trained, 1.0), (frozen, trained * 2)):
        values, same = parameter.data.copy(), parameter
        with pytest.raises(RuntimeError, match="a change in place is not recorded"):
            parameter += other
        assert parameter is same and np.array_equal(parameter.data, values)
    frozen += 1.0
    np.testing.assert_array_equal(frozen.data, [2, 2])


def test_what_is_no_parameter_is_added_up_and_recorded_as_before():
    parameter, total = nn.Parameter(np.ones(2)), Tensor(np.zeros(2))
    zeros = total
    total += parameter * 3
    total -= parameter
    total.sum().backward()
    np.testing.assert_array_equal(parameter.grad, [2, 2])
    np.testing.assert_array_equal(zeros.data, [0, 0])


@pytest.mark.parametrize("value", [Tensor(np.zeros(2, np.float32)), np.zeros(2, np.float32)], ids=["Tensor", "ndarray"])
def test_a_parameter_does_not_lose_its_place_to_what_is_none(value):
    layer = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=f"^Linear.bias is a Parameter: wanted another one, got {type(value).__name__}"):
        layer.bias = value
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    layer.mean = value
    layer.bias = nn.Parameter(np.ones(2, np.float32))
    layer.bias = None


def test_masks_are_drawn_apart_from_the_orders_of_epochs():
    """Both from a seed and a number: layer 3's first mask must not say which samples epoch 3 begins with."""
    numbers = np.random.Philox(key=np.array([5, 3], np.uint64)).random_raw(16).view("<u4")
    mask = Masks(0.5, seed=5, layer=3).draw((1, 32), np.float32)[0] > 0
    assert (mask != (numbers >= 2**31)).sum() > 4


def test_gradients_are_forgotten_as_pytorch_does_by_default():
    layer = nn.Linear(2, 1)
    for whose in (layer, optim.SGD(layer.parameters(), lr=0.1)):
        layer.weight.grad = np.ones((1, 2), np.float32)
        with pytest.raises(ValueError, match="wanted set_to_none=True, gradients are never zeros"):
            whose.zero_grad(set_to_none=False)
        assert layer.weight.grad is not None
        whose.zero_grad(set_to_none=True)
        assert layer.weight.grad is None


def test_a_bias_may_be_taken_away():
    layer = nn.Linear(2, 1)
    layer.bias = None
    np.testing.assert_array_equal(layer(np.eye(2, dtype=np.float32)).data, layer.weight.data.T)
