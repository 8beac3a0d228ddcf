"""Metrics: the events of a run, what each holds, and when they are written."""

import math
import os
import re
import resource

import pytest
from training import Run, fit, read_run, strict_lines

from npdp.app import train
from npdp.collectives.algorithms import SCHEDULES
from npdp.report import metrics as metrics_module
from npdp.report.metrics import Metrics


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adam", None), ("adamw", None)])
def test_metrics_have_a_momentum_where_the_optimizer_has_one(optimizer, momentum):
    for given in ((), ("--momentum", "0.9")):
        assert fit("--quiet", "--epochs", "0", "--optimizer", optimizer, *given).events[0]["momentum"] == momentum


END = {
    "world_size": int, "strategy": str, "algorithm": str, "backend": str, "epochs": int, "iterations": int,
    "samples_seen": int, "train_loss": float, "test_loss": float, "test_accuracy": float, "parameters_sha256": str,
    "wall_s": float, "samples_per_s": float, "compute_s": float, "communication_s": float, "wait_s": float,
    "peak_memory_bytes": int, "recoveries": int,
}  # fmt: skip


@pytest.fixture(scope="module")
def defaults() -> Run:
    return fit("--quiet", ranks=4)


def test_the_end_has_every_promised_field(defaults):
    end = defaults.end
    assert {name: type(end[name]) for name in END} == END
    assert (end["strategy"], end["world_size"], end["recoveries"]) == ("allreduce", 4, 0)
    assert end["backend"] in ("c", "numpy") and end["algorithm"] in (*SCHEDULES["allreduce"], "shared_memory")
    assert (end["algorithm"] == "shared_memory") == (end["backend"] == "c")
    assert re.fullmatch("[0-9a-f]{64}", end["parameters_sha256"])
    assert 10e6 < end["peak_memory_bytes"] < 4e9
    assert end["compute_s"] > 0 and end["communication_s"] > 0 and end["wait_s"] > 0
    assert end["compute_s"] + end["communication_s"] + end["wait_s"] == pytest.approx(end["wall_s"], rel=0.1)
    assert end["samples_per_s"] == pytest.approx(end["samples_seen"] / end["wall_s"])


def test_events_come_in_order_with_epochs_counted(defaults):
    kinds = [event["event"] for event in defaults.events]
    assert kinds[0] == "start" and kinds[-1] == "end" and set(kinds[1:-1]) == {"iteration", "epoch"}
    epochs = [event for event in defaults.events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == list(range(1, 21))
    assert [event["iteration"] for event in epochs] == [23 * epoch for epoch in range(1, 21)]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] / 5
    counted = [event["iteration"] for event in defaults.events[1:-1]]
    assert counted == sorted(counted)
    assert all(0 <= event["learning_rate"] <= 0.1 for event in defaults.events if event["event"] == "iteration")
    assert kinds.count("iteration") <= 10 * defaults.end["wall_s"] + 1


def test_the_mean_loss_of_an_epoch_is_that_of_its_samples_on_any_number_of_ranks():
    flags = ("--quiet", "--dtype", "float64", "--epochs", 2, "--global-batch-size", 50)
    losses = [[event["train_loss"] for event in fit(*flags, ranks=ranks).events if event["event"] == "epoch"]
              for ranks in (1, 3)]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    still = fit(*flags, "--learning-rate", 0, ranks=3)  # the weights stay: the epoch's mean is the whole part's
    assert still.events[-2]["train_loss"] == pytest.approx(still.end["train_loss"], rel=1e-10)


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
@pytest.mark.parametrize("rate", [1e6, 0.01])
def test_training_that_diverges_is_told_once_with_what_to_try_and_no_warnings(rate, on_nan, capsys, recwarn):
    flags = ["--data", "synthetic", "--model", "mlp", "--hidden", "8", "--epochs", "3", "--learning-rate", str(rate)]
    train.main([*flags, "--transport", "threads", "--ranks", "2", "--on-nan", on_nan])
    captured = capsys.readouterr()
    told = {"raise": captured.err.count("where training diverges, try a smaller --learning-rate"),
            "skip": captured.out.count("training has diverged: try a smaller --learning-rate")}  # fmt: skip
    assert told[on_nan] == (rate > 1)
    assert not recwarn.list


