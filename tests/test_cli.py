"""The command npdp: its subcommands, what they print, and what a run says on a terminal and in a log."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from unittest import mock

import pytest
from launching import exit_code, mpirun, needs_mpi, python

import npdp
from npdp import cli, on_ranks, train
from npdp.report import console
from npdp.report.console import TERMINAL

BACK_TO_THE_START = "\r\x1b[K"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.npz"
    assert exit_code(cli.main, "train", "--quiet", "--epochs", "2", "--save", str(path)) == 0
    return path


# Help
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert exit_code(cli.main, name, "--help") == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"usage: npdp {name}") and error == ""
    assert f"npdp {name}" in out.split("examples:")[1]


def test_help_names_every_command_and_so_does_the_bare_command(capsys):
    for arguments in ((), ("--help",)):
        assert exit_code(cli.main, *arguments) == 0
        out = capsys.readouterr().out
        assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in cli.COMMANDS)
        assert "npdp train --ranks 4" in out.split("examples:")[1]


def test_help_of_train_explains_every_flag_of_the_contract(capsys):
    exit_code(train.main, "--help")
    out = capsys.readouterr().out
    for flag in ("data", "target", "test-fraction", "standardize", "model", "hidden", "epochs", "global-batch-size",
                 "accumulate", "learning-rate", "momentum", "weight-decay", "clip-norm", "optimizer", "lr-schedule",
                 "seed", "dtype", "strategy", "algorithm", "transport", "ranks", "metrics", "save",
                 "quiet"):  # fmt: skip
        assert f"--{flag}" in out


def test_under_a_launcher_help_comes_from_rank_0_only(capsys, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    for rank, speaks in (("0", True), ("1", False)):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", rank)
        assert exit_code(train.main, "--help") == 0
        assert bool(capsys.readouterr().out) == speaks


def test_version(capsys):
    assert exit_code(cli.main, "--version") == 0
    assert capsys.readouterr().out == f"npdp {npdp.__version__}\n"


@pytest.mark.parametrize(("arguments", "said"), [
    (["fit"], "no command 'fit'; there are train, run, evaluate, predict, env"),
    (["--fast"], "unrecognized arguments: --fast"),
    (["env", "now"], "unrecognized arguments: now"),
    (["run", "--ranks", "2"], "required: PROGRAM (see"),
    (["run", "-n", "2", "mine.py"], "unrecognized arguments: -n; did you mean --ranks?"),
    (["run", "missing.py"], "no program missing.py"),
    (["run", "--", "-missing.py"], "no program -missing.py"),
    (["run", "--ranks"], "--ranks: expected one argument"),
    (["run", __file__, "a", ":", "b"], "mpirun would take the argument ':'"),
    (["run", "--ranks", "0", "mine.py"], "wanted a whole number, at least 1, got '0'"),
    (["predict", "model.npz"], "required: samples"),
    (["predict", "missing.npz", "digits"], "missing.npz"),
    (["evaluate"], "required: model"),
    (["evaluate", "m.npz", "--part", "half"], "invalid choice: 'half'"),
    (["evaluate", "m.npz", "--seed", "x"], "wanted a whole number in [0, 2^63), got 'x'"),
])  # fmt: skip
def test_a_wrong_command_line_is_refused_in_one_line(arguments, said, capsys):
    assert exit_code(cli.main, *arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and said in error
    assert re.fullmatch(r"npdp: error: [^\n]+\n", error)


# A saved model
def test_evaluate_and_predict_print_what_they_find(model, capsys):
    assert exit_code(cli.main, "evaluate", str(model)) == 0
    assert re.fullmatch(r"360 samples: loss 0\.\d{4}, accuracy 0\.\d{4}\n", capsys.readouterr().out)
    assert exit_code(cli.main, "predict", str(model), "digits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1797 and set(lines) == set("0123456789")
    assert exit_code(cli.main, "predict", str(model), "digits", "--probabilities") == 0
    assert capsys.readouterr().out.splitlines()[0].count(",") == 9


@pytest.mark.parametrize("tail", [["--help"], ["--test-fraction", "2"], ["--data", "missing.csv"], ["--part", "all"]])
def test_evaluate_ends_with_0_or_2(tail, model, capsys):
    assert exit_code(cli.main, "evaluate", str(model), *tail) == (0 if tail[0] in ("--help", "--part") else 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_gets_no_traceback(model):
    line = f'"{sys.executable}" -m npdp predict "{model}" digits --probabilities | head -1'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stdout.count(",") == 9
    assert done.stderr == ""


@needs_mpi
@pytest.mark.parametrize(("command", "lines"), [("evaluate {model}", 1), ("predict {model} digits", 1797)])
def test_under_mpirun_rank_0_speaks_for_all(command, lines, model):
    code, out, error = mpirun(2, "-m", "npdp", *command.format(model=model).split())
    assert (code, out.count("\n"), error) == (0, lines, "")


@needs_mpi
@pytest.mark.parametrize("command", ["evaluate missing.npz", "predict {model}", "train --epochs x", "bench what"])
def test_under_mpirun_ranks_refuse_together(command, model):
    code, out, error = mpirun(2, "-m", "npdp", *command.format(model=model).split())
    assert (code, out) == (2, "") and error.count("npdp: error: ") == 1


@needs_mpi
@pytest.mark.parametrize("command", ["fit", "run mine.py", "env now"])
def test_under_mpirun_the_first_rank_that_refuses_speaks_for_all(command):
    code, out, error = mpirun(3, "-m", "npdp", *command.split())
    assert (code, out) == (2, "") and error.count("npdp: error: ") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_where_the_launcher_lets_each_rank_end_by_itself_rank_0_refuses_for_all(rank):
    """As MPICH's does: the first may have left before the last begins."""
    code, out, error = python("-m", "npdp", "fit", PMI_RANK=str(rank), PMI_SIZE="2")
    assert (code, out, error.count("npdp: error: ")) == (2, "", 1 - rank)


