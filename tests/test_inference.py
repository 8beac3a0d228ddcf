"""A saved model in use: evaluate gives what training reported, predict its answers; both refuse what does not fit."""

import io
import os
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from data_files import npy_bytes, npz_bytes
from training import DROPOUT, Run, read_run

from npdp.app import inference, saved_model, train
from npdp.base.errors import InputError
from npdp.parallel.world import init, run_ranks


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
    return inference.evaluate(f"{folder}/{name}/model.npz", data, part=part, **options)


def answers(folder: Path, name: str, samples: object, target: str | None = None, probabilities: bool = False):
    return inference.predict(f"{folder}/{name}/model.npz", str(samples), target, probabilities).splitlines()


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
    scored = f"360 samples: loss {end['test_loss']:.4f}, accuracy {end['test_accuracy']:.4f}"
    assert scores(folder, "own", trust=True) == scored
    model = f"{folder}/own/model.npz"
    predicted = inference.predict(model, "digits", None, False, True)
    assert predicted == inference.predict(model, "digits", None, False, True)


def test_a_model_whose_file_has_gone_or_has_changed_says_what_it_was_trained_with(folder, tmp_path):
    file, name = tmp_path / "mine.py", f"{tmp_path}/mine.py:make"
    file.write_text(DROPOUT)
    trained(folder, "gone", f"--model={name}")
    for text, said in {None: f"no file {file}", "make = 3": f"{file} has no function make"}.items():
        file.unlink()
        if text is not None:
            file.write_text(text)
        with pytest.raises(InputError, match=f"^{folder}/gone/model.npz was trained with {name}: {said}$"):
            scores(folder, "gone", trust=True)
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


def zip_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def damaged() -> bytes:
    """Return a .npz file with one bit wrong in the middle of its array."""
    content = bytearray(zip_of("x.npy", npy_bytes(np.ones((5, 64)))))
    content[len(content) // 2] ^= 1
    return bytes(content)


# file -> what is in it, an array or bytes, and what the line must say
UNUSABLE: dict[str, tuple[np.ndarray | bytes | None, str]] = {
    "missing.npy": (None, "missing.npy: expected an .npy file, found nothing of that name"),
    "row.npy": (np.zeros(64), r"got shape \(64,\)"),
    "narrow.npy": (np.zeros((2, 63)), "takes 64 features, got 63"),
    "none.npy": (np.zeros((0, 64)), r"expected samples, got an empty array of shape \(0, 64\)"),
    "complex.npy": (np.ones((2, 64), complex), "expected numbers, got an array of complex128"),
    "text.npy": (np.full((2, 64), "1"), "expected numbers, got an array of <U1"),
    "nan.npy": (np.where(np.arange(128).reshape(2, 64) == 70, np.nan, 1),
                "nan.npy, row 1: expected finite features within float32, got nan"),
    "large.npy": (np.full((2, 64), 1e300), "row 0: expected finite features within float32, got 1e[+]300"),
    "pickle.npy": (np.array([{}], object), "expected numbers, got an array of objects"),
    "words.npy": (b"words", "words.npy: expected an array in .npy format"),
    "words.npz": (zip_of("x", b"words"), "expected the array 'x', found none"),
    "z.npz": (npz_bytes(z=np.zeros((2, 64))), "expected the array 'x', found z"),
    "no zip.npz": (b"PK\3\4 and no more", "File is not a zip file"),
    "damaged.npz": (damaged(), "Bad CRC-32"),
}  # fmt: skip


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("name", UNUSABLE)
def test_predict_refuses_samples_that_it_cannot_use(name, folder, tmp_path):
    content, said = UNUSABLE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else npy_bytes(content))
    with pytest.raises(InputError, match=said):
        answers(folder, "digits", tmp_path / name)


@pytest.mark.usefixtures("numbers")
def test_a_model_of_numbers_has_no_probabilities(folder):
    with pytest.raises(InputError, match="gives numbers, not classes"):
        answers(folder, "numbers", folder / "numbers.csv", probabilities=True)


@pytest.mark.usefixtures("digits")
def test_predict_refuses_an_answer_that_is_nan(folder, tmp_path):
    wrong = saved_model.load(f"{folder}/digits/model.npz")
    wrong.model.load_state_dict({name: values * np.nan for name, values in wrong.model.state_dict().items()})
    saved_model.save(f"{tmp_path}/nan.npz", wrong)
    np.save(tmp_path / "row.npy", np.zeros((2, 64)))
    with pytest.raises(InputError, match="row.npy: .*nan.npz has no answer but NaN"):
        inference.predict(f"{tmp_path}/nan.npz", f"{tmp_path}/row.npy", None, False)
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 64)), y=[0, 1])
    with pytest.raises(InputError, match="rows.npz: .*nan.npz has no answer but NaN"):
        inference.evaluate(f"{tmp_path}/nan.npz", f"{tmp_path}/rows.npz", None, "all", 0, 0)


@pytest.mark.usefixtures("numbers")
def test_a_model_of_one_feature_reads_it_alone(folder):
    write_csv(folder / "line.csv", np.arange(40.0).reshape(20, 2) / 10, header="a,b")
    trained(folder, "line", f"--data={folder}/line.csv")
    wanted = answers(folder, "line", folder / "line.csv")
    write_csv(folder / "feature.csv", np.arange(0.0, 40, 2)[:, None] / 10, header="a")
    assert answers(folder, "line", folder / "feature.csv") == wanted
    write_csv(folder / "bare_feature.csv", np.arange(0.0, 40, 2)[:, None] / 10)
    assert answers(folder, "line", folder / "bare_feature.csv") == wanted
    with pytest.raises(InputError, match="bare_feature.csv: the model takes 3 features, got 1$"):
        answers(folder, "numbers", folder / "bare_feature.csv")
    with pytest.raises(InputError, match=r"--target: only a \.csv has columns, got .*x\.npy"):
        answers(folder, "line", folder / "x.npy", target="a")


@pytest.mark.usefixtures("digits")
def test_what_one_rank_cannot_use_is_refused_on_all(folder):
    def program():
        name = "digits" if init().rank == 0 else "missing"
        with pytest.raises(InputError, match=r"^rank 1: .*missing/model\.npz: expected a model"):
            scores(folder, name)
        with pytest.raises(InputError, match=r"^rank 1: .*missing/model\.npz: expected a model"):
            answers(folder, name, "digits")

    run_ranks(2, program)
