"""--update makes no difference to the bits; `auto` fuses what is large, where nobody looks at gradients."""

import json

import pytest
from launching import mpirun, needs_mpi, python
from training import UNUSED, fit, strict_lines

from npdp import kernels
from npdp.app.train import main

IN_RANK_ORDER = () if kernels.backend() == "c" else ("--algorithm", "naive")  # shared memory adds so by itself
FLAGS = ("--quiet", "--epochs", "2", "--global-batch-size", "50", *IN_RANK_ORDER)
LARGE = ("--model", "mlp", "--hidden", "3600", "--epochs", "1", "--global-batch-size", "150")  # just above 1 MB
SETTINGS = {
    "sgd": (),
    "adamw": ("--optimizer", "adamw", "--learning-rate", "0.01"),
    "accumulate": ("--accumulate", "3", "--weight-decay", "0.01"),
    "mlp": ("--model", "mlp", "--hidden", "40", "--epochs", "1"),
    "naive": ("--algorithm", "naive", "--optimizer", "adam", "--learning-rate", "0.01"),
    "unused": ("--model", "{folder}/unused.py:make"),
    "large": LARGE,
    "large naive": (*LARGE, "--algorithm", "naive"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_flag_makes_no_difference_to_the_bits_and_is_told_in_the_metrics(setting, tmp_path):
    (tmp_path / "unused.py").write_text(UNUSED)
    flags = [flag.format(folder=tmp_path) for flag in SETTINGS[setting]]
    runs = {update: fit(*FLAGS, *flags, "--update", update, ranks=3) for update in ("replicated", "fused", "auto")}
    auto = "fused" if kernels.backend() == "c" and setting == "large" else "replicated"
    assert {update: run.events[0]["update"] for update, run in runs.items()} == {
        "replicated": "replicated", "fused": "fused", "auto": auto,
    }  # fmt: skip
    assert len({run.end["parameters_sha256"] for run in runs.values()}) == 1
    assert len({run.end["train_loss"] for run in runs.values()}) == 1


FROZEN = """
from npdp import nn
def make(features, classes):
    model = nn.Sequential(nn.Linear(features, 5000), nn.ReLU(), nn.Linear(5000, classes))
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    return model
"""


def test_auto_looks_at_what_is_trained(tmp_path):
    (tmp_path / "frozen.py").write_text(FROZEN)
    flags = (*FLAGS, "--epochs", "0", "--model", f"{tmp_path}/frozen.py:make")
    assert fit(*flags, ranks=2).events[0]["update"] == "replicated"


def test_auto_is_replicated_where_gradients_are_looked_at_or_there_is_one_rank():
    flags = (*FLAGS, *LARGE, "--epochs", "0")
    assert fit(*flags, "--clip-norm", "1", ranks=2).events[0]["update"] == "replicated"
    assert fit(*flags, ranks=1).events[0]["update"] == "replicated"


def test_fused_and_clipping_exclude_each_other(capsys):
    assert main(["--update", "fused", "--clip-norm", "1", "--transport", "threads", "--ranks", "2"]) == 2
    assert "--update fused stores no gradient that --clip-norm could scale" in capsys.readouterr().err


def test_fused_and_an_algorithm_without_a_reduce_scatter_exclude_each_other(capsys):
    assert main(["--update", "fused", "--algorithm", "tree", "--transport", "threads", "--ranks", "2"]) == 2
    assert "--update fused needs an algorithm that has a reduce-scatter, auto, hierarchical" in capsys.readouterr().err


def test_numpys_kernels_give_the_same_bits(tmp_path):
    """Of more than the blocks that NumPy takes at a time."""
    flags = (*FLAGS, "--model", "mlp", "--hidden", "400", "--epochs", "1", "--update", "fused", "--optimizer", "adamw")
    out = ("--algorithm", "naive", "--transport", "threads", "--ranks", "3", "--metrics", f"{tmp_path}/run.jsonl")
    code, _, stderr = python("-m", "npdp.train", *flags, *out, NPDP_KERNELS="numpy")
    assert code == 0, stderr
    end = strict_lines((tmp_path / "run.jsonl").read_text())[-1]
    assert end["backend"] == "numpy"
    assert end["parameters_sha256"] == fit(*flags, ranks=3).end["parameters_sha256"]


@needs_mpi
def test_under_mpi_the_flag_makes_no_difference_to_the_bits(tmp_path):
    naive = ("--algorithm", "naive")
    flags, cases = [], [("replicated", ()), ("fused", ()), ("fused", naive), ("replicated", LARGE), ("auto", LARGE)]
    for number, (update, others) in enumerate(cases):
        out = ("--update", update, "--metrics", f"{tmp_path}/{number}.jsonl")
        flags.append(json.dumps([*FLAGS, *others, *out]))
    code, _, stderr = mpirun(3, "train_many.py", *flags, timeout=60)
    assert code == 0, stderr
    runs = [strict_lines((tmp_path / f"{number}.jsonl").read_text()) for number in range(len(cases))]
    fused = "fused" if kernels.backend() == "c" else "replicated"
    assert [events[0]["update"] for events in runs] == ["replicated", "fused", "fused", "replicated", fused]
    shas = [events[-1]["parameters_sha256"] for events in runs]
    assert shas[3] == shas[4]
    threads = fit(*FLAGS, "--update", "fused", ranks=3)
    wanted = threads.end["parameters_sha256"] if kernels.backend() == "c" else shas[0]
    assert set(shas[:3]) == {wanted}
