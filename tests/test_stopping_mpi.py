"""Stops under mpirun: whoever is signalled, all ranks finish the same iteration, and nothing is left; and restarts."""

import os
import signal
import time

import pytest
from launching import TRAINS_WITHIN_S, end, needs_mpi, on_ranks, pid_of, python, shared_memory, started
from launching import left_in_shared_memory as left
from training import read_run, strict_lines

from npdp.app.mpirun_signals import SAME_STOP_S
from npdp.elastic import checkpoint

pytestmark = needs_mpi
TRAIN = ("-m", "npdp", "train", "--ranks", "2")
FLAGS = ("--quiet", "--dtype", "float64", "--model", "mlp", "--hidden", "64", "--epochs", "4",
         "--global-batch-size", "50")  # fmt: skip
SLOW = ("--inject", "delay@ms=10")


def kept_in(folder):
    return ("--checkpoint", f"{folder}/kept", "--checkpoint-every", "1h")


def wait_until(process, is_so):
    until = time.monotonic() + TRAINS_WITHIN_S
    while not is_so():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def has_iterated(folder):
    path = folder / "m.jsonl"
    return path.exists() and '"iteration"' in path.read_text().partition("\n")[2]


def interrupted(folder, *program, before=(), signals=(signal.SIGTERM,), wait=has_iterated, flags=()):
    """Train, send signals when it has begun; return the exit code and what it said. `started` looks for ranks left."""
    memory, temporary = shared_memory(), folder / "tmp"
    temporary.mkdir()
    command = (*program, *FLAGS, *SLOW, *kept_in(folder), "--metrics", f"{folder}/m.jsonl", *flags)
    with started(*command, before=before, TMPDIR=str(temporary)) as (process, mark):
        wait_until(process, lambda: wait(folder))
        for number in signals:
            process.send_signal(number)
            time.sleep(SAME_STOP_S + 0.05)
        _, said = process.communicate(timeout=TRAINS_WITHIN_S)
        assert not end(mark)
    assert not left(memory) and not list(temporary.iterdir())
    return process.returncode, said


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What the undisturbed run gives."""
    folder = tmp_path_factory.mktemp("wanted")
    out = ("--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz")
    return read_run(python(*TRAIN, *FLAGS, *out).code, folder).end


def resumed(folder):
    out = ("--metrics", f"{folder}/run.jsonl", "--save", f"{folder}/model.npz")
    return read_run(python(*TRAIN, *FLAGS, *kept_in(folder), *out, "--resume").code, folder).end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_npdp_train_stops_and_resumed_it_ends_with_the_same_bits(number, wanted, tmp_path):
    code, said = interrupted(tmp_path, *TRAIN, signals=[number])
    asked, stopped = said.splitlines()
    assert code == 128 + number and asked.startswith(f"npdp: note: {number.name}: stopping after this iteration")
    (iteration,) = checkpoint.numbers(f"{tmp_path}/kept")
    path = checkpoint.path_of(f"{tmp_path}/kept", iteration)
    begins = f"npdp: note: stopped by {number.name} after iteration {iteration}; go on from {path} with: "
    assert stopped.startswith(begins + "npdp train --ranks 2 ") and stopped.endswith(" --resume")
    assert strict_lines((tmp_path / "m.jsonl").read_text())[-1]["event"] == "stopped"
    assert resumed(tmp_path)["parameters_sha256"] == wanted["parameters_sha256"]


def test_a_second_ctrl_c_ends_all_at_once(tmp_path):
    """The first finds ranks in an iteration that takes a minute."""
    began = ("--inject", "delay@ms=60000")
    code, said = interrupted(tmp_path, *TRAIN, signals=[signal.SIGINT] * 2, flags=began,
                             wait=lambda folder: (folder / "m.jsonl").exists() and (time.sleep(1) or True))  # fmt: skip
    assert (code, said.splitlines()[-1]) == (130, "npdp: error: ended by SIGINT")
    assert not checkpoint.numbers(f"{tmp_path}/kept")


def test_a_signal_before_training_ends_all_at_once(tmp_path):
    code, said = interrupted(tmp_path, *TRAIN, wait=lambda folder: list((folder / "tmp").glob("npdp-mpirun-*")))
    assert code == 143 and said.endswith("npdp: error: ended by SIGTERM\n")


def test_a_time_limit_stops_all_ranks(tmp_path):
    outcome = python(*TRAIN, *FLAGS, *SLOW, *kept_in(tmp_path), "--time-limit", "0.1s")  # over when training begins
    assert outcome.code == 124
    assert outcome.stderr.startswith("npdp: note: stopped by --time-limit after iteration 1; go on from ")


def test_a_bare_mpirun_hands_on_sigusr1(tmp_path):
    code, said = interrupted(tmp_path, "-m", "npdp.train", before=on_ranks(2), signals=[signal.SIGUSR1])
    assert code != 0
    assert "npdp: note: stopped by SIGUSR1 after iteration " in said
    assert "with: mpirun -n 2 python -m npdp.train --quiet" in said


def test_a_program_of_ones_own_stops_where_it_asks(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    with started("-m", "npdp", "run", "--ranks", "2", str(tmp_path / "mine.py")) as (process, _):
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=TRAINS_WITHIN_S)
    first, second = out.splitlines()
    assert process.returncode == 143 and first == second and "SIGTERM: stopping" in said


OWN = """
import time
import npdp

