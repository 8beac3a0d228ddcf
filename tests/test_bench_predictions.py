"""npdp bench predicts beside what it measures, with constants that are measured where there are none."""

import json
import os
import re

import pytest
from bench_tables import COLLECTIVES, LACKING, THREADS
from launching import exit_code, needs_mpi, python

from npdp.bench import run as bench
from npdp.bench.accuracy import accuracy, accuracy_text
from npdp.bench.cases import MEMORY_COPY

pytestmark = pytest.mark.usefixtures("own_cache")


def test_predictions_stand_beside_what_was_measured(tmp_path, capsys):
    path = tmp_path / "o.json"
    assert exit_code(bench.main, "allreduce", *THREADS, "3", "--sizes", "64,64K", "--json", str(path)) == 0
    out = capsys.readouterr().out
    kept = json.loads(path.read_text())
    assert kept["constants"] is None or os.path.exists(f"{os.environ['XDG_CACHE_HOME']}/npdp/{kept['constants']}")
    assert all((row["predicted_us"] is None) == (row["algorithm"] == MEMORY_COPY) for row in kept["rows"])
    assert all(row["predicted_us"] is None or row["predicted_us"] > 0 for row in kept["rows"])
    assert f"predictions are off by {kept['accuracy']['median_off']:.0%} in the median" in out
    assert re.search(r"auto is within 15% of the best in \d of 2 sizes", out)
    assert [cell["bytes"] for cell in kept["accuracy"]["choices"]] == [64, 65536]


def test_how_good_predictions_and_choices_were_is_counted():
    rows = [
        {"bytes": nbytes, "algorithm": name, "time_us": time_us, "predicted_us": predicted_us}
        for nbytes, name, time_us, predicted_us in [
            (8, "tree", 10, 12), (8, "ring", 20, 15), (8, "mpi", 1, None),
            (1024, "tree", 30, 30), (1024, "ring", 20, 40),
        ]
    ]  # fmt: skip
    found = accuracy(rows, {8: "tree", 1024: "tree", 2048: "tree"}, ["ring", "tree", "naive"])
    assert found["median_off"] == pytest.approx(0.225)
    assert [cell["ratio"] for cell in found["choices"]] == [1, 1.5]
    assert accuracy_text(found).splitlines() == [
        "predictions are off by 22% in the median",
        "auto is within 15% of the best in 1 of 2 sizes",
        "  1K: tree takes 1.50 times as long as ring",
    ]
    assert accuracy_text(accuracy(rows[2:3], {8: "tree"}, ["tree"])) == ""


def test_constants_are_measured_where_there_are_none_and_then_kept(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = "constants for auto measured in "
    command = ("allreduce", *THREADS, "2", "--sizes", "64", "--algorithm", "ring", "--rounds", "1")
    assert exit_code(bench.main, "calibrate", *THREADS, "2", "--show") == 0
    assert "constants built in: nobody has measured yet" in capsys.readouterr().out
    assert exit_code(bench.main, *command) == 0
    out = capsys.readouterr().out
    (file,) = (tmp_path / "npdp").iterdir()
    assert out.count(said) == 1 and f"kept in {file}" in out
    first = file.read_text()
    assert exit_code(bench.main, *command) == 0 and said not in capsys.readouterr().out and file.read_text() == first
    assert exit_code(bench.main, *command, "--calibrate") == 0
    assert said in capsys.readouterr().out and file.read_text() != first
    assert exit_code(bench.main, "calibrate", *THREADS, "2", "--show") == 0
    out = capsys.readouterr().out
    assert f"constants {file}" in out and said not in out


@needs_mpi
def test_the_command_calibrate_measures_shows_and_keeps_constants(tmp_path):
    for show in ([], ["--show"]):
        path = tmp_path / f"o{len(show)}.json"
        code, stdout, stderr = python("-m", "npdp", "calibrate", "--ranks", "2", *show, "--json", str(path))
        assert (code, stderr) == (0, "")
        assert ("constants for auto measured in " in stdout) == (not show)
        for what in ("messages inside a host", "gamma ns/byte", *COLLECTIVES):
            assert what in stdout
        assert ("shared memory" in stdout) == (not LACKING)
        assert "between hosts" not in stdout  # there is one
        assert re.search(r"^allreduce: auto takes \w+ at 8", stdout, re.MULTILINE)
        assert json.loads(path.read_text())["key"]["ranks of each host"] == [2]
    assert json.loads(path.read_text())["constants"] == json.loads((tmp_path / "o0.json").read_text())["constants"]
