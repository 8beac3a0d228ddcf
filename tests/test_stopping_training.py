"""What a clean stop of training leaves, in worlds of threads: a checkpoint of its iteration, the model, a line."""

import os
import re
import signal
import time
from unittest import mock

import pytest
from training import fit, strict_lines

from npdp import saved_model
from npdp.app import checkpoints
from npdp.app.stopping import going_on
from npdp.app.train import main
from npdp.base import environment
from npdp.elastic import checkpoint

DIGITS = ("--quiet", "--dtype", "float64", "--epochs", "3", "--global-batch-size", "300")  # 5 iterations an epoch
SAID = re.compile(r"npdp: note: stopped by (\S+) after iteration (\d+)(.*); (.*)\n")


def stopped(capsys, *flags, ranks=2):
    """Train on threads until a stop; return its code, and of its line why, after which iteration, and the rest."""
    code = main([*map(str, flags), "--transport", "threads", "--ranks", str(ranks)])
    why, iteration, saved, how = SAID.search(capsys.readouterr().err).groups()
    return code, why, int(iteration), saved, how


@pytest.fixture
def signalled(monkeypatch):
    """Return what makes a rank send its process a signal after an iteration; handlers are as before afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def send(number, after, rank):
        original = checkpoints.Checkpoints.after

        def also(self, iteration):
            original(self, iteration)
            if iteration == after and self._job.world.rank == rank:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(checkpoints.Checkpoints, "after", also)

    yield send
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "ranks", "rank"), [(signal.SIGTERM, 1, 0), (signal.SIGINT, 3, 2)])
def test_a_signal_leaves_a_checkpoint_of_the_iteration_and_resumed_it_ends_with_the_same_bits(
    number, ranks, rank, signalled, tmp_path, capsys
):
    wanted = fit(*DIGITS, ranks=ranks)
    signalled(number, 4, rank)
    flags = (*DIGITS, "--checkpoint", tmp_path / "kept", "--metrics", tmp_path / "m.jsonl", "--inject", "delay@ms=30")
    code, why, iteration, saved, how = stopped(capsys, *flags, ranks=ranks)
    assert (code, why, saved) == (128 + number, number.name, "")
    assert 4 <= iteration < 15
    path = checkpoint.path_of(str(tmp_path / "kept"), iteration)
    assert how.startswith(f"go on from {path} with: npdp train ") and how.endswith(f"--ranks {ranks} --resume")
    assert checkpoint.numbers(str(tmp_path / "kept")) == [iteration]
    last = strict_lines((tmp_path / "m.jsonl").read_text())[-1]
    assert last == {"event": "stopped", "iteration": iteration, "why": why, "checkpoint": path}
    run = fit(*DIGITS, "--checkpoint", tmp_path / "kept", "--resume", ranks=ranks)
    assert run.end["parameters_sha256"] == wanted.end["parameters_sha256"]


@pytest.fixture
def slow_disk(monkeypatch):
    """A checkpoint takes a moment to be written."""
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *arguments: (time.sleep(0.3), write(*arguments)))


def test_where_the_best_parameters_are_saved_the_line_says_so(tmp_path, capsys):
    flags = ("--time-limit", "0.001s", "--evaluate-every", "1", "--save", tmp_path / "model.npz")
    assert stopped(capsys, *DIGITS, *flags)[3] == f"; the model that scored best so far is in {tmp_path}/model.npz"


def test_the_way_on_of_a_bare_mpirun_has_what_lets_ranks_survive(monkeypatch):
    monkeypatch.delenv(environment.VERDICT, raising=False)
    monkeypatch.setattr(environment, "launch", lambda: mock.Mock(world_size=4))
    for survives, flags in (False, ""), (True, "--with-ft ulfm "):
        monkeypatch.setattr(environment, "survives_deaths", lambda survives=survives: survives)
        assert going_on(["--quiet"]) == f"mpirun {flags}-n 4 python -m npdp.train --quiet --resume"


@pytest.mark.usefixtures("slow_disk")
def test_a_time_limit_is_such_a_stop_and_what_save_asks_for_is_there(tmp_path, capsys):
    model = tmp_path / "model.npz"
    flags = (*DIGITS, "--time-limit", "0.001s", "--save", model, "--checkpoint", tmp_path / "kept")
    code, why, iteration, saved, how = stopped(capsys, *flags)
    assert (code, why, iteration) == (124, "--time-limit", 1)
    assert how.startswith(f"go on from {checkpoint.path_of(str(tmp_path / 'kept'), 1)} with: ")
    assert saved == f"; the model as it is now is in {model}"
    assert saved_model.load(str(model)).model is not None
    content = checkpoint.read(checkpoint.path_of(str(tmp_path / "kept"), 1))
    assert content["iteration"] == 1


def test_updates_that_were_left_out_count_so_the_checkpoint_is_of_the_stops_iteration(signalled, tmp_path, capsys):
    flags = (*DIGITS, "--on-nan", "skip", "--inject", "nan@rank=1,iteration=2", "--inject", "delay@ms=30")
    wanted = fit(*flags, ranks=2)
    signalled(signal.SIGTERM, 4, 0)
    kept = tmp_path / "kept"
    _, _, iteration, _, how = stopped(capsys, *flags, "--checkpoint", kept, "--checkpoint-every", 1, "--keep", 99)
    path = checkpoint.path_of(str(kept), iteration)
    assert iteration >= 4 and how.startswith(f"go on from {path} with: ")
    assert checkpoint.numbers(str(kept)) == list(range(iteration, 0, -1))
    content = checkpoint.read(path)
    assert content["loader"]["epoch"] * 5 + content["loader"]["batches"] == iteration
    run = fit(*flags[:-4], "--checkpoint", kept, "--resume", ranks=2)
    assert run.end["parameters_sha256"] == wanted.end["parameters_sha256"]


def test_without_a_place_for_one_there_is_no_checkpoint_and_that_is_said(tmp_path, capsys):
    code, _, _, saved, how = stopped(capsys, *DIGITS, "--time-limit", "0.001s")
    assert (code, saved, how) == (124, "", "there is no checkpoint to go on from")


def test_a_limit_that_is_not_reached_changes_nothing():
    assert fit(*DIGITS, "--time-limit", "2h").code == 0


def test_after_the_last_iteration_there_is_nothing_to_stop(tmp_path):
    flags = ("--quiet", "--epochs", "1", "--global-batch-size", "1437", "--time-limit", "0.001s")  # of one iteration
    assert fit(*flags, ranks=2).code == 0


def test_where_a_checkpoint_cannot_be_written_the_one_before_is_named(tmp_path, capsys, monkeypatch):
    def full(path, content, half_way):
        raise OSError(28, "No space left on device")

    fit(*DIGITS, "--epochs", "1", "--lr-schedule", "constant", "--checkpoint", tmp_path / "kept")
    monkeypatch.setattr(checkpoint, "write", full)
    flags = (*DIGITS, "--lr-schedule", "constant", "--checkpoint", tmp_path / "kept", "--resume")
    main([*map(str, flags), "--time-limit", "0.001s", "--metrics", str(tmp_path / "m.jsonl")])
    said = capsys.readouterr().err
    assert "000006.npz was not written: No space left on device" in said
    kept = checkpoint.path_of(str(tmp_path / "kept"), 5)
    assert f"stopped by --time-limit after iteration 6; go on from {kept} with: npdp train" in said
    assert strict_lines((tmp_path / "m.jsonl").read_text())[-1]["checkpoint"] == kept


@pytest.mark.parametrize("flags", [
    ("--strategy", "local-sgd", "--local-iterations", "3"), ("--strategy", "ps", "--servers", "1"),
    ("--strategy", "ps", "--servers", "0"), ("--strategy", "naive"), ("--update", "fused"),
])  # fmt: skip
def test_all_strategies_stop_after_the_same_iteration(flags, tmp_path, capsys):
    code, _, iteration, saved, _ = stopped(capsys, *DIGITS, *flags, "--time-limit", "0.001s", "--save",
                                           tmp_path / "m.npz", ranks=3)  # fmt: skip
    assert (code, iteration) == (124, 1)
    assert (tmp_path / "m.npz").exists() and saved


@pytest.mark.parametrize("servers", [0, 1])
@pytest.mark.parametrize("staleness", ["1", "inf"])
def test_where_work_is_assigned_they_stop_at_the_end_of_an_epoch(servers, staleness, capsys):
    flags = ("--strategy", "ps", "--servers", servers, "--staleness", staleness)
    code, why, updates, _, how = stopped(capsys, *DIGITS, *flags, "--time-limit", "0.001s", ranks=3)
    assert (code, why, how) == (124, "--time-limit", "there is no checkpoint to go on from")
    assert updates == 5 * (3 - servers)  # one a part of each batch


WRONG = {
    "wanted a time as 90s, 10min or 2h, above 0, got '20'": ("--time-limit", "20"),
    "--restarts: wanted --checkpoint DIR too": ("--restarts", "2", "--ranks", "2"),
    "wanted --ranks, at least 2, and MPI": ("--restarts", "2", "--checkpoint", "x"),
}


@pytest.mark.parametrize("why", WRONG)
def test_flags_that_make_no_sense_are_refused_in_one_line(why, capsys):
    assert main([*DIGITS, *WRONG[why]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line
