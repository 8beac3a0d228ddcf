"""The command npdp: help, refusals, a saved model, and a program of one's own, on one rank and under mpirun."""

import os
import re
import subprocess
import sys

import pytest
from launching import exit_code, mpirun, needs_mpi, python, refusal

import npdp
from npdp.app import cli, train


# Help
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert exit_code(cli.main, name, "--help") == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"usage: npdp {name}") and error == ""
    assert f"npdp {name}" in out.split("examples:")[1]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_description_in_help_is_as_wide_as_the_terminal(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert exit_code(cli.main, name, "--help") == 0
    description = capsys.readouterr().out.split("\n\n")[1]
    assert max(map(len, description.split("\n"))) < 60


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


def test_the_command_says_its_version(capsys):
    assert exit_code(cli.main, "--version") == 0
    assert capsys.readouterr().out == f"npdp {npdp.__version__}\n"


@pytest.mark.parametrize(("arguments", "said"), [
    (["fit"], "no command 'fit'; there are train, run, evaluate, predict, generate, env"),
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
    assert said in refusal(capsys, cli.main, *arguments)


# A saved model
def test_evaluate_and_predict_print_what_they_find(digits_model, capsys):
    assert exit_code(cli.main, "evaluate", str(digits_model)) == 0
    assert re.fullmatch(r"360 samples: loss 0\.\d{4}, accuracy 0\.\d{4}\n", capsys.readouterr().out)
    assert exit_code(cli.main, "predict", str(digits_model), "digits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1797 and set(lines) == set("0123456789")
    assert exit_code(cli.main, "predict", str(digits_model), "digits", "--probabilities") == 0
    assert capsys.readouterr().out.splitlines()[0].count(",") == 9


@pytest.mark.parametrize("tail", [["--help"], ["--test-fraction", "2"], ["--data", "missing.csv"], ["--part", "all"]])
def test_evaluate_ends_with_0_or_2(tail, digits_model, capsys):
    assert exit_code(cli.main, "evaluate", str(digits_model), *tail) == (0 if tail[0] in ("--help", "--part") else 2)
    assert "Traceback" not in capsys.readouterr().err


@needs_mpi
@pytest.mark.parametrize(("command", "lines"), [("evaluate {model}", 1), ("predict {model} digits", 1797)])
def test_under_mpirun_rank_0_speaks_for_all(command, lines, digits_model):
    code, out, error = mpirun(2, "-m", "npdp", *command.format(model=digits_model).split())
    assert (code, out.count("\n"), error) == (0, lines, "")


@needs_mpi
@pytest.mark.parametrize("command", ["evaluate missing.npz", "predict {model}", "train --epochs x", "bench what"])
def test_under_mpirun_ranks_refuse_together(command, digits_model):
    code, out, error = mpirun(2, "-m", "npdp", *command.format(model=digits_model).split())
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
from npdp.app import train
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
