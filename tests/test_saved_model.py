"""A saved model is written whole or not at all, read back to the last bit, and refused where it is none."""

import json
import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npdp.app import cli, models, saved_model
from npdp.app.saved_model import SavedModel
from npdp.autograd import Tensor
from npdp.base.errors import InputError

DESCRIPTION = {"model": "mlp", "features": 5, "classes": 3, "hidden": [4], "dtype": "float64", "data": "none"}


def a_model(seed: int = 0) -> SavedModel:
    model = models.build("mlp", 5, 3, {"hidden": (4,)}, "float64")
    generator = np.random.default_rng(seed)
    model.load_state_dict({name: generator.standard_normal(v.shape) for name, v in model.state_dict().items()})
    return SavedModel(model, DESCRIPTION, None)


def state(saved: SavedModel) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in saved.model.state_dict().items()}


# The file
def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path):
    scaling = (np.arange(5.0) / 3, np.arange(1.0, 6.0) / 7)
    before = a_model()._replace(scaling=scaling)
    saved_model.save(f"{tmp_path}/m.npz", before)
    after = saved_model.load(f"{tmp_path}/m.npz")
    assert state(after) == state(before)
    assert [part.tobytes() for part in after.scaling] == [part.tobytes() for part in scaling]
    assert after.description == {"format": 1, **DESCRIPTION}
    assert not after.model.training
    x = Tensor(np.random.default_rng(1).standard_normal((3, 5)))
    assert np.array_equal(after.model(x).data, before.model(x).data)


