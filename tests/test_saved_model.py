"""A saved model: written whole or not at all, read back to the last bit, refused where it is no model; and its use."""

import json
import os
import re
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_train import DROPOUT, Run, read_run

from npdp import models, nn, saved_model, train, using
from npdp.autograd import Tensor
from npdp.data import ArrayDataset
from npdp.errors import InputError
from npdp.evaluation import evaluate
from npdp.parallel.world import init, run_ranks
from npdp.saved_model import SavedModel

DESCRIPTION = {"model": "mlp", "features": 5, "classes": 3, "hidden": [4], "dtype": "float64", "data": "none"}


def a_model(seed: int = 0) -> SavedModel:
    model = models.build("mlp", 5, 3, (4,), "float64")
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
    "description is a number": (GOOD | {"description": np.array(3)}, "got a description that is no JSON object"),
    "description lacks the features": (GOOD | {"description": text_of(features="absent")}, "without features"),
    "format of the future": (GOOD | {"description": text_of(format=2)}, "with format 2"),
    "a label too many": (GOOD | {"description": text_of(labels=[-1, 0, 1, 2])}, "with labels [-1, 0, 1, 2]"),
    "labels in text": (GOOD | {"description": text_of(labels=["a", "b", "c"])}, "with labels ['a', 'b', 'c']"),
    "widths in text": (GOOD | {"description": text_of(hidden="wide")}, "wanted a model saved by npdp"),
    "no widths": (GOOD | {"description": text_of(hidden=None)}, "wanted a model saved by npdp"),
    "features in text": (GOOD | {"description": text_of(features="five")}, "wanted a model saved by npdp"),
    "negative features": (GOOD | {"description": text_of(features=-5)}, "wanted a model saved by npdp"),
    "unknown dtype": (GOOD | {"description": text_of(dtype="float7")}, "wanted a model saved by npdp"),
    "other widths": (GOOD | {"description": text_of(hidden=[7])}, "0.weight: wanted shape (7, 5), got (4, 5)"),
    "unknown model": (GOOD | {"description": text_of(model="resnet")}, "got 'resnet'"),
    "a model file that is gone": (GOOD | {"description": text_of(model="gone.py:make")}, "no file gone.py"),
    "features beyond memory": (GOOD | {"description": text_of(features=10**14)}, "Unable to allocate"),
    "parameter missing": ({"description": text_of()}, "missing: 0.weight"),
    "parameter too much": (WHOLE | {"parameter/9.bias": np.zeros(3)}, "not in this model: 9.bias"),
    "half of the scaling": (WHOLE | {"scaling/mean": np.zeros(5)}, "with 5 numbers as deviation, got none"),
    "scaling of others": (WHOLE | {"scaling/mean": np.zeros(4), "scaling/deviation": np.ones(4)}, "of shape (4,)"),
    "a pickle inside": (WHOLE | {"parameter/0.bias": np.array([{}], object)}, "allow_pickle=False"),
}  # fmt: skip


@pytest.mark.parametrize("fault", NO_MODELS)
def test_a_file_that_is_no_model_is_refused_by_name(fault, tmp_path):
    arrays, said = NO_MODELS[fault]
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        saved_model.load(f"{tmp_path}/m.npz")
    assert "m.npz" in str(raised.value) or "--model" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"words", b"PK\x03\x04 and then nothing", b"\x80\x04]\x94."])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.npz: wanted a model saved by npdp .*, got no \.npz file$"):
        saved_model.load(f"{tmp_path}/m.npz")


def test_an_array_a_directory_and_nothing_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    for path in (tmp_path / "array.npy", tmp_path, tmp_path / "missing.npz"):
        with pytest.raises(InputError, match="wanted a model saved by npdp"):
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


