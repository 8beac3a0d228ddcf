"""npdp.train under mpirun: the model of one rank, the bits of a world of threads, and faults that end all ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import PROGRAMS, SETTINGS, Outcome, end, mpirun, needs_mpi, python, started, wait_for_an_epoch
from training import BATCHES, DIGITS_TRAIN, DROPOUT, UNUSED, exact_flags, off, on_one_rank, read_run, strict_lines

from npdp import kernels

pytestmark = needs_mpi
SOON_S = 3
START_S = 10  # what a launch may take before a rank has begun, on a machine that does much else
TRACEBACK = "Traceback (most recent call last)"
HASHED = ("naive", "ring", "halving_doubling", "tree", "auto")


def runs(start, folder: Path, cases: dict[str, tuple[str, ...]]):
    """Start train_many.py with `start`; return each case's run."""
    flags = []
    for name, case in cases.items():
        out = folder / name.replace(" ", "_")
        out.mkdir()
        flags.append(json.dumps(["--quiet", *case, "--metrics", f"{out}/run.jsonl", "--save", f"{out}/model.npz"]))
    code, stdout, stderr = start("train_many.py", *flags)
    assert (code, stdout, stderr) == (0, "", ""), stderr
    return {name: read_run(code, folder / name.replace(" ", "_")) for name in cases}


# Exact
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_any_number_of_ranks_trains_the_model_of_one_rank_and_uses_each_sample_once(ranks, tmp_path):
    cases = {f"{dtype} {batch}": exact_flags(batch, dtype) for batch in BATCHES for dtype in ("float64", "float32")}
    for name, run in runs(lambda *program: mpirun(ranks, *program, timeout=60), tmp_path, cases).items():
        alone = on_one_rank(*cases[name])
        assert run.end["world_size"] == ranks
        assert run.end["samples_seen"] == run.end["epochs"] * DIGITS_TRAIN, name
        assert run.end["train_loss"] == pytest.approx(alone.end["train_loss"], rel=1e-5), name
        if name.startswith("float64"):
            assert off(run, alone) <= 1e-10, name


@pytest.mark.parametrize("ranks", [3, 4])
def test_mpi_and_threads_agree_to_the_last_bit_with_each_algorithm(ranks, tmp_path):
    (tmp_path / "dropout.py").write_text(DROPOUT)
    cases = {algorithm: ("--epochs", "3", "--algorithm", algorithm) for algorithm in HASHED}
    cases["mlp"] = ("--epochs", "1", "--model", "mlp", "--hidden", "200")
    cases["dropout"] = ("--epochs", "2", "--model", f"{tmp_path}/dropout.py:make", "--global-batch-size", "50")
    mpi = runs(lambda *program: mpirun(ranks, *program), make(tmp_path / "mpi"), cases)
    threads = {name: (*case, "--transport", "threads", "--ranks", str(ranks)) for name, case in cases.items()}
    if kernels.backend() != "c":  # by messages `auto` weighs what they cost, which differs between MPI and threads
        threads = {name: (*case, "--algorithm", mpi[name].end["algorithm"]) for name, case in threads.items()}
    for name, run in runs(python, make(tmp_path / "threads"), threads).items():
        assert run.end["algorithm"] == mpi[name].end["algorithm"]
        assert run.end["parameters_sha256"] == mpi[name].end["parameters_sha256"], name
        assert run.end["train_loss"] == mpi[name].end["train_loss"]
        assert "MPI" in mpi[name].events[0]["transport"]


def test_flags_under_mpi_give_the_model_of_one_rank(tmp_path):
    (tmp_path / "dropout.py").write_text(DROPOUT)
    (tmp_path / "unused.py").write_text(UNUSED)
    often = ("--quiet", "--dtype", "float64", "--epochs", "2", "--global-batch-size", "50")
    cases = {
        "accumulate": (*often, "--accumulate", "3", "--clip-norm", "0.05"),
        "dropout": (*often, "--model", f"{tmp_path}/dropout.py:make"),
        "unused": (*often, "--model", f"{tmp_path}/unused.py:make"),
        "adamw": (*often, "--optimizer", "adamw", "--learning-rate", "0.01"),
        "native": (*often, "--algorithm", "mpi"),
    }
    for name, run in runs(lambda *program: mpirun(3, *program), make(tmp_path / "mpi"), cases).items():
        alone = on_one_rank(*(flag for flag in cases[name] if flag not in ("--algorithm", "mpi")))
        assert off(run, alone) <= 1e-10, name


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_mpirun_with_the_defaults_reads_the_digits_and_one_rank_says_so(tmp_path):
    code, stdout, stderr = mpirun(4, "-m", "npdp.train", "--metrics", f"{tmp_path}/m")
    assert (code, stderr) == (0, "")
    assert stdout.count("npdp 0.") == stdout.count("done ") == 1
    assert "4 on MPI (" in stdout and "16 a rank" in stdout
    assert "\r" not in stdout and "\x1b" not in stdout
    assert strict_lines((tmp_path / "m").read_text())[-1]["test_accuracy"] >= 0.93


