"""A model of sparse features from the command line: trained by each strategy that takes rows, saved, scored, asked."""

import json

import numpy as np
import pytest
from launching import mpirun, needs_mpi, refusal
from training import fit, off

from npdp.app import train
from npdp.app.cli import main

FEATURES, ENTRIES, SAMPLES = 5000, 10, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sparse samples of three classes as .npz and .svm, and a model trained on them."""
    folder = tmp_path_factory.mktemp("sparse")
    generator = np.random.default_rng(1)
    columns = np.sort(np.stack([generator.choice(FEATURES, ENTRIES, replace=False) for _ in range(SAMPLES)]), axis=1)
    values = generator.standard_normal((SAMPLES, ENTRIES))
    weight = generator.standard_normal((FEATURES, 3))
    labels = np.einsum("se,sec->sc", values, weight[columns]).argmax(axis=1)
    np.savez(folder / "data.npz", indptr=np.arange(0, SAMPLES * ENTRIES + 1, ENTRIES), indices=columns.reshape(-1),
             values=values.reshape(-1), shape=np.array([SAMPLES, FEATURES]), y=labels)  # fmt: skip
    lines = [f"{label} " + " ".join(f"{c + 1}:{v:.17g}" for c, v in zip(row, entries))
             for label, row, entries in zip(labels, columns, values)]  # fmt: skip
    (folder / "data.svm").write_text("\n".join(lines) + "\n")
    flags = f"--data {folder}/data.npz --epochs 30 --learning-rate 2 --quiet --save {folder}/model.npz"
    train.main(flags.split())
    return folder


def said(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_a_saved_model_scores_sparse_files_of_both_kinds(folder, capsys):
    outcomes = {said(capsys, "evaluate", folder / "model.npz", "--data", folder / f"data.{suffix}", "--part", "all")
                for suffix in ("npz", "svm")}  # fmt: skip
    (outcome,) = outcomes
    assert outcome.startswith("300 samples: loss ") and float(outcome.split()[-1]) > 0.8


def test_it_answers_for_each_sample(folder, capsys):
    answers = said(capsys, "predict", folder / "model.npz", folder / "data.svm").split()
    labels = np.load(folder / "data.npz")["y"]
    assert len(answers) == SAMPLES and (np.array(answers, int) == labels).mean() > 0.8


def test_features_that_a_file_does_not_have_are_absent(folder, capsys, tmp_path):
    (tmp_path / "few.svm").write_text("0 1:1\n1 3:2\n2 2:1\n")
    assert len(said(capsys, "predict", folder / "model.npz", tmp_path / "few.svm").split()) == 3


def test_a_table_does_not_fit_and_neither_do_too_many_features(folder, capsys, tmp_path):
    (tmp_path / "table.csv").write_text("1,2,0\n3,4,1\n5,6,2\n" * 5)
    assert main(["evaluate", str(folder / "model.npz"), "--data", str(tmp_path / "table.csv")]) == 2
    assert "the model takes sparse features, got a table of features" in capsys.readouterr().err
    (tmp_path / "more.svm").write_text(f"0 1:1\n1 {FEATURES + 1}:2\n")
    assert main(["predict", str(folder / "model.npz"), str(tmp_path / "more.svm")]) == 2
    assert f"the model takes {FEATURES} features, got {FEATURES + 1}" in capsys.readouterr().err


def sha256(folder, ranks, *flags) -> str:
    """Train on threads, and return the hash of the parameters."""
    metrics = folder / "run.jsonl"
    train.main(["--data", str(folder / "data.npz"), "--epochs", "2", "--dtype", "float64", "--transport", "threads",
                "--ranks", str(ranks), "--quiet", "--metrics", str(metrics), *flags])  # fmt: skip
    return json.loads(metrics.read_text().splitlines()[-1])["parameters_sha256"]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("servers", [0, 1, 2])
def test_with_staleness_0_a_parameter_server_gives_the_bits_of_all_reduce(folder, workers, servers):
    flags = ["--strategy", "ps", "--servers", str(servers), "--global-batch-size", "50"]
    wanted = sha256(folder, workers, "--global-batch-size", "50")
    assert sha256(folder, workers + servers, *flags) == wanted


def test_an_asynchronous_run_on_rows_is_repeated_to_the_bit(folder, tmp_path):
    flags = ["--strategy", "ps", "--servers", "2", "--staleness", "inf"]
    record = str(tmp_path / "record")
    wanted = sha256(folder, 5, *flags, "--record-arrivals", record, "--inject", "slow@rank=1,factor=5")
    for _ in range(2):
        assert sha256(folder, 5, *flags, "--replay-arrivals", record) == wanted


@pytest.mark.parametrize("flags", ["--update fused", "--strategy local-sgd"])
def test_what_passes_over_whole_parameters_is_refused(folder, flags, capsys):
    assert train.main(["--data", str(folder / "data.npz"), *flags.split()]) == 2
    assert "passes over whole parameters" in capsys.readouterr().err


EMBEDDING = """
from npdp import nn

class Model(nn.Module):
    def __init__(self, classes):
        self.embedding, self.linear = nn.Embedding(17, 4, sparse=True), nn.Linear(256, classes)

    def forward(self, x):
        return self.linear(self.embedding(x.data.astype(int)).reshape(len(x), -1))

def make(classes):
    return Model(classes)
"""


@pytest.fixture(scope="module")
def embedding(folder):
    """A model with sparse parameters for the digits, which are a table: a pixel is one of 17 numbers."""
    (folder / "embedding.py").write_text(EMBEDDING)
    return ["--model", f"{folder}/embedding.py:make"]


@pytest.mark.parametrize("flags", ["", "--strategy ps --servers 0"])
def test_a_model_with_sparse_parameters_trains_on_a_table_by_default(embedding, flags):
    run = fit("--quiet", "--epochs", "1", "--dtype", "float64", *embedding, *flags.split(), ranks=2)
    assert run.code == 0 and run.events[0]["momentum"] == 0
    assert off(run, fit("--quiet", "--epochs", "1", "--dtype", "float64", *embedding)) <= 1e-10


@pytest.mark.parametrize(("flags", "said"), [
    ("--update fused", "passes over whole parameters; use --update replicated"),
    ("--strategy naive", "passes over whole parameters; use --strategy allreduce or ps"),
    ("--strategy local-sgd", "passes over whole parameters; use --strategy allreduce or ps"),
    ("--momentum 0.9", "only rows with a gradient are updated: wanted --optimizer sgd --momentum 0"),
    ("--optimizer adam", "only rows with a gradient are updated: wanted --optimizer sgd --momentum 0"),
])  # fmt: skip
@pytest.mark.parametrize("where", ["", "--transport threads --ranks 2"])
def test_what_cannot_be_done_with_its_rows_is_refused(embedding, flags, said, where, capsys):
    line = refusal(capsys, train.main, *embedding, *flags.split(), *where.split())
    assert line.startswith("npdp: error: sparse parameters: ") and said in line


@needs_mpi
def test_under_mpi_rows_are_pushed_and_fetched_as_on_threads(folder):
    metrics = folder / "mpi.jsonl"
    flags = f"--data {folder}/data.npz --epochs 2 --dtype float64 --quiet --metrics {metrics} --strategy ps"
    code, _, stderr = mpirun(3, "-m", "npdp.train", *flags.split())
    assert code == 0, stderr
    assert json.loads(metrics.read_text().splitlines()[-1])["parameters_sha256"] == sha256(
        folder, 3, "--strategy", "ps"
    )