# Its use
def write_csv(path: Path, table: np.ndarray, header: str = "") -> None:
    np.savetxt(path, table, fmt="%.17g", delimiter=",", header=header, comments="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("used")
    (folder / "dropout.py").write_text(DROPOUT)
    generator = np.random.default_rng(3)
    x = generator.normal((1.7e9, -2, 0), (100, 1, 0.01), (120, 3))  # seconds since 1970: float32 has no digits for them
    y = (x - (1.7e9, -2, 0)) @ [0.02, 1, 30] + generator.normal(0, 0.1, 120)
    write_csv(folder / "numbers.csv", np.column_stack([x, y]), header="a,b,c,y")
    return folder


def trained(folder: Path, name: str, *flags: str) -> Run:
    (folder / name).mkdir()
    out = (f"--metrics={folder}/{name}/run.jsonl", f"--save={folder}/{name}/model.npz")
    with mock.patch.dict(os.environ):
        code = train.main(["--quiet", "--epochs", "3", *flags, *out])
    assert code == 0
    return read_run(code, folder / name)


@pytest.fixture(scope="module")
def digits(folder) -> Run:
    return trained(folder, "digits")


@pytest.fixture(scope="module")
def standardized(folder) -> Run:
    return trained(folder, "standardized", "--standardize", "--learning-rate", "0.01")


@pytest.fixture(scope="module")
def numbers(folder) -> Run:
    return trained(folder, "numbers", f"--data={folder}/numbers.csv", "--standardize", "--global-batch-size=16",
                   "--epochs=30", "--learning-rate=0.02", "--lr-schedule=cosine")  # fmt: skip


def scores(folder: Path, name: str, data: str = "digits", part: str = "test", **more) -> str:
    options = {"target": None, "test_fraction": 0.2, "seed": 0, **more}
    return using.evaluate(f"{folder}/{name}/model.npz", data, part=part, **options)


def answers(folder: Path, name: str, samples: object, target: str | None = None, probabilities: bool = False):
    return using.predict(f"{folder}/{name}/model.npz", str(samples), target, probabilities).splitlines()


@pytest.mark.parametrize("name", ["digits", "standardized"])
def test_evaluate_gives_what_training_reported(name, folder, request):
    end = request.getfixturevalue(name).end
    assert scores(folder, name) == f"360 samples: loss {end['test_loss']:.4f}, accuracy {end['test_accuracy']:.4f}"
    assert scores(folder, name, part="train").startswith(f"1437 samples: loss {end['train_loss']:.4f}, accuracy ")
    assert scores(folder, name, part="all").startswith("1797 samples: ")


def test_evaluate_scales_as_training_did_also_far_from_zero(folder, numbers):
    assert numbers.end["test_loss"] < 0.1
    data = f"{folder}/numbers.csv"
    assert scores(folder, "numbers", data) == f"24 samples: loss {numbers.end['test_loss']:.4f}"


def test_a_model_of_ones_own_is_found_again_and_drops_nothing(folder):
    end = trained(folder, "own", f"--model={folder}/dropout.py:make").end
    assert scores(folder, "own") == f"360 samples: loss {end['test_loss']:.4f}, accuracy {end['test_accuracy']:.4f}"
    assert answers(folder, "own", "digits") == answers(folder, "own", "digits")


def test_a_model_whose_file_has_gone_or_has_changed_says_what_it_was_trained_with(folder, tmp_path):
    file, name = tmp_path / "mine.py", f"{tmp_path}/mine.py:make"
    file.write_text(DROPOUT)
    trained(folder, "gone", f"--model={name}")
    for text, said in {None: f"no file {file}", "make = 3": f"{file} has no function make"}.items():
        file.unlink()
        if text is not None:
            file.write_text(text)
        with pytest.raises(InputError, match=f"^{folder}/gone/model.npz was trained with {name}: {said}$"):
            scores(folder, "gone")
        file.touch()


@pytest.mark.usefixtures("numbers", "digits")
def test_evaluate_refuses_what_does_not_fit(folder):
    with pytest.raises(InputError, match="the model takes 3 features, got 10"):
        scores(folder, "numbers", "synthetic")
    with pytest.raises(InputError, match="the model takes 64 features, got 3"):
        (folder / "classes.csv").write_text("1,2,3,0\n4,5,6,1\n")
        scores(folder, "digits", f"{folder}/classes.csv", part="train")
    with pytest.raises(InputError, match="no test part"):
        scores(folder, "digits", test_fraction=0)


def test_evaluate_refuses_more_classes_than_the_model_has(folder, digits):
    np.savez(folder / "eleven.npz", x=np.zeros((20, 64)), y=np.arange(20) % 11)
    with pytest.raises(InputError, match="11 classes, but .* was trained on 10"):
        scores(folder, "digits", f"{folder}/eleven.npz", part="all")


def test_predict_gives_the_line_that_was_trained(folder, numbers):
    table = np.loadtxt(folder / "numbers.csv", delimiter=",", skiprows=1)
    weight, bias = numbers.arrays["parameter/weight"].astype(float), numbers.arrays["parameter/bias"]
    x = (table[:, :3] - numbers.arrays["scaling/mean"]) / numbers.arrays["scaling/deviation"]
    got = [float(line) for line in answers(folder, "numbers", folder / "numbers.csv")]
    assert got == pytest.approx((x @ weight.T + bias)[:, 0], abs=1e-4)
    assert np.abs(np.array(got) - table[:, 3]).max() < 1


@pytest.mark.usefixtures("numbers")
def test_predict_reads_the_same_features_from_every_kind_of_file(folder):
    with_target = np.loadtxt(folder / "numbers.csv", delimiter=",", skiprows=1)
    x = with_target[:, :3]
    wanted = answers(folder, "numbers", folder / "numbers.csv")
    assert len(wanted) == 120
    write_csv(folder / "bare.csv", x)
    write_csv(folder / "first.csv", np.roll(with_target, 1, axis=1), header="y,a,b,c")
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "xy.npz", x=x, y=with_target[:, 3])
    for name in ("bare.csv", "x.npy", "x.npz", "xy.npz"):
        assert answers(folder, "numbers", folder / name) == wanted, name
    for target in ("y", "1"):
        assert answers(folder, "numbers", folder / "first.csv", target=target) == wanted


