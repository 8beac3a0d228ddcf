"""Results: where they cannot be written, and that nothing which is read is written over."""

import errno
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from data_files import IMAGES, idx_bytes, idx_folder
from launching import refusal

from npdp.app import train
from npdp.report import metrics as metrics_module


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
    told = "  --metrics: no more is written to /dev/full: No space left on device\n"
    assert said.count(told) == 1 and said.index(told) < said.index("epoch 1/2")
    assert error == "npdp: error: --metrics: /dev/full could not be written: No space left on device\n"


def test_a_metrics_file_that_cannot_be_made_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(metrics_module, "open", full_disk, raising=False)
    line = refusal(capsys, train.main, "--metrics", f"{tmp_path}/m")
    assert line == f"npdp: error: --metrics: {tmp_path}/m cannot be written: No space left on device\n"


@pytest.mark.parametrize("flag", ["--metrics", "--save"])
def test_a_file_with_no_name_or_too_long_a_one_is_refused(flag, capsys):
    assert f"{flag}: wanted a file to write, got no name" in refusal(capsys, train.main, flag, "")
    assert f"{flag}: wanted a file to write, but its name is too long: ooo" in refusal(
        capsys, train.main, flag, "o" * 300
    )


def test_a_file_in_a_working_directory_that_is_gone_is_refused(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "--save: wanted a file to write, but the working directory has been" in refusal(
        capsys, train.main, "--save", "m.npz"
    )


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_write_permission_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "no permission to write" in refusal(capsys, train.main, "--save", f"{tmp_path}/model.npz")


def test_a_metrics_file_from_before_survives_a_refusal(tmp_path, capsys):
    (tmp_path / "m").write_text("the last run\n")
    refusal(capsys, train.main, "--metrics", f"{tmp_path}/m", "--data", f"{tmp_path}/missing.csv")
    assert (tmp_path / "m").read_text() == "the last run\n"


READ_AND_WRITTEN = {  # flags, beside those that are right -> what the line must say
    "--data t.npz --metrics t.npz": "--metrics: wanted a file to write, t.npz is what --data reads",
    "--data {folder}/t.npz --save ../in/t.npz": "--save: wanted a file to write, ../in/t.npz is what --data reads",
    "--data t.npz --save symbolic": "symbolic is what --data reads",
    "--data symbolic.npz --metrics t.npz": "t.npz is what --data reads",
    "--data t.npz --metrics hard": "hard is what --data reads",
    "--data x.npy --metrics x.npy": "x.npy is what --data reads",
    "--data x.npy --save y.npy": "y.npy is what --data reads",
    "--data {folder} --metrics x.npy": "x.npy is what --data reads",
    "--data {folder}/ --save y.npy": "y.npy is what --data reads",
    "--data ../idx --save ../idx/train-images-idx3-ubyte.gz": "ubyte.gz is what --data reads",
    "--model make.py:make --metrics make.py": "--metrics: wanted a file to write, make.py is what --model reads",
    "--strategy ps --staleness 1 --model make.py:make --record-arrivals {folder}/make.py": "is what --model reads",
}


@pytest.mark.parametrize("flags", READ_AND_WRITTEN)
def test_what_is_read_is_not_written_over(flags, tmp_path, capsys, monkeypatch):
    inside = tmp_path / "in"
    inside.mkdir()
    monkeypatch.chdir(inside)
    (tmp_path / "idx").mkdir()
    idx_folder(tmp_path / "idx", images=None, images_gz=gzip.compress(idx_bytes(IMAGES)))
    np.savez("t.npz", x=np.eye(4), y=np.arange(4))
    np.save("x.npy", np.eye(4))
    np.save("y.npy", np.arange(4))
    os.symlink("t.npz", "symbolic")
    os.symlink("t.npz", "symbolic.npz")
    os.link("t.npz", "hard")
    Path("make.py").write_text("from npdp import nn\n\ndef make():\n    return nn.Linear(64, 10)\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert READ_AND_WRITTEN[flags] in refusal(capsys, train.main, *flags.format(folder=inside).split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_results_may_lie_beside_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(4))
    np.save("y.npy", np.arange(4))
    flags = ("--quiet", "--epochs", "1", "--test-fraction", "0", "--metrics", "m", "--save", "m.npz")
    for data in ("x.npy", ".", "digits"):
        assert [train.main([*flags, "--data", data]) for _ in range(2)] == [0, 0]
    assert train.main([*flags[:-1], "digits", "--data", "digits"]) == 0  # no path, but a word


def test_saving_through_a_link_keeps_the_link(tmp_path):
    target, link = tmp_path / "model.npz", tmp_path / "latest.npz"
    link.symlink_to(target)
    assert train.main(["--epochs", "0", "--quiet", "--save", str(link)]) == 0
    assert link.is_symlink() and target.stat().st_size > 0


def test_saving_onto_a_pipe_or_onto_the_metrics_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    same = str(tmp_path / "same")
    refusal(capsys, train.main, "--save", str(tmp_path / "pipe"))
    refusal(capsys, train.main, "--save", same, "--metrics", same)