# A program of one's own
PROGRAM = """
import sys
from npdp import train
code = train.main(["--epochs", "x"]) if "refuse" in sys.argv else 0
print(f"{code} {sys.argv[1:]}\\n", end="", flush=True)  # in one piece: the other rank says so too
sys.exit(7 if "fail" in sys.argv else 0)
"""


@needs_mpi
@pytest.mark.parametrize(("before", "arguments", "code", "line"), [
    ([], ["a", "--", "--ranks", "-m"], 0, "0 ['a', '--', '--ranks', '-m']"),
    ([], ["--", "b"], 0, "0 ['--', 'b']"),
    (["--"], ["c"], 0, "0 ['c']"),
    ([], ["fail"], 7, "0 ['fail']"),
    ([], ["refuse", "fail"], 7, "2 ['refuse', 'fail']"),
], ids=str)  # fmt: skip
def test_a_program_of_ones_own_has_its_arguments_and_its_exit_code(before, arguments, code, line, tmp_path):
    (tmp_path / "-mine.py" if before else tmp_path / "mine.py").write_text(PROGRAM)
    name = ["-mine.py"] if before else ["mine.py"]
    command = [sys.executable, "-m", "npdp", "run", "--ranks", "2", *before, *name, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, {*done.stdout.splitlines()}) == (code, {line}), done.stderr  # one may end the other


@needs_mpi
def test_a_rank_that_reads_finds_the_end_of_its_input(tmp_path):
    """Open MPI's mpirun opens a pipe for rank 0, and does not close it where its own input is empty."""
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(3 if sys.stdin.read() == '' else 1)\n")
    command = [sys.executable, "-m", "npdp", "run", "--ranks", "1", "mine.py"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, input=b"lines").returncode == 3


