"""Flags of the strategies: every combination that makes no sense ends with 2 and one line, before any rank trains."""

import os

import pytest
from launching import refusal
from training import fit

from npdp.app import train

PS = "--strategy ps "
LOCAL = "--strategy local-sgd "
BAD = {  # flags, on 3 ranks -> what the line must say
    PS + "--servers 3": "with 3 servers on 3 ranks leaves 0 workers: wanted at least 1",
    PS + "--servers 4": "error: --servers 4: a parameter server with 4 servers on 3 ranks leaves 0",
    PS + "--servers -1": "--servers: wanted a whole number, at least 0, got '-1'",
    PS + "--servers 1.5": "--servers: wanted a whole number",
    PS + "--servers many": "got 'many'",
    PS + "--staleness -1": "--staleness: wanted 0, 1, 2, ... or inf, got '-1'",
    PS + "--staleness 1.5": "got '1.5'",
    PS + "--staleness nan": "got 'nan'",
    PS + "--staleness=-inf": "got '-inf'",
    PS + "--staleness infinite": "got 'infinite'",
    PS + "--staleness=": "got ''",
    PS + "--staleness-lr 1/s": "invalid choice: '1/s'",
    PS + "--record-arrivals {folder}/a": "--record-arrivals: with --staleness 0 the order is always the same",
    PS + "--replay-arrivals {folder}/a": "--replay-arrivals: with --staleness 0 the order is always the same",
    PS + "--staleness 1 --record-arrivals {folder}": "--record-arrivals: wanted a file to write, ",
    PS + "--staleness 1 --record-arrivals {folder}/missing/a": "--record-arrivals: wanted a file to write, but",
    PS + "--staleness 1 --record-arrivals /dev/null": "is a device or pipe",
    PS + "--staleness 1 --replay-arrivals {folder}/missing": "--replay-arrivals: no file {folder}/missing",
    PS + "--staleness 1 --replay-arrivals {folder}": "--replay-arrivals: {folder} is no whole record",
    PS + "--staleness 1 --record-arrivals {folder}/m --metrics {folder}/m": "name the same file, {folder}/m",
    PS + "--staleness 1 --record-arrivals {folder}/m --save {folder}/m": "name the same file, {folder}/m",
    PS + "--staleness 1 --record-arrivals {folder}/a --replay-arrivals {folder}/a":
        "--record-arrivals and --replay-arrivals name the same file, {folder}/a",
    PS + "--staleness 1 --save {folder}/m --replay-arrivals {folder}/m": "--save and --replay-arrivals name the same",
    PS + "--clip-norm 1": "--clip-norm",
    PS + "--update fused": "updates on the servers: --update is for --strategy allreduce",
    PS + "--update replicated": "--update is for --strategy allreduce",
    "--strategy naive --update fused": "updates on each rank: --update is for --strategy allreduce",
    LOCAL + "--update fused": "updates on each rank: --update is for --strategy allreduce",
    LOCAL + "--local-iterations 0": "--local-iterations: wanted a whole number, at least 1, got '0'",
    LOCAL + "--local-iterations 2.5": "got '2.5'",
    LOCAL + "--outer-momentum 1": "--outer-momentum: wanted a number in [0, 1), got '1'",
    LOCAL + "--outer-momentum -0.1": "got '-0.1'",
    LOCAL + "--outer-learning-rate 0": "--outer-learning-rate: wanted a number above 0, got '0'",
    LOCAL + "--outer-learning-rate nan": "got 'nan'",
    LOCAL + "--servers 1": "--servers is for --strategy ps, this is --strategy local-sgd",
    PS + "--local-iterations 8": "--local-iterations is for --strategy local-sgd, this is --strategy ps",
    PS + "--outer-momentum 0": "--outer-momentum is for --strategy local-sgd",
    "--servers 1": "--servers is for --strategy ps, this is --strategy allreduce",
    "--servers 0": "--servers is for --strategy ps",
    "--staleness 0": "--staleness is for --strategy ps",
    "--staleness-lr constant": "--staleness-lr is for --strategy ps",
    "--record-arrivals {folder}/a": "--record-arrivals is for --strategy ps",
    "--replay-arrivals {folder}/a": "--replay-arrivals is for --strategy ps",
    "--local-iterations 1": "--local-iterations is for --strategy local-sgd",
    "--outer-learning-rate 1": "--outer-learning-rate is for --strategy local-sgd",
    "--strategy gossip": "--strategy: invalid choice: 'gossip'",
    "--inject slow@rank=1": "--inject: slow: factor missing",
    "--inject oops": "--inject: wanted kind@key=value",
}  # fmt: skip


@pytest.mark.parametrize("flags", BAD)
def test_it_is_refused_in_one_line_and_nothing_is_written(flags, tmp_path, capsys):
    out = [] if "--metrics" in flags or "--save" in flags else ["--metrics", f"{tmp_path}/metrics"]
    line = refusal(
        capsys, train.main, *out, "--transport", "threads", "--ranks", "3", *flags.format(folder=tmp_path).split()
    )
    assert BAD[flags].format(folder=tmp_path) in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("servers", ["", "--servers 2"])
def test_one_rank_alone_is_no_server_and_worker_unless_it_is_told_so(servers, capsys):
    line = refusal(capsys, train.main, *PS.split(), *servers.split())
    assert f"error: {servers or '--strategy ps'}: a parameter server with " in line and "leaves 0 workers" in line
    assert fit("--quiet", "--epochs", "1", "--strategy", "ps", "--servers", "0").code == 0


def test_clip_norm_under_local_sgd_clips_each_ranks_own_gradient():
    """It is not refused, so it has an effect: ranks clip before they step."""
    flags = ("--quiet", "--epochs", "1", "--strategy", "local-sgd")
    clipped, plain = fit(*flags, "--clip-norm", "0.01", ranks=3), fit(*flags, ranks=3)
    assert clipped.end["parameters_sha256"] != plain.end["parameters_sha256"]


GOOD = {
    PS + "--servers 0 --staleness 0": {"servers": 0, "staleness": 0},
    PS + "--servers 2 --staleness inf --staleness-lr 1/(1+s)": {"servers": 2, "staleness": "inf"},
    PS + "--staleness 2": {"servers": 1, "staleness": 2},
    LOCAL + "--local-iterations 3 --outer-momentum 0.5": {"local_iterations": 3, "outer_momentum": 0.5},
    "--strategy naive": {"strategy": "naive", "update": "replicated"},
    "": {"strategy": "allreduce"},
}


@pytest.mark.parametrize("flags", GOOD)
def test_the_metrics_say_what_was_asked_for(flags):
    run = fit("--quiet", "--epochs", "1", *flags.split(), ranks=3)
    start = run.events[0]
    assert run.code == 0 and start.items() >= GOOD[flags].items()
    strategy = flags.split()[1] if flags else "allreduce"
    assert start["strategy"] == run.end["strategy"] == strategy
    servers = start.get("servers", 0)
    assert start["world_size"] == run.end["world_size"] == 3 - servers == len(start["local_batch_size"])
    assert ("staleness_histogram" in run.end) == (strategy == "ps")


def test_what_is_said_at_the_end_has_the_staleness(capsys):
    fit("--epochs", "1", "--strategy", "ps", "--staleness", "inf", "--servers", "1", ranks=3)
    out = capsys.readouterr().out
    assert "staleness" in out and "3 on" not in out.replace("3 ranks", "")
