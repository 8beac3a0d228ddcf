"""A model's state: every parameter by name goes out and in unchanged, and what does not fit changes nothing."""

import copy
import pickle

import numpy as np
import pytest
from arithmetic import TiedModel

from npdp import nn


def test_state_dict_goes_out_and_in_unchanged():
    source, target = TiedModel(), TiedModel()
    state = source.state_dict()
    shared = ["body.1.tied", "again.weight", "again.bias"]
    assert set(state) == {name for name, _ in source.named_parameters()} | set(shared)
    assert all(array.flags.c_contiguous for array in state.values())
    layouts = [parameter.data.strides for parameter in target.parameters()]
    target.load_state_dict(state)
    assert layouts == [parameter.data.strides for parameter in target.parameters()]
    for name, parameter in target.named_parameters():
        np.testing.assert_array_equal(parameter.data, state[name])
        assert not np.shares_memory(parameter.data, state[name])


def test_state_dict_is_a_copy():
    model = nn.Linear(2, 2)
    state = model.state_dict()
    model.load_state_dict({"weight": np.zeros((2, 2)), "bias": [0, 0]})
    assert state["weight"].any() and not model.weight.data.any()
    assert model.weight.dtype == np.float32


def test_a_state_dict_can_be_copied_and_pickled():
    state = nn.Linear(3, 2).state_dict()
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert all(np.array_equal(twin[name], state[name]) for name in state)


def test_a_state_dict_of_pytorch_has_a_shared_layer_under_each_of_its_paths():
    shared = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    model.load_state_dict({"0.weight": np.eye(2), "2.weight": np.eye(2)})
    assert np.array_equal(shared.weight.data, np.eye(2)) and list(model.state_dict()) == ["0.weight", "2.weight"]
    with pytest.raises(ValueError, match="missing: 0.weight"):
        model.load_state_dict({"2.weight": np.eye(2)})


@pytest.mark.parametrize("state", ["model.npz", [("weight", np.zeros((2, 2)))], None])
def test_what_is_no_state_is_refused_with_what_gives_one(state):
    with pytest.raises(TypeError, match=rf"wanted arrays by name, as `np.load\(path\)`.* got {type(state).__name__}"):
        nn.Linear(2, 2).load_state_dict(state)


def test_load_state_dict_that_is_not_strict_takes_what_there_is_and_says_what_is_missing():
    model = nn.Linear(2, 2)
    before = model.bias.data.copy()
    mismatch = model.load_state_dict({"weight": np.eye(2), "head": np.zeros(3)}, strict=False)
    assert (mismatch.missing_keys, mismatch.unexpected_keys) == (["bias"], ["head"])
    np.testing.assert_array_equal(model.weight.data, np.eye(2))
    np.testing.assert_array_equal(model.bias.data, before)
    with pytest.raises(ValueError, match=r"weight: wanted shape \(2, 2\), got \(3,\)$"):
        model.load_state_dict({"weight": np.zeros(3)}, strict=False)
    assert model.load_state_dict(model.state_dict()) == ([], [])


def test_load_state_dict_finds_a_shared_parameter_under_any_of_its_paths():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    assert model.load_state_dict({"1.weight": np.eye(2)}, strict=False) == ([], [])
    np.testing.assert_array_equal(model[0].weight.data, np.eye(2))
    model.load_state_dict({"1.weight": np.eye(2), "0.weight": 2 * np.eye(2)})
    np.testing.assert_array_equal(model[1].weight.data, 2 * np.eye(2))
    with pytest.raises(ValueError, match="0.weight: wanted shape"):
        model.load_state_dict({"1.weight": np.zeros(9)}, strict=False)


def test_load_state_dict_names_all_faults_and_changes_nothing():
    model = TiedModel()
    before = model.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    del state["scale"]
    state |= {"extra": np.zeros(1), "first.bias": np.zeros(4), "body.1.bias": np.array(["a", "b"])}
    with pytest.raises(ValueError) as raised:
        model.load_state_dict(state)
    message = str(raised.value)
    for part in (
        "load_state_dict of TiedModel:", "missing: scale", "not in this model: extra",
        "first.bias: wanted shape (30,), got (4,)", "body.1.bias: wanted numbers that fit float32, got <U1",
    ):  # fmt: skip
        assert part in message
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
