"""A model of sparse features from the command line: trained by each strategy that takes rows, saved, scored, asked."""

import json

import numpy as np
import pytest
from launching import mpirun, needs_mpi

from npdp import train
from npdp.cli import main

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


@needs_mpi
def test_under_mpi_rows_are_pushed_and_fetched_as_on_threads(folder):
    metrics = folder / "mpi.jsonl"
    flags = f"--data {folder}/data.npz --epochs 2 --dtype float64 --quiet --metrics {metrics} --strategy ps"
    code, _, stderr = mpirun(3, "-m", "npdp.train", *flags.split())
    assert code == 0, stderr
    assert json.loads(metrics.read_text().splitlines()[-1])["parameters_sha256"] == sha256(
        folder, 3, "--strategy", "ps"
    )