@pytest.mark.usefixtures("digits")
def test_predict_gives_classes_and_probabilities_that_sum_to_one(folder):
    classes = answers(folder, "digits", "digits")
    lines = answers(folder, "digits", "digits", probabilities=True)
    rows = np.array([[float(p) for p in line.split(",")] for line in lines])
    assert rows.shape == (1797, 10) and rows.min() >= 0
    assert rows.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert [int(name) for name in classes] == rows.argmax(axis=1).tolist()


@pytest.mark.parametrize("sparse", [(), ("--sparse",)])
@pytest.mark.parametrize(("labels", "said"), [((-1, 1), "2 classes (-1 and 1), "), ((0, 1), "2 classes, ")])
def test_predict_gives_classes_as_they_are_labelled_in_the_data(labels, said, sparse, tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 2))
    y = np.where(x[:, 0] > 0, labels[1], labels[0])
    (tmp_path / "d.svm").write_text("".join(f"{y:+d} 1:{a} 2:{b}\n" for y, (a, b) in zip(y, x)))
    flags = (f"--data={tmp_path}/d.svm", "--test-fraction=0", "--epochs=100", "--lr-schedule=constant", *sparse)
    run = trained(tmp_path, "m", *flags)
    assert said in run.events[0]["data"]
    got = answers(tmp_path, "m", tmp_path / "d.svm")
    assert set(got) == set(map(str, labels)) and np.mean([int(line) for line in got] == y) > 0.95
    p = [[float(p) for p in line.split(",")] for line in answers(tmp_path, "m", tmp_path / "d.svm", probabilities=True)]
    assert [str(labels[place]) for place in np.argmax(p, axis=1)] == got
    assert scores(tmp_path, "m", f"{tmp_path}/d.svm", part="train", test_fraction=0).startswith("60 samples: loss 0.")


