"""Training that ends after any iteration goes on from its checkpoint to what the undisturbed run gives."""

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import DIGITS_TRAIN, fit, off, strict_lines

from npdp import kernels
from npdp.app.train import main
from npdp.elastic import checkpoint

MODEL = """
from npdp import nn

def make(features, classes):
    middle = nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.3)
    return nn.Sequential(nn.Linear(features, 12), *middle, nn.Linear(12, classes))

def without_buffers(features, classes):
    return nn.Sequential(nn.Linear(features, 12), nn.Dropout(0.3), nn.Linear(12, classes))
"""
DIGITS = ("--quiet", "--dtype", "float64", "--epochs", "2", "--global-batch-size", "300")  # 5 iterations an epoch
TEXT = ("--quiet", "--dtype", "float64", "--data", "{folder}/book.txt", "--epochs", "2", "--global-batch-size", "30",
        "--layers", "1", "--heads", "2", "--width", "8", "--context", "16", "--dropout", "0.2")  # fmt: skip
SPARSE = ("--quiet", "--dtype", "float64", "--data", "{folder}/d.svm", "--sparse", "--epochs", "2",
          "--global-batch-size", "20")  # fmt: skip
FUSED = ("--update", "fused") if kernels.backend() == "c" else ()  # else ranks have parts of the state
SETTINGS = {
    "momentum and a cosine": DIGITS,
    "plain sgd": (*DIGITS, "--momentum", "0", "--algorithm", "naive"),
    "adam, warm-up, clipping": (*DIGITS, "--optimizer", "adam", "--learning-rate", "0.01", "--warm-up-epochs", "1.5",
                                "--clip-norm", "0.5"),
    "fused adamw": (*DIGITS, *FUSED, "--optimizer", "adamw", "--learning-rate", "0.01"),
    "dropout and batch normalisation": (*DIGITS, "--model", "{folder}/own.py:make", "--lr-schedule", "step"),
    "micro-batches": (*DIGITS, "--accumulate", "3", "--model", "mlp", "--hidden", "8", "--algorithm", "ring"),
    "micro-batches, dropout, adam": (*DIGITS, "--accumulate", "3", "--model", "{folder}/own.py:without_buffers",
                                     "--optimizer", "adam", "--learning-rate", "0.01"),
    "sparse rows": SPARSE,
    "fused momentum": (*DIGITS, *FUSED, "--model", "mlp", "--hidden", "40"),
    "a language model": TEXT,
}  # fmt: skip
RANKS = 2


