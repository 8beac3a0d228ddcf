"""Building a model part by part: what may be a part, and which number each dropout gets, whatever is set when."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from npdp import nn
from npdp.autograd import Batch
from npdp.autograd.tensor import result


class Block(nn.Module):
    """A part of a model, to which a dropout may come later."""

    def __init__(self):
        self.first = nn.Linear(2, 2)


class Model(nn.Module):
    """A dropout, and a part after it."""

    def __init__(self):
        self.early = nn.Dropout(0.5, seed=1)
        self.block = Block()


def numbers(model):
    """Return the number of each dropout, in the order of the model."""
    return [module.layer_number for module in model.modules() if isinstance(module, nn.Dropout)]


def mask(layer):
    return layer(result(np.ones((4, 30), np.float32), Batch(4, 0, (0, 4)))).data


def test_a_dropout_that_comes_later_to_a_part_of_a_model_has_a_mask_of_its_own():
    model = Model()
    model.block.late = nn.Dropout(0.5, seed=1)
    assert numbers(model) == [0, 1]
    assert not np.array_equal(mask(model.early), mask(model.block.late))


def test_wrapping_a_part_of_a_model_does_not_change_its_masks():
    model = Model()
    model.block.late = nn.Dropout(0.5, seed=1)
    wrapper = nn.DataParallel(model.block)
    whole = nn.Sequential(nn.Dropout(), model)
    assert numbers(model) == numbers(whole)[1:] == [1, 2] and numbers(wrapper) == [2]


def test_models_that_share_a_part_have_no_number_twice():
    shared, one, other = Model(), Block(), Block()
    one.own, one.shared = nn.Dropout(), nn.Sequential(shared)
    other.shared, other.own = nn.Sequential(shared.block), nn.Dropout()
    shared.block.late = nn.Dropout()
    assert numbers(one) == [0, 1, 2] and numbers(other) == [2, 4]


def test_a_layer_that_is_set_twice_counts_twice():
    tied = nn.Dropout()
    assert numbers(nn.Sequential(tied, tied, nn.Dropout())) == [1, 1, 2]


def test_a_part_that_was_taken_out_or_whose_holder_is_gone_counts_by_itself():
    model = Model()
    nn.Sequential(model)  # gone at once
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