# Input that cannot be used
def refused(outcome: Outcome, before: float) -> str:
    """Assert that all ranks have left in time with one line of npdp's; return the line."""
    assert time.monotonic() - before < START_S + SOON_S
    code, stdout, stderr = outcome
    assert code == 2, stderr
    assert stdout == "" and TRACEBACK not in stderr
    assert stderr.count("npdp: error: ") == 1  # the other lines are mpirun's
    return next(line for line in stderr.splitlines() if line.startswith("npdp: error: "))


BAD = {
    "--optimizer rmsprop": "invalid choice: 'rmsprop'",
    "--global-batch-size 0": "got '0'",
    "--learning-rate nan": "got 'nan'",
    "--data missing.csv": "missing.csv: ",
    "--data {folder}/ragged.csv": "ragged.csv, line 2: expected 2 columns, got 3",
    "--data {folder}/halves.csv --model softmax": "labels must be integers from 0 up, got 0.5",
    "--model {folder}/broken.py:make": "ZeroDivisionError",
    "--save {folder}/missing/model.npz": "there is no directory",
    "--transport threads --ranks 2": "but the launcher started 3",
    "--ranks 4": "--ranks 4, but this is a world of 3",
    "--model {programs}/train_faulty.py:of_all_ranks": "error: --model: ",
    "--model {programs}/train_faulty.py:of_rank_1": "error: rank 1: --model: ",
    "--model {programs}/train_faulty.py:exit_of_rank_1": "error: rank 1: --model: ",
}