@pytest.mark.parametrize("strategy", [(), ("--strategy=ps", "--staleness=inf"), ("--strategy=local-sgd",)])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_training_that_ends_in_no_finite_loss_ends_with_code_1_in_one_line(strategy, ranks, tmp_path, capsys):
    flags = ["--quiet", "--data=synthetic", "--epochs=20", "--learning-rate=1e9", "--on-nan=skip", *strategy]
    flags.append("--transport=threads")
    if ranks == 1 and "ps" in str(strategy):
        flags.append("--servers=0")
    out = [f"--metrics={tmp_path}/run.jsonl", f"--save={tmp_path}/model.npz"]
    assert train.main([*flags, f"--ranks={ranks}", *out]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch("npdp: error: training ended with a loss of (nan|inf), .*--learning-rate, .*\n", error)
    assert read_run(1, tmp_path).end["train_loss"] is None


def test_a_regression_has_no_accuracy_and_data_without_a_test_part_no_test_loss():
    run = fit("--quiet", "--data", "synthetic", "--test-fraction", 0, "--epochs", 1)
    assert run.end["test_accuracy"] is None and run.end["test_loss"] is None
    assert fit("--quiet", "--data", "synthetic", "--epochs", 1).end["test_loss"] > 0


def test_metrics_are_at_most_ten_iterations_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now[0])
    due = []
    with Metrics(str(tmp_path / "m")) as metrics:
        for _ in range(1000):
            now[0] += 0.003
            due.append(metrics.due())
    assert due[0] and 28 <= sum(due) <= 31
    with Metrics(None) as nowhere:
        assert not nowhere.due()


def test_metrics_write_null_where_json_has_no_word(tmp_path):
    with Metrics(str(tmp_path / "m")) as metrics:
        metrics.write("end", train_loss=math.nan, test_loss=math.inf, wall_s=1.5, note=None)
    [line] = strict_lines((tmp_path / "m").read_text())
    assert line == {"event": "end", "train_loss": None, "test_loss": None, "wall_s": 1.5, "note": None}


def test_metrics_of_a_run_that_is_cut_off_are_whole_lines(tmp_path):
    metrics = Metrics(str(tmp_path / "m"))
    metrics.write("start", world_size=1)
    assert (tmp_path / "m").read_text() == '{"event": "start", "world_size": 1}\n'
    metrics.__exit__(None, None, None)


def test_a_line_for_which_there_is_no_room_is_taken_back_and_told_of_at_once(tmp_path):
    told = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    metrics = Metrics(str(tmp_path / "m"), told.append)
    metrics.write("start", world_size=1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))  # a part of the next line is written
        metrics.write("epoch", train_loss=0.123456789, iteration=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told == ["File too large"]
    metrics.write("end")  # though there would be room again: what is between is missing
    assert (tmp_path / "m").read_text() == '{"event": "start", "world_size": 1}\n' and len(told) == 1
    with pytest.raises(OSError, match="File too large"):
        metrics.close()


def test_a_line_that_is_written_in_parts_is_whole(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(metrics_module.os, "write", lambda file, line: write(file, line[:7]))
    with Metrics(str(tmp_path / "m")) as metrics:
        metrics.write("start", world_size=1)
    assert strict_lines((tmp_path / "m").read_text()) == [{"event": "start", "world_size": 1}]


def test_who_takes_over_goes_on_with_this_run_and_not_with_those_before_it(tmp_path):
    path = str(tmp_path / "run.jsonl")
    with Metrics(path) as before:
        for event in ({"event": "start"}, {"event": "epoch", "epoch": 1}, {"event": "end"}):
            before.write(**event)
    with Metrics(path, append=True) as resumed:
        resumed.write("start")
    with Metrics(None) as mine:
        assert (mine.take_over(path), mine.ended) == (0, False)
        mine.write("epoch", epoch=2)
        assert mine.take_over(path) == 2
        mine.write("end")
        mine.write("recovery")
    events = [said["event"] for said in strict_lines((tmp_path / "run.jsonl").read_text())]
    assert events[3:] == ["start", "epoch", "end"]
