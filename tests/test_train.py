"""npdp.train from flags to a trained model, in worlds of threads: exact on any number of ranks, and what it reports."""

import errno
import functools
import json
import math
import os
import re
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest

from npdp import nn, train
from npdp.collectives.algorithms import SCHEDULES
from npdp.data import ArrayDataset, sources
from npdp.evaluation import evaluate
from npdp.parallel.world import init
from npdp.report import metrics as metrics_module
from npdp.report.metrics import Metrics

RANKS = (1, 2, 3, 4, 5)
BATCHES = (1, 7, 32, 64, 100, 1437)
DIGITS_TRAIN = 1437
FASHION = Path("/usr/share/datasets/fashion-mnist")

DROPOUT = """
from npdp import nn

def make(features, classes):
    return nn.Sequential(nn.Linear(features, 24), nn.Tanh(), nn.Dropout(0.3), nn.Linear(24, classes))
"""
UNUSED = """
from npdp import nn

class Model(nn.Module):
    def __init__(self, features, classes):
        self.used, self.unused = nn.Linear(features, classes), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)

def make(features, classes):
    return Model(features, classes)
"""


class Run(NamedTuple):
    """How a training ended: its exit code, the metrics, the saved arrays by name."""

    code: int
    events: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def parameters(self) -> np.ndarray:
        """All parameters in one row, in name order."""
        return np.concatenate([self.arrays[name].ravel() for name in sorted(self.arrays) if name.startswith("param")])


def read_run(code: int, folder: Path) -> Run:
    """Read what `--metrics FOLDER/run.jsonl --save FOLDER/model.npz` left."""
    with np.load(folder / "model.npz") as file:
        arrays = dict(file)
    return Run(code, strict_lines((folder / "run.jsonl").read_text()), arrays)


def strict_lines(text: str) -> list[dict[str, Any]]:
    """Parse a metrics file by JSON's own rules, which know no NaN."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def fit(*flags: Any, ranks: int = 1) -> Run:
    """Train in a world of threads; what it sets in the environment does not outlive it."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        out = ("--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz")
        code = train.main([*map(str, flags), *out, "--transport", "threads", "--ranks", str(ranks)])
        return read_run(code, Path(folder))


def exact_flags(batch: int, dtype: str) -> tuple[str, ...]:
    """Softmax, SGD with momentum; one epoch where a batch is one sample, else three."""
    epochs, rate = ("1", "0.01") if batch == 1 else ("3", "0.1")
    return ("--quiet", "--model", "softmax", "--momentum", "0.9", "--dtype", dtype, "--epochs", epochs,
            "--learning-rate", rate, "--global-batch-size", str(batch))  # fmt: skip


@functools.cache
def on_one_rank(*flags: Any) -> Run:
    """Train once for all tests that compare with it."""
    return fit(*flags)


def off(got: Run, wanted: Run) -> float:
    """Return the relative distance of two models."""
    return float(np.linalg.norm(got.parameters - wanted.parameters) / np.linalg.norm(wanted.parameters))


# Exact on any number of ranks
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
    "accumulate in more pieces than a part has": "--accumulate 40",
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


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adam", None), ("adamw", None)])
def test_metrics_have_a_momentum_where_the_optimizer_has_one(optimizer, momentum):
    for given in ((), ("--momentum", "0.9")):
        assert fit("--quiet", "--epochs", "0", "--optimizer", optimizer, *given).events[0]["momentum"] == momentum