iterations = 0
while not npdp.stop_requested():
    iterations += 1
    time.sleep(0.01)
    if iterations == 2 and npdp.rank() == 0:
        print("begun", flush=True)
print("stopped after", iterations, flush=True)
"""


# Restarts
def killed(folder, kills, *flags):
    """Train, and kill a rank as often as that, each time after new checkpoints; return the exit code and the line."""
    command = (*TRAIN, *FLAGS, *SLOW, "--checkpoint", f"{folder}/kept", "--checkpoint-every", "2", "--metrics",
               f"{folder}/run.jsonl", "--save", f"{folder}/model.npz", *flags)  # fmt: skip
    with started(*command) as (process, mark):
        for number in range(kills):
            wait_until(process, lambda: (folder / "kept").exists())
            newest = max(checkpoint.numbers(f"{folder}/kept"), default=0)
            wait_until(process, lambda n=newest: checkpoint.numbers(f"{folder}/kept")[:1] > [n + 10])
            os.kill(pid_of(mark, number % 2), signal.SIGKILL)
        _, said = process.communicate(timeout=3 * TRAINS_WITHIN_S)
    return process.returncode, said


def test_ranks_that_died_are_started_again_and_end_with_the_same_bits(wanted, tmp_path):
    code, said = killed(tmp_path, 2, "--restarts", "2")
    end = read_run(code, tmp_path).end
    assert (code, said.count("ranks have failed: started again from iteration ")) == (0, 2)
    assert (end["parameters_sha256"], end["restarts"]) == (wanted["parameters_sha256"], 2)


def test_without_restarts_the_way_on_is_named(tmp_path):
    code, said = killed(tmp_path, 1)
    assert code != 0
    assert "npdp: note: ranks have failed; go on with: npdp train --ranks 2 " in said and said.endswith("--resume\n")


def test_the_way_on_meets_no_fault_again_that_comes_once(tmp_path):
    faults = ("--inject", "kill@rank=1,iteration=5", "--inject=nan@iteration=90", "--inject", "delay@ms=1")
    outcome = python(*TRAIN, *FLAGS, *kept_in(tmp_path), "--checkpoint-every", "2", *faults, timeout=60)
    way_on = outcome.stderr.splitlines()[-1]
    assert "go on with: npdp train " in way_on and way_on.endswith("--checkpoint-every 2 --inject delay@ms=1 --resume")


def test_a_job_that_fails_twice_at_the_same_checkpoint_is_given_up(tmp_path):
    (tmp_path / "own.py").write_text(BROKEN)
    model = ("--model", f"{tmp_path}/own.py:make")
    outcome = python(*TRAIN, "--quiet", *model, *kept_in(tmp_path), "--restarts", "5", timeout=60)
    assert outcome.code == 1
    assert outcome.stderr.count("started again") == 1
    assert "ranks have failed again, with no new checkpoint; there is no checkpoint to go on from" in outcome.stderr


BROKEN = """
from npdp import nn

class Broken(nn.Module):
    def __init__(self, features, classes):
        self.linear, self.calls = nn.Linear(features, classes), 0

    def forward(self, x):
        self.calls += 1
        assert self.calls < 5
        return self.linear(x)

def make(features, classes):
    return Broken(features, classes)
"""
