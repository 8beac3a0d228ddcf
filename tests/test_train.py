"""npdp.train from flags to a trained model, in worlds of threads: exact on any number of ranks, and it learns."""

import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from training import BATCHES, DIGITS_TRAIN, DROPOUT, UNUSED, exact_flags, fit, off, on_one_rank

from npdp.data import sources

RANKS = (1, 2, 3, 4, 5)
FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("ranks", RANKS)
def test_any_number_of_ranks_trains_the_model_of_one_rank_and_uses_each_sample_once(ranks, batch):
    run, alone = fit(*exact_flags(batch, "float64"), ranks=ranks), on_one_rank(*exact_flags(batch, "float64"))
    assert run.code == 0 and run.end["world_size"] == ranks
    assert run.end["samples_seen"] == run.end["epochs"] * DIGITS_TRAIN
    assert run.end["iterations"] == run.end["epochs"] * math.ceil(DIGITS_TRAIN / batch)
    assert off(run, alone) <= 1e-10
    assert run.end["test_accuracy"] == alone.end["test_accuracy"]
    assert run.end["test_loss"] == pytest.approx(alone.end["test_loss"], rel=1e-10)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_in_float32_any_number_of_ranks_reaches_the_loss_of_one_rank(ranks, batch):
    run, alone = fit(*exact_flags(batch, "float32"), ranks=ranks), on_one_rank(*exact_flags(batch, "float32"))
    assert run.end["samples_seen"] == run.end["epochs"] * DIGITS_TRAIN
    assert run.end["train_loss"] == pytest.approx(alone.end["train_loss"], rel=1e-5)
    assert {array.dtype for name, array in run.arrays.items() if name.startswith("param")} == {np.dtype("float32")}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a user's models, and the table numbers.csv: three features, target in the middle."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "dropout.py").write_text(DROPOUT)
    (folder / "unused.py").write_text(UNUSED)
    generator = np.random.default_rng(5)
    x = generator.normal((5e3, -2, 0), (100, 1, 0.01), (203, 3))
    y = x @ [0.02, 1, 30] + generator.normal(0, 0.1, 203)
    table = "\n".join(f"{a!r},{b!r},{t!r},{c!r}" for (a, b, c), t in zip(x.tolist(), y.tolist()))
    (folder / "numbers.csv").write_text(f"area,age,price,tax\n{table}\n")
    return folder


CASES = {
    "accumulate": "--accumulate 3",
    "accumulate in more pieces than a part has": "--accumulate 40 --epochs 1",
    "clip the norm": "--clip-norm 0.05",
    "accumulate and clip": "--accumulate 3 --clip-norm 0.05",
    "adam": "--optimizer adam --learning-rate 0.01",
    "adamw": "--optimizer adamw --learning-rate 0.01 --weight-decay 0.1",
    "cosine with warm-up": "--lr-schedule cosine --warm-up-epochs 1",
    "step": "--lr-schedule step --weight-decay 0.01",
    "standardize": "--standardize --learning-rate 0.01",
    "mlp": "--model mlp --hidden 16,8",
    "dropout in a model of one's own": "--model {files}/dropout.py:make",
    "dropout and accumulate": "--model {files}/dropout.py:make --accumulate 3",
    "a parameter that nobody uses": "--model {files}/unused.py:make",
    "regression on a table": "--data {files}/numbers.csv --target price --standardize --model linear",
    "synthetic": "--data synthetic --learning-rate 0.01",
}


@pytest.mark.parametrize("case", CASES)
def test_each_flag_gives_the_model_of_one_rank(case, files):
    flags = ["--quiet", "--dtype", "float64", "--epochs", "2", "--global-batch-size", "50"]
    flags += CASES[case].format(files=files).split()
    alone = on_one_rank(*flags)
    assert np.isfinite(alone.end["train_loss"])
    for ranks in (2, 3, 5):
        run = fit(*flags, ranks=ranks)
        assert run.end["samples_seen"] == alone.end["samples_seen"]
        assert off(run, alone) <= 1e-10, f"{ranks} ranks"


@pytest.mark.parametrize("ranks", [1, 3])
def test_accumulating_a_batch_in_pieces_is_the_same_as_taking_it_whole(ranks):
    flags = ("--quiet", "--dtype", "float64", "--epochs", "2", "--global-batch-size", "50")
    pieces, whole = fit(*flags, "--accumulate", 3, ranks=ranks), on_one_rank(*flags)
    assert pieces.end["iterations"] == whole.end["iterations"]
    assert pieces.end["samples_seen"] == whole.end["samples_seen"]
    assert off(pieces, whole) <= 1e-10


@pytest.mark.parametrize(("flag", "other"), [("--clip-norm", "0.05"), ("--lr-schedule", "step"), ("--seed", "1"),
                                             ("--warm-up-epochs", "1"), ("--weight-decay", "0.1"),
                                             ("--momentum", "0.5"), ("--standardize", None),
                                             ("--lr-schedule", "constant"), ("--lr-schedule", "cosine")])  # fmt: skip
def test_each_flag_changes_the_outcome(flag, other):
    flags = ("--quiet", "--dtype", "float64", "--epochs", "2", "--lr-schedule",
             "cosine" if other == "constant" else "constant")  # fmt: skip
    run = fit(*flags, *([flag] if other is None else [flag, other]))
    assert off(run, on_one_rank(*flags)) > 1e-3