def test_a_model_without_scaling_comes_back_without(tmp_path):
    saved_model.save(f"{tmp_path}/m", a_model())  # under just this name, whatever NumPy would append
    assert saved_model.load(f"{tmp_path}/m").scaling is None
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_file_holds_plain_arrays_and_json(tmp_path):
    saved_model.save(f"{tmp_path}/m.npz", a_model())
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        parameters = {f"parameter/{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
        assert set(file.files) == {"description", *parameters}
        assert json.loads(str(file["description"]))["model"] == "mlp"
        assert file["parameter/0.weight"].shape == (4, 5)
    assert (tmp_path / "m.npz").stat().st_mode & 0o777 == 0o644


class FullError(Exception):
    pass


@pytest.mark.parametrize("broken", ["numpy.savez", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(broken, tmp_path):
    path = f"{tmp_path}/m.npz"
    saved_model.save(path, a_model(1))
    real = np.savez

    def fail(file, **arrays):
        real(file, description=arrays["description"])  # part of it is written
        raise FullError

    instead = fail if broken == "numpy.savez" else mock.Mock(side_effect=FullError)
    with mock.patch(broken, instead), pytest.raises(FullError):
        saved_model.save(path, a_model(2))
    assert state(saved_model.load(path)) == state(a_model(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.npz"]


def test_nobody_sees_a_file_that_is_half_written(tmp_path):
    path = f"{tmp_path}/m.npz"
    saved_model.save(path, a_model(1))
    real, seen = np.savez, []

    def write_and_look(file, **arrays):
        real(file, **arrays)
        seen.append(state(saved_model.load(path)) == state(a_model(1)))

    with mock.patch("numpy.savez", write_and_look):
        saved_model.save(path, a_model(2))
    assert seen == [True]
    assert state(saved_model.load(path)) == state(a_model(2))


# A program in it
MARKING = """
from npdp import nn

open({mark!r}, "w").close()

def make(features, classes):
    return nn.Linear(features, classes)
"""


@pytest.fixture
def with_program(tmp_path):
    """Return a saved model that names a program, and the file that this leaves where it is run."""
    (tmp_path / "mine.py").write_text(MARKING.format(mark=f"{tmp_path}/has_run"))
    description = {**DESCRIPTION, "model": f"{tmp_path}/mine.py:make"}
    model = models.build("softmax", 5, 3, {}, "float64")
    saved_model.save(f"{tmp_path}/m.npz", SavedModel(model, description, None))
    np.save(tmp_path / "x.npy", np.ones((2, 5)))
    np.savez(tmp_path / "xy.npz", x=np.ones((2, 5)), y=[0, 2])
    return f"{tmp_path}/m.npz", tmp_path / "has_run"


def test_a_program_that_a_file_names_is_run_only_where_it_is_trusted(with_program):
    path, has_run = with_program
    said = r"m\.npz: its model is made by .*/mine\.py:make., a program that is not run .*: --trust, or trust=True"
    with pytest.raises(InputError, match=said):
        saved_model.load(path)
    assert not has_run.exists()
    assert saved_model.load(path, trust=True).description["features"] == 5
    assert has_run.exists()


@pytest.mark.parametrize(
    "command", [["evaluate", "--part=all", "--data={folder}/xy.npz"], ["predict", "{folder}/x.npy"]]
)
def test_commands_run_it_only_with_trust_and_say_so_in_one_line(command, with_program, capsys):
    path, has_run = with_program
    name, *flags = (word.format(folder=has_run.parent) for word in command)
    assert cli.main([name, path, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a program that is not run unless you say that you trust it: --trust" in error
    assert not has_run.exists()
    assert cli.main([name, path, *flags, "--trust"]) == 0
    assert has_run.exists()


# What is no model
def text_of(**changes) -> np.ndarray:
    description = {"format": 1, **DESCRIPTION, **changes}
    return np.array(json.dumps({name: value for name, value in description.items() if value != "absent"}))


GOOD = {f"parameter/{name}": values for name, values in a_model().model.state_dict().items()}
WHOLE = GOOD | {"description": text_of()}
NO_MODELS = {
    "without description": (GOOD, "got arrays without a description of the model"),
    "description is no JSON": (GOOD | {"description": np.array("{")}, "format 1), got a description that is no JSON"),
    "description is a list": (GOOD | {"description": np.array("[1]")}, "format 1), got a description that is no JSON"),
    "description is a number": (GOOD | {"description": np.array(3)}, "array description: expected text, got an arr"),
    "description lacks the features": (GOOD | {"description": text_of(features="absent")}, "without features"),
    "format of the future": (GOOD | {"description": text_of(format=2)}, "with format 2"),
    "a label too many": (GOOD | {"description": text_of(labels=[-1, 0, 1, 2])}, "with labels [-1, 0, 1, 2]"),
    "labels in text": (GOOD | {"description": text_of(labels=["a", "b", "c"])}, "with labels ['a', 'b', 'c']"),
    "widths in text": (GOOD | {"description": text_of(hidden="wide")}, "expected a model saved by npdp"),
    "no widths": (GOOD | {"description": text_of(hidden=None)}, "expected a model saved by npdp"),
    "features in text": (GOOD | {"description": text_of(features="five")}, "expected a model saved by npdp"),
    "negative features": (GOOD | {"description": text_of(features=-5)}, "expected a model saved by npdp"),
    "unknown dtype": (GOOD | {"description": text_of(dtype="float7")}, "expected a model saved by npdp"),
    "other widths": (GOOD | {"description": text_of(hidden=[7])}, "0.weight: wanted shape (7, 5), got (4, 5)"),
    "unknown model": (GOOD | {"description": text_of(model="resnet")}, "got 'resnet'"),
    "a model file that is gone": (GOOD | {"description": text_of(model="gone.py:make")}, "no file gone.py"),
    "features beyond its file": (GOOD | {"description": text_of(features=10**8)}, "at least 400000019 para"),
    "features beyond memory": (GOOD | {"description": text_of(features=10**14)}, "at least 400000000000019 para"),
    "columns too few": (
        GOOD | {"description": text_of(columns=["a"], target="y")}, "a description with columns ['a'] and target 'y'"),
    "columns alike": (GOOD | {"description": text_of(columns=list("aabcd"), target="y")}, "columns ['a', 'a', "),
    "columns of numbers": (GOOD | {"description": text_of(columns=[1, 2, 3, 4, 5], target="y")}, "columns [1, 2, "),
    "no columns beside a target": (GOOD | {"description": text_of(target="y")}, "columns None and target 'y'"),
    "parameter missing": ({"description": text_of()}, "missing: 0.weight"),
    "parameter too much": (WHOLE | {"parameter/9.bias": np.zeros(3)}, "not in this model: 9.bias"),
    "half of the scaling": (WHOLE | {"scaling/mean": np.zeros(5)}, "with 5 numbers as deviation, got none"),
    "scaling of others": (WHOLE | {"scaling/mean": np.zeros(4), "scaling/deviation": np.ones(4)}, "of shape (4,)"),
    "a pickle inside": (WHOLE | {"parameter/0.bias": np.array([{}], object)}, "expected numbers, got an array of obj"),
}  # fmt: skip


@pytest.mark.parametrize("fault", NO_MODELS)
def test_a_file_that_is_no_model_is_refused_by_name(fault, tmp_path):
    arrays, said = NO_MODELS[fault]
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        saved_model.load(f"{tmp_path}/m.npz", trust=True)
    assert "m.npz" in str(raised.value) or "--model" in str(raised.value)


@pytest.mark.parametrize("content", [b"words", b"PK\x03\x04 and then nothing", b"\x80\x04]\x94."])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.npz: expected a model saved by npdp .*: File is not a zip file$"):
        saved_model.load(f"{tmp_path}/m.npz")


def test_an_array_a_directory_and_nothing_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "empty.npz").touch()
    for path in (tmp_path / "array.npy", tmp_path, tmp_path / "empty.npz", tmp_path / "missing.npz"):
        with pytest.raises(InputError, match="expected a model saved by npdp"):
            saved_model.load(str(path))


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3),
       compressed=st.booleans())  # fmt: skip
def test_a_damaged_file_is_loaded_as_it_was_or_refused(cut, flips, compressed, tmp_path):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "good.npz", description=text_of(), **GOOD)
    content = bytearray((tmp_path / "good.npz").read_bytes())
    for place, flip in flips:
        content[min(int(place * len(content)), len(content) - 1)] ^= flip
    (tmp_path / "bad.npz").write_bytes(content if flips else content[: int(cut * len(content))])
    try:
        loaded = saved_model.load(f"{tmp_path}/bad.npz")
    except InputError as error:
        assert "bad.npz" in str(error)
    else:
        assert state(loaded) == state(a_model())
