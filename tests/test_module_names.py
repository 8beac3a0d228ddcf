"""Module methods under PyTorch's names: dtypes, places, parts by path; and `ModuleDict`."""

import numpy as np
import pytest

import npdp
from npdp import nn, optim


def net():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model.register_buffer("mask", npdp.ones(2))
    model.register_buffer("count", npdp.arange(2))
    return model


@pytest.mark.parametrize("change", [
    lambda m: m.double(), lambda m: m.to(npdp.float64), lambda m: m.to("cpu", npdp.float64), lambda m:
m.type(npdp.double),
    lambda m: m.to(dtype=npdp.float64), lambda m: m.to(npdp.zeros(1, dtype=npdp.float64)),
])  # fmt: skip
def test_floats_of_a_model_take_another_dtype(change):
    model, before = net(), net().state_dict()
    assert change(model) is model
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)} and model.mask.dtype == np.float64
    assert model.count.dtype == np.int64 and before.keys() == model.state_dict().keys()
    output = model(npdp.ones(2, 3, dtype=npdp.float64))
    output.sum().backward()
    assert output.dtype == np.float64 and all(p.grad.dtype == np.float64 for p in model.parameters())
    assert {p.dtype for p in model.float().parameters()} == {np.dtype(np.float32)}


def test_a_model_whose_parameters_an_optimiser_has_keeps_their_dtype():
    model = net()
    optim.SGD(model.parameters(), lr=0.1)
    assert model.to("cpu") is model and model.float() is model and model.cpu() is model
    with pytest.raises(ValueError, match=r"Sequential\.to: an optimiser has the parameters; set the dtype before"):
        model.double()
    with pytest.raises(TypeError, match="npdp computes in float32 and float64, not in float16"):
        net().to(np.float16)


def test_parts_are_found_and_set_by_name():
    model = net()
    assert model.get_submodule("2") is model[2] and model.get_parameter("0.weight") is model[0].weight
    assert model.get_buffer("mask") is model.mask and model.get_submodule("") is model
    model.add_module("last", nn.Linear(2, 1))
    model.last.register_parameter("scale", nn.Parameter(npdp.ones(1)))
    assert "last.scale" in dict(model.named_parameters())
    with pytest.raises(AttributeError, match="Module has no register_forward_hook: put it into forward"):
        model.register_forward_hook(print)


def test_a_module_dict_holds_modules_by_name():
    parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ReLU()})
    parts["c"] = nn.Linear(2, 1)
    assert list(parts) == parts.keys() == ["a", "b", "c"] and len(parts) == 3 and "b" in parts and "d" not in parts
    assert parts["a"] is parts.a is dict(parts.items())["a"] and parts.values()[2] is parts.c
    assert [name for name, _ in parts.named_parameters()] == ["a.weight", "a.bias", "c.weight", "c.bias"]
    parts["a"] = nn.Identity()
    assert list(parts) == ["a", "b", "c"] and isinstance(parts.a, nn.Identity)
    with pytest.raises(TypeError, match="ModuleDict: wanted a Module at 'd', got int"):
        parts["d"] = 1
    with pytest.raises(KeyError):
        parts["d"]
