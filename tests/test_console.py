"""What a run says: plain lines in a log, one live line on a terminal, nothing where it is to be quiet."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from unittest import mock

import pytest
from launching import exit_code, needs_mpi

from npdp.app import train
from npdp.report import console
from npdp.report.console import TERMINAL
from npdp.report.progress import Progress

LIMIT_S = 40
BACK = "\x1b[A\r\x1b[K"


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
    return re.findall(r"epoch \d+/\d+  iterat[^\n]*", out)


def screen(out: str, columns: int) -> list[str]:
    """Return the lines that a terminal shows in the end, without spaces at their ends."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[.|.|\n", out):
        if piece == "\x1b[A":
            row -= 1
        elif piece == "\x1b[K":
            lines[row] = lines[row][:column]
        elif piece == "\r":
            column = 0
        elif piece == "\n" or column == columns:
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        if piece[0] not in "\r\n\x1b":
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("width", [23, 60])
def test_the_live_line_is_never_longer_than_the_terminal_that_the_launcher_named(width, capsys, monkeypatch):
    monkeypatch.setenv(TERMINAL, str(width))
    monkeypatch.setattr(console, "LINE_EVERY_S", 0)
    assert fit("--ranks", "2", "--epochs", "3") == 0
    out = capsys.readouterr().out
    live = live_lines(out)
    assert len(live) >= 3 and max(map(len, live)) < width
    assert out.count(BACK) == len(live)


def epochs_alone(lines: list[str], epochs: int) -> bool:
    """Return whether a screen shows each epoch once, one after the other, and no live line."""
    shown = [line.split("  ")[:2] for line in lines if line.startswith("epoch")]
    wanted = [f"epoch {number}/{epochs}" for number in range(1, epochs + 1)]
    return [epoch for epoch, _ in shown] == wanted and all(what.startswith("mean loss") for _, what in shown)


def on_a_terminal(columns: int, *arguments: str, seen: Callable[[str], object] = len) -> str:
    """Return what `python arguments` writes on a terminal of so many columns; `seen` is told all of it so far."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", TERMINAL)}
    process = subprocess.Popen([sys.executable, *arguments], stdout=theirs, stderr=theirs, stdin=theirs,
                               env=variables | {"TERM": "xterm"})  # fmt: skip
    os.close(theirs)
    written = b""
    until = time.monotonic() + LIMIT_S
    while True:
        if not select.select([ours], [], [], max(0, until - time.monotonic()))[0]:
            process.kill()  # mpirun then ends its ranks
            pytest.fail(f"{arguments} did not end within {LIMIT_S} s; shown so far:\n{written.decode()}")
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so where the other side is closed
            piece = b""
        if not piece:
            break
        written += piece
        seen(written.decode(errors="replace"))
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def test_on_a_terminal_progress_is_one_live_line_within_its_width():
    out = on_a_terminal(30, "-m", "npdp.train", "--epochs", "40", "--global-batch-size", "8")
    live = live_lines(out)
    assert len(live) >= 3 and max(map(len, live)) < 30
    assert epochs_alone(screen(out, 30), 40)


WAITS = """
import os, time
from npdp import nn

class Model(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        while self.calls == 30 and not os.path.exists("{go}"):
            time.sleep(0.02)
        return super().forward(x)

def make():
    return Model(64, 10)
"""


@needs_mpi
@pytest.mark.parametrize("columns", [25, 100])
def test_ranks_of_mpirun_show_how_training_goes_while_it_goes_on(columns, tmp_path):
    """They wait in the second epoch until the live line has been seen."""
    (tmp_path / "waits.py").write_text(WAITS.format(go=tmp_path / "go"))
    flags = ("--ranks", "2", "--epochs", "4", "--global-batch-size", "72", "--model", f"{tmp_path}/waits.py:make")

    def seen(out: str) -> None:
        if "epoch 1/4  mean loss" in out and live_lines(out):
            (tmp_path / "go").touch()

    out = on_a_terminal(columns, "-m", "npdp", "train", *flags, seen=seen)
    assert live_lines(out) and max(map(len, live_lines(out))) < columns
    assert epochs_alone(screen(out, columns), 4)


@pytest.mark.parametrize(("took_s", "epoch", "iterations", "left"), [
    (10, 1, 1, "0:03:10"), (10, 1, 5, "0:00:30"), (3600, 2, 5, "0:20:00"), (36000, 1, 1, "7 days, 22:00:00"),
    (60, 2, 12, "0:00:00"),
])  # fmt: skip
def test_the_time_left_is_as_the_pace_so_far(took_s, epoch, iterations, left, monkeypatch):
    now = iter([0.0, took_s])
    monkeypatch.setattr("npdp.report.progress.time.perf_counter", lambda: next(now))
    shown = mock.Mock()
    told = Progress(shown, mock.Mock(due=lambda: False), 2, 10, lambda: 7)
    shown.due.return_value = False
    for finished in range(1, epoch):
        told.iteration(finished, 1.0, 0.1)
        told.epoch(finished, 1.0)
    for _ in range(iterations - 1):
        told.iteration(epoch, 1.0, 0.1)
    shown.due.return_value = True
    told.iteration(epoch, 1.0, 0.1)
    shown.live.assert_called_once_with(f"epoch {epoch}/2  iteration 7  loss 1.0000  {left} left")


def test_a_quiet_run_is_silent_on_a_terminal_too():
    assert on_a_terminal(60, "-m", "npdp.train", "--epochs", "1", "--quiet") == ""
