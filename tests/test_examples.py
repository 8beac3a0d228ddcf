"""Each example runs and says what its head promises; under mpirun it says the same numbers."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import mpirun, needs_mpi

EXAMPLES = Path(__file__).parent.parent / "examples"


def output(name: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def linear_regression() -> list[str]:
    return output("linear_regression.py")


def test_every_example_is_tested_here():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tests] == []


def test_linear_regression_finds_the_weights(linear_regression):
    losses = [float(line.split()[-1]) for line in linear_regression[:-1]]
    assert len(losses) == 10 and losses[-1] < 0.03 < losses[0]  # the noise alone leaves 0.01
    error = re.fullmatch(r"1 ranks: largest error of a weight (\d\.\d+)", linear_regression[-1])
    assert error and float(error[1]) < 0.02


@needs_mpi
def test_linear_regression_says_the_same_under_mpirun(linear_regression):
    code, stdout, stderr = mpirun(2, str(EXAMPLES / "linear_regression.py"))
    assert code == 0, stderr
    assert stdout.splitlines() == [line.replace("1 ranks", "2 ranks") for line in linear_regression]


def test_collectives_shows_all_five():
    text = "\n".join(output("collectives.py"))
    sums = [4 * i + 60 for i in range(6)]
    for collective, ranks in {
        "allreduce": [sums] * 4,
        "reduce_scatter": [sums[0:2], sums[2:4], sums[4:5], sums[5:6]],
        "allgather": [[0, 10, 20, 30]] * 4,
        "broadcast": [[2, 2, 2]] * 4,
        "barrier": [[]] * 4,
    }.items():
        shown = re.search(rf"^{collective}\n((?:  rank \d: \[.*\]\n?)+)", text, re.MULTILINE)
        assert shown, collective
        lines = [re.findall(r"(-?\d+)\.", line.split(":")[1]) for line in shown[1].splitlines()]
        assert [[int(number) for number in line] for line in lines] == ranks, collective


def test_train_mlp_reads_the_digits():
    lines = output("train_mlp.py")
    losses = [float(line.split()[-1]) for line in lines[:-1]]
    assert len(losses) == 10 and losses[-1] < losses[0] / 2
    accuracy = re.fullmatch(r"1 ranks: test accuracy (0\.\d{4})", lines[-1])
    assert accuracy and float(accuracy[1]) >= 0.93


NO_PLOT = importlib.util.find_spec("matplotlib") is None


@pytest.mark.skipif(NO_PLOT, reason="the example draws, and matplotlib (npdp[plot]) is not installed")
def test_sync_vs_async_draws_and_the_slow_worker_costs_asynchrony_little(tmp_path):
    picture, table = tmp_path / "small.png", tmp_path / "table.json"
    lines = output("sync_vs_async.py", "--epochs", "2", "--delay-ms", "4", "--out", str(picture), "--json", str(table))
    assert lines[-1] == f"drawn in {picture}" and picture.read_bytes().startswith(b"\x89PNG")
    figures = json.loads(table.read_text())["figures"]
    said = f"python examples/sync_vs_async.py --epochs 2 --delay-ms 4 --out {picture.name} --json {table.name}"
    assert json.loads(table.read_text())["command"] == said
    assert len(figures) == 10 and all(one["test_accuracy"] > 0.8 for one in figures.values())


def test_sync_vs_async_says_what_to_install_before_it_trains():
    program = "import runpy, sys\nsys.modules['matplotlib'] = None\n" \
              "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip
    command = [sys.executable, "-c", program, EXAMPLES / "sync_vs_async.py", "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "matplotlib is not installed; pip install 'npdp[plot]' brings it\n"
