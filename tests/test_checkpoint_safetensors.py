"""Checkpoints as .safetensors: training goes on from them, other tools read them, altered ones are recognised."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import fit

import npdp
from npdp import nn, optim
from npdp.app.train import main
from npdp.base.errors import InputError
from npdp.elastic import checkpoint

safetensors = pytest.importorskip("safetensors", reason="the package safetensors is not installed")
FLAGS = ("--quiet", "--dtype", "float64", "--epochs", "2", "--global-batch-size", "300", "--optimizer", "adam",
         "--learning-rate", "0.01", "--model", "mlp", "--hidden", "8")  # fmt: skip


@pytest.mark.parametrize(("first", "then"), [("npz", "safetensors"), ("safetensors", "npz")])
def test_training_goes_on_from_either_format_and_writes_the_other(first, then, tmp_path):
    kept = ("--checkpoint", tmp_path / "kept", "--checkpoint-every", "4", "--keep", "2", "--checkpoint-format")
    wanted = fit(*FLAGS, *kept, first, ranks=2)
    (tmp_path / "kept" / f"000010.{first}").unlink()
    run = fit(*FLAGS, *kept, then, "--resume", ranks=2)
    assert run.end["parameters_sha256"] == wanted.end["parameters_sha256"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [f"000008.{first}", f"000010.{then}"]


def small():
    npdp.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "000001.safetensors"
    npdp.save_checkpoint(path, *small(), note="x", some=[np.arange(3), np.float32(2), True])
    return path


def test_the_package_reads_its_arrays_and_their_names_without_npdp(whole):
    with safetensors.safe_open(whole, "numpy") as file:
        structure = dict(json.loads(file.metadata()["structure"])["dict"])
        of_model = dict(structure["model"]["dict"])
        assert np.array_equal(file.get_tensor(of_model["0.weight"]["array"]), small()[0][0].weight.numpy())


def test_it_has_what_an_npz_has(whole, tmp_path):
    model, optimizer = small()
    more = npdp.load_checkpoint(whole, model, optimizer)
    assert more["note"] == "x" and np.array_equal(more["some"][0], np.arange(3)) and more["some"][1].shape == ()
    model[0].load_state_dict({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    npdp.load_checkpoint(whole, model, optimizer)
    assert np.array_equal(model[0].weight.numpy(), small()[0][0].weight.numpy())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_each_corruption_is_recognised(whole, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "altered.safetensors"
    content = bytearray(whole.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
    if how == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[at:]
    elif how == "insert":
        content.insert(at, data.draw(st.integers(0, 255)))
    else:
        content[at:] = b"\xa5" * (len(content) - at)
    path.write_bytes(content)
    with pytest.raises(InputError, match="torn or was altered"):
        checkpoint.read(str(path))


def test_without_the_package_it_is_refused_in_one_line(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main([*FLAGS, "--checkpoint", str(tmp_path / "kept"), "--checkpoint-format", "safetensors"]) == 2
    said = "need the package safetensors: pip install 'npdp[safetensors]'"
    assert said in capsys.readouterr().err
    for call in (npdp.save_checkpoint, npdp.load_checkpoint):
        with pytest.raises(InputError, match="npdp.safetensors"):
            call(whole, *small())