@needs_mpi
def test_a_rank_needs_no_path_and_has_all_variables(tmp_path):
    """Those too whose names a shell cannot have, as bash gives its functions."""
    (tmp_path / "mine.py").write_text("import os\nprint(os.environ['BASH_FUNC_of_a_user%%'])\n")
    command = [sys.executable, "-m", "npdp", "run", "--ranks", "1", "mine.py"]
    variables = {**os.environ, "BASH_FUNC_of_a_user%%": "here"}
    del variables["PATH"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


# What a run says
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


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=needs_mpi)])
def test_without_standard_output_a_run_is_silent_and_does_its_work(ranks, tmp_path):
    line = f'exec "{sys.executable}" -m npdp train --ranks {ranks} --epochs 1 --save "{tmp_path}/m.npz" >&-'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("command", ["train", "predict model.npz digits", "bench broadcast"])
def test_ctrl_c_is_one_line_and_the_exit_code_that_a_shell_gives_it(command, capsys, monkeypatch):
    for work in ("npdp.train._train", "npdp.using.predict", "npdp.bench.run.measure"):
        monkeypatch.setattr(work, mock.Mock(side_effect=KeyboardInterrupt))
    assert exit_code(cli.main, *command.split()) == 130
    assert capsys.readouterr() == ("", "npdp: error: ended by SIGINT\n")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(KeyboardInterrupt):  # a rank that left with a code would leave the others waiting
        on_ranks.interrupted(KeyboardInterrupt())


def test_ctrl_c_ends_a_world_of_threads_in_one_line(tmp_path):
    metrics = tmp_path / "m"
    flags = ("--transport", "threads", "--ranks", "2", "--epochs", "1000000", "--quiet", "--metrics", str(metrics))
    process = subprocess.Popen([sys.executable, "-m", "npdp.train", *flags], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 20
    while not (metrics.exists() and '"epoch"' in metrics.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        assert process.communicate(timeout=20)[1] == "npdp: error: ended by SIGINT\n"
    finally:
        process.kill()
    assert process.returncode == 130


def test_without_standard_error_nothing_takes_its_place():
    done = subprocess.run(["sh", "-c", f'exec "{sys.executable}" -m npdp predict missing.npz digits 2>&-'],
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_a_name_that_standard_output_cannot_encode_is_escaped(encoding, tmp_path):
    data = os.fsencode(tmp_path) + "/sch\u00f6n-".encode() + b"\xff.csv"
    with open(data, "w") as file:
        file.write("1,2,0\n3,4,1\n")
    command = [sys.executable, "-m", "npdp", "train", "--data", data, "--epochs", "1"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True)
    name = {"ascii": rb"sch\xf6n-\udcff.csv", "utf-8:strict": "sch\u00f6n-".encode() + rb"\udcff.csv"}[encoding]
    assert (done.returncode, done.stderr) == (0, b"") and name in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_behind_standard_output_is_told_of_in_one_line_and_costs_no_model(model, tmp_path):
    without_home = {name: value for name, value in os.environ.items() if name != "HOME"}  # so that env prints it
    for command in (f"train --epochs 1 --save {tmp_path}/m.npz", f"predict {model} digits", f"evaluate {model}",
                    "env", "bench broadcast --sizes 64 --rounds 1", "bench iteration --models lin10 --rounds 1",
                    "calibrate --show --ranks 2 --transport threads"):  # fmt: skip
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", "npdp", *command.split()], stdout=full,
                                  stderr=subprocess.PIPE, text=True, env=without_home)  # fmt: skip
        wanted = "npdp: error: standard output could not be written: No space left on device\n"
        assert (done.returncode, done.stderr.replace("rank 0: ", "")) == (1, wanted), command
    assert (tmp_path / "m.npz").exists()


def test_a_quiet_run_is_silent_on_a_terminal_too():
    assert on_a_terminal(60, "-m", "npdp.train", "--epochs", "1", "--quiet") == ""