@pytest.mark.usefixtures("digits", "numbers")
def test_predict_refuses_what_does_not_fit(folder, tmp_path):
    np.save(tmp_path / "row.npy", np.zeros(64))
    np.save(tmp_path / "narrow.npy", np.zeros((2, 63)))
    np.save(tmp_path / "pickle.npy", np.array([{}], object))
    np.savez(tmp_path / "z.npz", z=np.zeros((2, 64)))
    (tmp_path / "words.npy").write_text("words")
    with zipfile.ZipFile(tmp_path / "words.npz", "w") as archive:
        archive.writestr("x", "words")
    (tmp_path / "no zip.npz").write_bytes(b"PK\3\4 and no more")
    np.savez(tmp_path / "damaged.npz", x=np.ones((5, 64)))
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.npz").write_bytes(content)
    np.save(tmp_path / "none.npy", np.zeros((0, 64)))
    np.save(tmp_path / "complex.npy", np.ones((2, 64), complex))
    np.save(tmp_path / "text.npy", np.full((2, 64), "1"))
    np.save(tmp_path / "nan.npy", np.where(np.arange(128).reshape(2, 64) == 70, np.nan, 1))
    np.save(tmp_path / "large.npy", np.full((2, 64), 1e300))
    for name, said in {"no zip.npz": "File is not a zip file", "damaged.npz": "Bad CRC-32",
                       "none.npy": r"wanted an array \(samples, features\), got shape \(0, 64\)",
                       "complex.npy": "numbers .* got complex128", "text.npy": "numbers .* got <U1",
                       "nan.npy": "nan.npy, row 1: expected finite features within float32, got nan",
                       "large.npy": "row 0: expected finite features within float32, got 1e[+]300",
                       "row.npy": r"got shape \(64,\)", "narrow.npy": "takes 64 features, got 63", "z.npz": "named x",
                       "pickle.npy": "wanted an array of numbers", "words.npy": "wanted an array of numbers",
                       "words.npz": "wanted an array of numbers", "missing.npy": "No such file"}.items():  # fmt: skip
        with pytest.raises(InputError, match=said):
            answers(folder, "digits", tmp_path / name)
    with pytest.raises(InputError, match="gives numbers, not classes"):
        answers(folder, "numbers", folder / "numbers.csv", probabilities=True)


def test_predict_refuses_an_answer_that_is_nan(tmp_path):
    wrong = a_model()
    wrong.model.load_state_dict({name: values * np.nan for name, values in wrong.model.state_dict().items()})
    saved_model.save(f"{tmp_path}/nan.npz", wrong)
    np.save(tmp_path / "row.npy", np.zeros((2, 5)))
    with pytest.raises(InputError, match="row.npy: .*nan.npz has no answer but NaN"):
        using.predict(f"{tmp_path}/nan.npz", f"{tmp_path}/row.npy", None, False)
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 5)), y=[0, 1])
    with pytest.raises(InputError, match="rows.npz: .*nan.npz has no answer but NaN"):
        using.evaluate(f"{tmp_path}/nan.npz", f"{tmp_path}/rows.npz", None, "all", 0, 0)


def test_nan_is_no_right_answer():
    class NoAnswer(nn.Module):
        def forward(self, x):
            return Tensor(np.full((len(x), 3), np.nan, np.float32))

    assert evaluate(init(), NoAnswer(), ArrayDataset(np.zeros((4, 2)), np.zeros(4, np.int64)), 3).accuracy == 0


@pytest.mark.usefixtures("numbers")
def test_a_model_of_one_feature_reads_it_alone(folder):
    write_csv(folder / "line.csv", np.arange(40.0).reshape(20, 2) / 10, header="a,b")
    trained(folder, "line", f"--data={folder}/line.csv")
    wanted = answers(folder, "line", folder / "line.csv")
    write_csv(folder / "feature.csv", np.arange(0.0, 40, 2)[:, None] / 10, header="a")
    assert answers(folder, "line", folder / "feature.csv") == wanted
    with pytest.raises(InputError, match="feature.csv: the model takes 3 features, got 1$"):
        answers(folder, "numbers", folder / "feature.csv")
    with pytest.raises(InputError, match=r"--target: only a \.csv has columns, got .*x\.npy"):
        answers(folder, "line", folder / "x.npy", target="a")


@pytest.mark.usefixtures("digits")
def test_what_one_rank_cannot_use_is_refused_on_all(folder):
    def program():
        name = "digits" if init().rank == 0 else "missing"
        with pytest.raises(InputError, match=r"^rank 1: .*missing/model\.npz: wanted a model"):
            scores(folder, name)
        with pytest.raises(InputError, match=r"^rank 1: .*missing/model\.npz: wanted a model"):
            answers(folder, name, "digits")

    run_ranks(2, program)


def test_saving_through_a_link_keeps_the_link(tmp_path):
    target, link = tmp_path / "model.npz", tmp_path / "latest.npz"
    link.symlink_to(target)
    assert train.main(["--epochs", "0", "--quiet", "--save", str(link)]) == 0
    assert link.is_symlink() and target.stat().st_size > 0


def test_saving_onto_a_pipe_or_onto_the_metrics_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    same = str(tmp_path / "same")
    assert train.main(["--save", str(tmp_path / "pipe")]) == 2
    assert train.main(["--save", same, "--metrics", same]) == 2
    assert capsys.readouterr().err.count("npdp: error:") == 2
