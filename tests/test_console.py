"""What a run says: plain lines in a log, one live line on a terminal, nothing where it is to be quiet."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from launching import exit_code

from npdp import train
from npdp.report import console
from npdp.report.console import TERMINAL

BACK_TO_THE_START = "\r\x1b[K"


def fit(*flags: str) -> int:
    return exit_code(train.main, "--transport", "threads", *flags)


def test_a_quiet_run_prints_nothing(capfd):
    assert fit("--ranks", "2", "--epochs", "2", "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_in_a_log_a_run_is_plain_lines_one_an_epoch(capsys):
    assert fit("--ranks", "2", "--epochs", "3") == 0
    out, error = capsys.readouterr()
    assert error == "" and "\r" not in out and "\x1b" not in out
    lines = out.splitlines()
    epochs = [line.split("  ")[0] for line in lines if line.startswith("epoch")]
    assert epochs == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert max(map(len, lines)) <= 120


def test_a_run_begins_with_what_it_will_do(capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    flags = ("--epochs", "0", "--global-batch-size", "50", "--learning-rate", "0.07", "--momentum", "0.8")
    assert fit("--ranks", "3", "--algorithm", "ring", "--lr-schedule", "constant", *flags) == 0
    banner = capsys.readouterr().out.split("done ")[0]
    for said in ("softmax with 650 parameters",
                 "digits: 64 features, 10 classes, 1437 samples to train on, 360 to test",
                 "3 on threads of one process, 1 BLAS thread each, ", " kernels, all-reduce ring",
                 "50 globally, 17 or 16 a rank", "29 iterations an epoch, 0 epochs",
                 "sgd, learning rate 0.07 (constant), momentum 0.8, float32"):  # fmt: skip
        assert said in banner, banner


def test_a_run_on_one_rank_speaks_of_no_algorithm(capsys):
    assert fit("--ranks", "1", "--epochs", "0") == 0
    assert " kernels, no all-reduce\n" in capsys.readouterr().out


def test_a_run_ends_with_what_came_out_and_where_the_time_went(capsys):
    assert fit("--ranks", "2", "--epochs", "1") == 0
    done = capsys.readouterr().out.split("done ")[1]
    assert re.search(r"train loss \d\.\d{4}, test loss \d\.\d{4}, test accuracy 0\.\d{4}\n", done)
    assert re.search(r"time +\d+\.\d\d s, [\d,]+ samples/s: compute \d+%, communication \d+%, wait \d+%\n", done)
    assert re.search(r"memory +\d+ MB at most on a rank\n", done)
    assert re.search(r"sha256 +[0-9a-f]{64} ", done)


def test_a_regression_names_no_accuracy(capsys):
    assert fit("--ranks", "2", "--epochs", "1", "--data", "synthetic", "--learning-rate", "0.01") == 0
    assert "test loss" in (out := capsys.readouterr().out) and "accuracy" not in out


def live_lines(out: str) -> list[str]:
    """Return what the live line showed, one after the other."""
    return [shown for shown in re.split(r"\r\x1b\[K|\n", out) if re.match(r"epoch \d+/\d+", shown)]


@pytest.mark.parametrize("width", [20, 60])
def test_the_live_line_is_never_longer_than_the_terminal_that_the_launcher_named(width, capsys, monkeypatch):
    monkeypatch.setenv(TERMINAL, str(width))
    monkeypatch.setattr(console, "LINE_EVERY_S", 0)
    assert fit("--ranks", "2", "--epochs", "3") == 0
    out = capsys.readouterr().out
    assert out.count(BACK_TO_THE_START) >= 3
    *live, last = live_lines(out)
    assert len(live) >= 3 and max(map(len, live)) < width
    assert last.startswith("epoch 3/3  mean loss ")
    assert out.split("done ")[0].count("\nepoch") == 1  # one line, written again and again


def on_a_terminal(columns: int, *arguments: str) -> str:
    """Return what `python arguments` writes on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", TERMINAL)}
    process = subprocess.Popen([sys.executable, *arguments], stdout=theirs, stderr=theirs, stdin=theirs,
                               env=variables | {"TERM": "xterm"})  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so where the other side is closed
            piece = b""
        if not piece:
            break
        written += piece
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def test_on_a_terminal_progress_is_one_live_line_within_its_width():
    out = on_a_terminal(30, "-m", "npdp.train", "--epochs", "40", "--global-batch-size", "8")
    *live, last = live_lines(out)
    assert len(live) >= 3 and max(map(len, live)) < 30
    assert last.startswith("epoch 40/40  mean loss ")
    assert out.split("done ")[0].count("\nepoch") == 1


def test_a_quiet_run_is_silent_on_a_terminal_too():
    assert on_a_terminal(60, "-m", "npdp.train", "--epochs", "1", "--quiet") == ""