class Undisturbed:
    """A run that kept a checkpoint of each iteration."""

    def __init__(self, folder, setting):
        (folder / "own.py").write_text(MODEL)
        (folder / "book.txt").write_text("".join(chr(97 + (i * i + i // 7) % 26) for i in range(1500)))
        lines = (f"{n % 3} {n % 7 + 1}:1 {n % 11 + 9}:{n / 90:.2f} {n % 30 + 40}:-1" for n in range(90))
        (folder / "d.svm").write_text("\n".join(lines) + "\n")
        self.flags = [flag.format(folder=folder) for flag in SETTINGS[setting]]
        self.folder = folder / "all"
        kept = ("--checkpoint", self.folder, "--checkpoint-every", "1", "--keep", "1000")
        self.run = fit(*self.flags, *kept, ranks=RANKS)
        self.without = fit(*self.flags, ranks=RANKS)
        self.iterations = self.run.end["iterations"]

    def resumed(self, iteration, ranks, *flags):
        """Go on after so many iterations, as where the run had ended there."""
        folder = self.folder.parent / "resumed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if iteration:
            shutil.copy(checkpoint.path_of(self.folder, iteration), folder)
        return fit(*self.flags, "--checkpoint", folder, "--resume", *flags, ranks=ranks)


@pytest.fixture(scope="module", params=SETTINGS)
def undisturbed(request, tmp_path_factory):
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), request.param)


def test_checkpoints_change_nothing_and_there_is_one_of_each_iteration(undisturbed):
    assert undisturbed.run.end["parameters_sha256"] == undisturbed.without.end["parameters_sha256"]
    assert sorted(checkpoint.numbers(undisturbed.folder)) == list(range(1, undisturbed.iterations + 1))


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_resumed_at_the_same_number_of_ranks_it_ends_with_the_same_bits(undisturbed, data):
    iteration = data.draw(st.integers(0, undisturbed.iterations))
    run = undisturbed.resumed(iteration, RANKS)
    wanted = undisturbed.run.end
    assert run.code == 0
    assert run.end["iterations"] == wanted["iterations"]
    assert run.end["parameters_sha256"] == wanted["parameters_sha256"]
    assert (run.end["train_loss"], run.end["test_loss"]) == (wanted["train_loss"], wanted["test_loss"])
    assert all(np.array_equal(run.arrays[name], values) for name, values in undisturbed.run.arrays.items())


@settings(max_examples=3, deadline=None)
@given(data=st.data(), ranks=st.sampled_from([1, 3, 4]))
def test_resumed_at_another_number_of_ranks_it_ends_as_exactly_and_with_the_rest_of_the_samples(
    undisturbed, data, ranks
):
    iteration = data.draw(st.integers(1, undisturbed.iterations))
    run = undisturbed.resumed(iteration, ranks)
    assert off(run, undisturbed.run) < 1e-12
    if "--data" not in undisturbed.flags:
        epoch, batches = divmod(iteration, 5)
        assert run.end["samples_seen"] == 2 * DIGITS_TRAIN - epoch * DIGITS_TRAIN - 300 * batches


def test_the_last_ones_stay_and_the_last_iteration_has_one(tmp_path):
    fit(*DIGITS, "--checkpoint", tmp_path / "kept", "--checkpoint-every", "4", "--keep", "2")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["000008.npz", "000010.npz"]


def test_with_a_time_there_is_one_at_the_end(tmp_path):
    fit(*DIGITS, "--checkpoint", tmp_path / "kept", "--checkpoint-every", "2h")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["000010.npz"]


def test_without_a_checkpoint_it_starts_afresh_and_says_so(tmp_path, capsys):
    run = fit(*DIGITS[1:], "--checkpoint", tmp_path / "none", "--resume")
    assert run.end["samples_seen"] == 2 * DIGITS_TRAIN
    assert f"there is no checkpoint in {tmp_path}/none, training starts afresh" in capsys.readouterr().out


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "torn":
        del content[len(content) // 2 :]
    elif how == "altered":
        content[len(content) // 2] ^= 1
    else:
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["torn", "altered", "empty"])
def test_a_damaged_one_is_told_of_and_the_one_before_is_taken(how, tmp_path, capsys):
    kept = ("--checkpoint", tmp_path / "kept", "--checkpoint-every", "3")
    wanted = fit(*DIGITS, *kept)
    damage(tmp_path / "kept" / "000010.npz", how)
    damage(tmp_path / "kept" / "000009.npz", how)
    run = fit(*DIGITS[1:], *kept, "--resume")
    said = capsys.readouterr().out
    assert "000010.npz: expected a checkpoint that npdp wrote, got one that is torn or was altered: " in said
    assert said.count("; the one before it is taken") == 2
    assert "resumed after iteration 6, epoch 2, 1 of its batches done" in said
    assert run.end["parameters_sha256"] == wanted.end["parameters_sha256"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["000006.npz", "000009.npz", "000010.npz"]


def test_metrics_go_on_in_the_same_file(tmp_path):
    flags = (*DIGITS, "--checkpoint", str(tmp_path / "kept"), "--metrics", str(tmp_path / "m.jsonl"), "--epochs")
    assert main([*flags, "1", "--lr-schedule", "constant"]) == 0
    assert main([*flags, "3", "--lr-schedule", "constant", "--resume"]) == 0
    events = strict_lines((tmp_path / "m.jsonl").read_text())
    assert [event["event"] for event in events if event["event"] in ("start", "end")] == ["start", "end"] * 2
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3]
    assert sum(event["samples_seen"] for event in events if event["event"] == "end") == 3 * DIGITS_TRAIN


def test_a_torn_one_after_the_newest_goes_when_that_is_written_and_takes_no_place(tmp_path):
    kept = ("--checkpoint", tmp_path / "kept", "--checkpoint-every", "1", "--keep", "2")
    fit(*DIGITS, "--epochs", "1", "--lr-schedule", "constant", *kept)
    (tmp_path / "kept" / "000099.npz").write_bytes(b"torn")
    fit(*DIGITS, "--epochs", "2", "--lr-schedule", "constant", *kept, "--resume")
    assert sorted(checkpoint.numbers(str(tmp_path / "kept"))) == [9, 10]


def test_the_best_parameters_are_kept_beyond_an_end(tmp_path):
    flags = (*DIGITS, "--lr-schedule", "constant", "--learning-rate", "3", "--evaluate-every", "1")
    wanted = fit(*flags, "--checkpoint", tmp_path / "kept", "--checkpoint-every", "1", "--keep", "100")
    losses = [event["test_loss"] for event in wanted.events if event["event"] == "evaluation"]
    best = 1 + int(np.argmin(losses))
    assert best < len(losses)
    for path in (tmp_path / "kept").iterdir():
        if path.name > f"{best:06d}.npz":
            path.unlink()
    run = fit(*flags, "--checkpoint", tmp_path / "kept", "--resume", ranks=2)
    assert off(run, wanted) < 1e-12


def test_more_epochs_go_on_where_fewer_ended(tmp_path):
    flags = (*DIGITS, "--lr-schedule", "constant", "--epochs")
    fit(*flags, "1", "--checkpoint", tmp_path / "kept")
    run = fit(*flags, "3", "--checkpoint", tmp_path / "kept", "--resume")
    assert run.end["parameters_sha256"] == fit(*flags, "3").end["parameters_sha256"]


REFUSED = {
    "seed was 0, is 1": ("--seed", "1"),
    "test fraction was None, is 0.3": ("--test-fraction", "0.3"),
    "model was softmax, is mlp": ("--model", "mlp"),
    "optimizer was sgd, is adam": ("--optimizer", "adam"),
    "global batch size was 300, is 100": ("--global-batch-size", "100"),
    "learning rate was 0.1, is 0.2": ("--learning-rate", "0.2"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_that_of_another_run_is_refused_in_one_line(why, tmp_path, capsys):
    kept = ("--transport", "threads", "--ranks", "2", "--checkpoint", str(tmp_path / "kept"))
    assert main([*DIGITS, *kept]) == 0
    capsys.readouterr()
    assert main([*DIGITS, *kept, "--resume", *REFUSED[why]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "000010.npz is of another run: " + why in line


def test_that_of_other_data_in_the_same_place_is_refused(tmp_path, capsys):
    x, y = np.random.default_rng(0).standard_normal((50, 4)), np.arange(50) % 3
    flags = ("--quiet", "--epochs", "1", "--data", f"{tmp_path}/d.npz", "--checkpoint", str(tmp_path / "kept"))
    np.savez(tmp_path / "d.npz", x=x, y=y)
    assert main(flags) == 0
    x[17, 2] += 1e-3
    np.savez(tmp_path / "d.npz", x=x, y=y)
    assert main([*flags, "--resume"]) == 2
    assert "is of another run: data fingerprint was" in capsys.readouterr().err


def test_another_file_with_the_same_model_of_other_sizes_is_refused(tmp_path, capsys):
    flags = (*DIGITS, "--model", f"{tmp_path}/own.py:make", "--checkpoint", str(tmp_path / "kept"))
    (tmp_path / "own.py").write_text(MODEL)
    assert main(flags) == 0
    (tmp_path / "own.py").write_text(MODEL.replace("12", "13"))
    assert main([*flags, "--resume"]) == 2
    assert "0.weight: wanted shape (13, 64), got (12, 64)" in capsys.readouterr().err


def test_a_directory_with_checkpoints_is_not_begun_anew_without_being_told(tmp_path, capsys):
    flags = (*DIGITS, "--checkpoint", str(tmp_path / "kept"))
    assert main(flags) == 0
    assert main(flags) == 2
    assert "has checkpoints, the last is 000010.npz: go on from it with --resume" in capsys.readouterr().err


WRONG = {
    "--resume: wanted --checkpoint DIR too": ("--resume",),
    "wanted iterations, or a time as 90s, 10min or 2h, above 0, got '10 parsecs'": (
        "--checkpoint", "x", "--checkpoint-every", "10 parsecs"),
    "--strategy ps has ranks at different parameters: --checkpoint is for": ("--checkpoint", "x", "--strategy", "ps"),
    "--strategy local-sgd has ranks at different": ("--checkpoint", "x", "--strategy", "local-sgd"),
    "cannot be used: Not a directory": ("--checkpoint", "/dev/null/x"),
    "a rank has a part of the state: use --update replicated": (
        "--checkpoint", "{folder}", "--transport", "threads", "--ranks", "2", "--update", "fused",
        "--algorithm", "ring"),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG)
def test_flags_that_make_no_sense_are_refused_in_one_line(why, tmp_path, capsys):
    assert main([*DIGITS, *(flag.format(folder=tmp_path) for flag in WRONG[why])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line
    assert not Path("x").exists()


def test_where_nothing_can_be_written_training_goes_on_and_the_old_one_is_whole(tmp_path, capsys):
    kept = ("--checkpoint", tmp_path / "kept", "--checkpoint-every", "2")
    wanted = fit(*DIGITS, *kept)
    for path in (tmp_path / "kept").glob("*.npz"):
        if path.name != "000006.npz":
            path.unlink()
    whole = (tmp_path / "kept" / "000006.npz").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 1000, hard))
    try:
        run = fit(*DIGITS, *kept, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert "000008.npz was not written: File too large; training goes on" in said
    assert run.code == 0
    assert run.end["parameters_sha256"] == wanted.end["parameters_sha256"]
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "kept").iterdir()] == [("000006.npz", whole)]