@pytest.mark.parametrize("flags", BAD)
def test_three_ranks_refuse_together_in_one_line(flags, tmp_path):
    (tmp_path / "ragged.csv").write_text("1,2\n3,4,5\n")
    (tmp_path / "halves.csv").write_text("1,0.5\n3,1.5\n4,1.5\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    before = time.monotonic()
    outcome = mpirun(3, "-m", "npdp.train", *flags.format(folder=tmp_path, programs=PROGRAMS).split())
    assert BAD[flags] in refused(outcome, before)


EACH_READS = {"NPDP_KERNELS": "numpy"}  # without C kernels ranks share no memory, as on several hosts


def test_data_that_one_rank_lacks_is_refused_on_all_with_its_rank(tmp_path):
    before = time.monotonic()
    line = refused(mpirun(3, "train_own_data.py", str(tmp_path), "lacks", **EACH_READS), before)
    assert "error: rank 2: data.csv: expected " in line


def test_ranks_that_read_different_data_are_told_so(tmp_path):
    before = time.monotonic()
    line = refused(mpirun(3, "train_own_data.py", str(tmp_path), "differs", **EACH_READS), before)
    assert re.search("data sets differ between ranks: rank 2 has .+, rank 0 has ", line)


DIFFERENT = {
    "--epochs 2": "rank 1 has --epochs 2, rank 0 has --epochs 1",
    "--clip-norm 1": "rank 1 has --clip-norm 1.0, rank 0 has no --clip-norm",
    "--standardize": "rank 1 has --standardize, rank 0 has no --standardize",
    "--model mlp --hidden 8,4": "rank 1 has --model mlp, rank 0 has no --model",
    "--data synthetic": "rank 1 has --data synthetic, rank 0 has --data digits",
}


def two_ranks(flags_of_rank_0: str, flags_of_rank_1: str) -> Outcome:
    """Train on two ranks, each with flags of its own."""
    command = ("-m", "npdp.train", "--epochs", "1")
    rank_1 = (":", "-n", "1", sys.executable, *command, *flags_of_rank_1.split())
    return mpirun(1, *command, *flags_of_rank_0.split(), *rank_1)


@pytest.mark.parametrize("flags", DIFFERENT)
def test_ranks_with_other_flags_leave_together_in_one_line(flags):
    before = time.monotonic()
    line = refused(two_ranks("", flags), before)
    assert f"error: flags differ between ranks: {DIFFERENT[flags]}" in line


def test_where_results_go_need_not_be_alike_on_all_ranks(tmp_path):
    files = f"--save {tmp_path}/model.npz --metrics {tmp_path}/run.jsonl"
    assert two_ranks(f"--quiet {files}", "").code == 0
    assert {file.name for file in tmp_path.iterdir()} == {"model.npz", "run.jsonl"}


# Faults while training
@pytest.mark.parametrize("place", ["in_forward", "in_backward", "in_a_hook", "in_a_thread", "in_the_loader"])
def test_an_exception_on_rank_1_ends_all_ranks_with_one_traceback(place):
    flags = ("--quiet", "--epochs", "100000", "--model", f"{PROGRAMS}/train_faulty.py:{place}")
    code, stdout, stderr = mpirun(3, "-m", "npdp.train", *flags)
    assert time.monotonic() - float(stdout.split()[1]) < SOON_S
    assert code != 0
    assert re.search(rf"^rank 1 failed in \w+ of iteration \d+:\n{re.escape(TRACEBACK)}", stderr, re.M), stderr
    assert "KeyError: 'the fault on purpose'" in stderr
    assert (stdout + stderr).count(TRACEBACK) == 1


# npdp train --ranks
def test_npdp_train_starts_the_ranks_and_hands_on_0(tmp_path):
    flags = ("--ranks", "3", "--epochs", "1", "--metrics", f"{tmp_path}/m")
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS}  # it sets what is needed
    done = subprocess.run([sys.executable, "-m", "npdp", "train", *flags], env=bare, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 on MPI (" in done.stdout and done.stdout.count("done ") == 1
    assert strict_lines((tmp_path / "m").read_text())[-1]["world_size"] == 3


def test_a_reader_that_has_seen_enough_ends_no_training(tmp_path):
    flags = f"--ranks 2 --epochs 30 --save {tmp_path}/model.npz"
    line = f'{{ "{sys.executable}" -m npdp train {flags}; echo $? > {tmp_path}/code; }} | head -2'
    environ = {**os.environ, **SETTINGS}
    done = subprocess.run(["sh", "-c", line], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.stdout.count("\n"), done.stderr) == (2, "")
    assert (tmp_path / "code").read_text() == "0\n" and (tmp_path / "model.npz").exists()


def test_npdp_train_hands_on_2_for_what_only_the_ranks_can_see():
    before = time.monotonic()
    outcome = python("-m", "npdp", "train", "--ranks", "3", "--data", "missing.csv")
    assert "missing.csv" in refused(outcome, before)
    assert outcome.stderr.count("\n") == 1  # and nothing of mpirun's


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_npdp_train_hands_on_that_results_could_not_be_written():
    code, stdout, stderr = python("-m", "npdp", "train", "--ranks", "3", "--epochs", "1", "--metrics", "/dev/full")
    assert (code, stdout.count("done ")) == (1, 1)
    assert stderr == "npdp: error: rank 0: --metrics: /dev/full could not be written: No space left on device\n"


def test_npdp_train_hands_on_that_training_ended_in_no_finite_loss(tmp_path):
    flags = ("--ranks", "2", "--quiet", "--data", "synthetic", "--learning-rate", "1e9", "--metrics", tmp_path / "m")
    code, stdout, stderr = python("-m", "npdp", "train", *map(str, flags))
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)  # and nothing of mpirun's
    assert re.match(r"npdp: error: iteration \d+: the gradient is not finite: .* try a smaller --learning-rate", stderr)


def test_npdp_train_hands_on_a_crash():
    flags = ("--ranks", "3", "--quiet", "--model", f"{PROGRAMS}/train_faulty.py:in_forward")
    code, _, stderr = python("-m", "npdp", "train", *flags)
    assert code == 1
    assert stderr.count(TRACEBACK) == 1


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell mpirun")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGKILL, marks=LINUX)])
def test_a_signal_to_npdp_train_ends_all_ranks(number, tmp_path, tmp_path_factory):
    metrics = tmp_path / "m"
    flags = ("--ranks", "3", "--epochs", "1000000", "--quiet", "--metrics", str(metrics))
    temporary = str(tmp_path_factory.mktemp("t"))  # for the folder that a killed one leaves
    with started("-m", "npdp", "train", *flags, TMPDIR=temporary) as (process, mark):
        wait_for_an_epoch(process, metrics)
        process.send_signal(number)
        before = time.monotonic()
        _, stderr = process.communicate(timeout=10)
        left = end(mark)
    assert time.monotonic() - before < SOON_S
    assert not left
    if number == signal.SIGKILL:
        assert (process.returncode, TRACEBACK in stderr) == (-number, False)
    else:
        asked, stopped = stderr.splitlines()
        assert process.returncode == 128 + number and asked.startswith(f"npdp: note: {number.name}: stopping after")
        assert stopped.startswith(f"npdp: note: stopped by {number.name} after iteration ")
        assert stopped.endswith("; there is no checkpoint to go on from")
    strict_lines(metrics.read_text())  # whole lines