COUNTS = """import numpy as np
from npdp import nn
from npdp.base import random
class Counts(nn.Module):
    def __init__(self):
        self.fc, self.dropout, self.calls = nn.Linear(64, 10), nn.Dropout(0.2), 0
    def forward(self, x):
        self.calls += 1
        noise = random.default_generator().standard_normal(10) + np.random.standard_normal(10) + self.calls
        x = nn.Dropout.forward(self.dropout, x.data)  # an array, which has no batch: the layer counts for itself
        return self.fc(x) + noise.astype(np.float32)
np.random.seed(1)
"""


def test_that_a_model_is_tried_before_changes_nothing_of_its_training(tmp_path):
    (tmp_path / "counts.py").write_text(COUNTS)
    flags = ("--quiet", "--epochs", "1", "--model", f"{tmp_path}/counts.py:Counts")
    tried = fit(*flags)
    with mock.patch("npdp.app.models.require_fit") as require_fit:
        assert fit(*flags).end["parameters_sha256"] == tried.end["parameters_sha256"]
    require_fit.assert_called_once()


@pytest.mark.parametrize("model", ["mlp", "file"])
def test_a_model_with_hidden_layers_gets_their_widths(model, tmp_path):
    (tmp_path / "mine.py").write_text("from npdp.app import models\n\ndef make(features, classes, hidden):\n"
                                      "    return models.mlp(features, classes, hidden)\n")  # fmt: skip
    name = "mlp" if model == "mlp" else f"{tmp_path}/mine.py:make"
    start = fit("--quiet", "--epochs", "0", "--model", name, "--hidden", "3, 4").events[0]
    assert start["parameters"] == 64 * 3 + 3 + 3 * 4 + 4 + 4 * 10 + 10


def test_each_optimizer_is_another():
    flags = ("--quiet", "--dtype", "float64", "--epochs", "2", "--learning-rate", "0.01", "--weight-decay", "0.1")
    sgd, adam, adamw = (on_one_rank(*flags, "--optimizer", name) for name in ("sgd", "adam", "adamw"))
    assert min(off(sgd, adam), off(sgd, adamw), off(adam, adamw)) > 1e-3


def test_a_parameter_that_nobody_uses_stays_as_it_was(files):
    flags = ("--quiet", "--model", f"{files}/unused.py:make")
    run, before = fit(*flags, "--epochs", 2, ranks=3), fit(*flags, "--epochs", 0)
    for name in ("parameter/unused.weight", "parameter/unused.bias"):
        assert np.array_equal(run.arrays[name], before.arrays[name])
    assert not np.array_equal(run.arrays["parameter/used.weight"], before.arrays["parameter/used.weight"])


def test_a_target_is_found_by_name_and_by_number(files):
    flags = ("--quiet", "--epochs", 1, "--data", f"{files}/numbers.csv", "--standardize", "--target")
    by_name, by_number, last = fit(*flags, "price"), fit(*flags, "3"), fit(*flags, "-1")
    assert by_name.end["parameters_sha256"] == by_number.end["parameters_sha256"] != last.end["parameters_sha256"]


# It learns
@pytest.mark.parametrize("ranks", [1, 4])
def test_synthetic_reaches_the_least_squares_solution(ranks):
    flags = ("--quiet", "--data", "synthetic", "--global-batch-size", 100, "--epochs", 60, "--learning-rate", 0.05)
    run = fit(*flags, "--lr-schedule", "cosine", ranks=ranks)
    x, y = sources.load("synthetic", dtype="float64").train.take(slice(None))
    wanted = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0][:, 0]
    got = np.append(run.arrays["parameter/weight"][0], run.arrays["parameter/bias"])
    assert np.linalg.norm(got - wanted) <= 1e-3 * np.linalg.norm(wanted)


def test_the_defaults_read_the_digits():
    end = fit("--quiet", ranks=4).end
    assert end["test_accuracy"] >= 0.93
    assert end["epochs"] == 20 and end["samples_seen"] == 20 * DIGITS_TRAIN


@pytest.mark.skipif(not FASHION.is_dir(), reason=f"Debian's dataset-fashion-mnist is not installed ({FASHION})")
def test_one_epoch_on_fashion_mnist_learns():
    run = fit("--quiet", "--data", FASHION, "--epochs", 1, "--global-batch-size", 256, ranks=2)
    assert run.end["samples_seen"] == 60_000
    assert run.end["test_accuracy"] > 0.7


def test_no_epochs_is_fine_and_does_nothing():
    run = fit("--quiet", "--epochs", 0, ranks=3)
    assert run.code == 0
    assert [event["event"] for event in run.events] == ["start", "end"]
    assert (run.end["epochs"], run.end["iterations"], run.end["samples_seen"], run.end["samples_per_s"]) == (0, 0, 0, 0)
    assert run.end["train_loss"] > 1  # that of weights which nobody has trained
    assert run.end["parameters_sha256"] == fit("--quiet", "--epochs", 0).end["parameters_sha256"]


def test_a_file_of_ones_own_runs_as_a_script_does(tmp_path, monkeypatch):
    """Dataclasses look for the module that a class was made in; and a script imports what lies beside it."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "npdp_tests_layers.py").write_text("from npdp import nn\n\nLayer = nn.Linear\n")
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport npdp_tests_layers\n\n"
        "@dataclass\nclass Sizes:\n    features: int\n    classes: int = 10\n\n"
        "def make(features):\n    sizes = Sizes(features)\n"
        "    return npdp_tests_layers.Layer(sizes.features, sizes.classes)\n"
    )
    assert fit("--quiet", "--epochs", 1, "--model", f"{tmp_path}/own.py:make", ranks=2).code == 0