COUNTS = """import numpy as np
from npdp import nn, random
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
    with mock.patch("npdp.models.require_fit") as require_fit:
        assert fit(*flags).end["parameters_sha256"] == tried.end["parameters_sha256"]
    require_fit.assert_called_once()


@pytest.mark.parametrize("model", ["mlp", "file"])
def test_a_model_with_hidden_layers_gets_their_widths(model, tmp_path):
    (tmp_path / "mine.py").write_text("from npdp import models\n\ndef make(features, classes, hidden):\n"
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


@pytest.fixture(scope="module")
def defaults() -> Run:
    return fit("--quiet", ranks=4)


def test_the_defaults_read_the_digits(defaults):
    assert defaults.end["test_accuracy"] >= 0.93
    assert defaults.end["epochs"] == 20 and defaults.end["samples_seen"] == 20 * DIGITS_TRAIN


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


# What it reports
END = {
    "world_size": int, "strategy": str, "algorithm": str, "backend": str, "epochs": int, "iterations": int,
    "samples_seen": int, "train_loss": float, "test_loss": float, "test_accuracy": float, "parameters_sha256": str,
    "wall_s": float, "samples_per_s": float, "compute_s": float, "communication_s": float, "wait_s": float,
    "peak_memory_bytes": int, "recoveries": int,
}  # fmt: skip


def test_the_end_has_every_promised_field(defaults):
    end = defaults.end
    assert {name: type(end[name]) for name in END} == END
    assert (end["strategy"], end["world_size"], end["recoveries"]) == ("allreduce", 4, 0)
    assert end["backend"] in ("c", "numpy") and end["algorithm"] in (*SCHEDULES["allreduce"], "shared_memory")
    assert (end["algorithm"] == "shared_memory") == (end["backend"] == "c")
    assert re.fullmatch("[0-9a-f]{64}", end["parameters_sha256"])
    assert 10e6 < end["peak_memory_bytes"] < 4e9
    assert end["compute_s"] > 0 and end["communication_s"] > 0 and end["wait_s"] > 0
    assert end["compute_s"] + end["communication_s"] + end["wait_s"] == pytest.approx(end["wall_s"], rel=0.1)
    assert end["samples_per_s"] == pytest.approx(end["samples_seen"] / end["wall_s"])


def test_events_come_in_order_with_epochs_counted(defaults):
    kinds = [event["event"] for event in defaults.events]
    assert kinds[0] == "start" and kinds[-1] == "end" and set(kinds[1:-1]) == {"iteration", "epoch"}
    epochs = [event for event in defaults.events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == list(range(1, 21))
    assert [event["iteration"] for event in epochs] == [23 * epoch for epoch in range(1, 21)]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] / 5
    counted = [event["iteration"] for event in defaults.events[1:-1]]
    assert counted == sorted(counted)
    assert all(0 <= event["learning_rate"] <= 0.1 for event in defaults.events if event["event"] == "iteration")
    assert kinds.count("iteration") <= 10 * defaults.end["wall_s"] + 1


def test_the_mean_loss_of_an_epoch_is_that_of_its_samples_on_any_number_of_ranks():
    flags = ("--quiet", "--dtype", "float64", "--epochs", 2, "--global-batch-size", 50)
    losses = [[event["train_loss"] for event in fit(*flags, ranks=ranks).events if event["event"] == "epoch"]
              for ranks in (1, 3)]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    still = fit(*flags, "--learning-rate", 0, ranks=3)  # the weights stay: the epoch's mean is the whole part's
    assert still.events[-2]["train_loss"] == pytest.approx(still.end["train_loss"], rel=1e-10)


@pytest.mark.parametrize("rate", [1e6, 0.01])
def test_training_that_diverges_is_told_once_with_what_to_try_and_without_numpys_warnings(rate, capsys, recwarn):
    flags = ["--data", "synthetic", "--model", "mlp", "--hidden", "8", "--epochs", "3", "--learning-rate", str(rate)]
    train.main([*flags, "--transport", "threads", "--ranks", "2"])
    assert capsys.readouterr().out.count("training has diverged: try a smaller --learning-rate") == (rate > 1)
    assert not recwarn.list


def test_a_regression_has_no_accuracy_and_data_without_a_test_part_no_test_loss():
    run = fit("--quiet", "--data", "synthetic", "--test-fraction", 0, "--epochs", 1)
    assert run.end["test_accuracy"] is None and run.end["test_loss"] is None
    assert fit("--quiet", "--data", "synthetic", "--epochs", 1).end["test_loss"] > 0


def test_metrics_are_at_most_ten_iterations_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now[0])
    due = []
    with Metrics(str(tmp_path / "m")) as metrics:
        for _ in range(1000):
            now[0] += 0.003
            due.append(metrics.due())
    assert due[0] and 28 <= sum(due) <= 31
    with Metrics(None) as nowhere:
        assert not nowhere.due()


def test_metrics_write_null_where_json_has_no_word(tmp_path):
    with Metrics(str(tmp_path / "m")) as metrics:
        metrics.write("end", train_loss=math.nan, test_loss=math.inf, wall_s=1.5, note=None)
    [line] = strict_lines((tmp_path / "m").read_text())
    assert line == {"event": "end", "train_loss": None, "test_loss": None, "wall_s": 1.5, "note": None}


def test_metrics_of_a_run_that_is_cut_off_are_whole_lines(tmp_path):
    metrics = Metrics(str(tmp_path / "m"))
    metrics.write("start", world_size=1)
    assert (tmp_path / "m").read_text() == '{"event": "start", "world_size": 1}\n'
    metrics.__exit__(None, None, None)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("ranks", [1, 3])
def test_results_that_cannot_be_written_are_named_in_one_line_after_the_summary(ranks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.fsync", full_disk)
    flags = ("--strategy", "ps", "--servers", "0", "--staleness", "inf", "--epochs", "1", "--transport", "threads")
    out = ("--save", f"{tmp_path}/m.npz", "--record-arrivals", f"{tmp_path}/a", "--metrics", f"{tmp_path}/m")
    assert train.main([*flags, *out, "--ranks", str(ranks)]) == 1
    said, error = capsys.readouterr()
    assert said.splitlines()[-1].startswith("  sha256")
    why = "could not be written: No space left on device"
    rank = "rank 0: " * (ranks > 1)
    assert error == f"npdp: error: {rank}--save: {tmp_path}/m.npz {why}; --record-arrivals: {tmp_path}/a {why}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # which was written


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_metrics_that_cannot_be_written_do_not_end_the_training(tmp_path, capsys):
    assert train.main(["--epochs", "2", "--metrics", "/dev/full", "--save", f"{tmp_path}/m.npz"]) == 1
    said, error = capsys.readouterr()
    assert "epoch 2/2" in said and "done " in said and (tmp_path / "m.npz").exists()
    assert error == "npdp: error: --metrics: /dev/full could not be written: No space left on device\n"


def test_a_metrics_file_that_cannot_be_made_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(metrics_module, "open", full_disk, raising=False)
    assert train.main(["--metrics", f"{tmp_path}/m"]) == 2
    why = "cannot be written: No space left on device"
    assert capsys.readouterr().err == f"npdp: error: --metrics: {tmp_path}/m {why}\n"


def test_a_model_is_scored_without_dropout_and_goes_on_with_it():
    model = nn.Sequential(nn.Dropout(0.5, seed=1), nn.Linear(3, 2))
    dataset = ArrayDataset(np.ones((20, 3), np.float32), np.zeros(20, np.int64))
    first, second = (evaluate(init(), model, dataset, classes=2) for _ in range(2))
    assert first == second  # dropout would draw two masks
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("features", [3, 4], ids=["", "after an exception"])
def test_scoring_leaves_each_module_in_training_or_not_as_it_was(features):
    model = nn.Sequential(nn.Dropout(0.5, seed=1), nn.Linear(3, 2))
    model[0].eval()
    dataset = ArrayDataset(np.ones((20, features), np.float32), np.zeros(20, np.int64))
    with nullcontext() if features == 3 else pytest.raises(ValueError, match="3"):
        evaluate(init(), model, dataset, classes=2)
    assert [module.training for module in model.modules()] == [True, False, True]
