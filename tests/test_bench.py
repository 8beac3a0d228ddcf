"""npdp bench: what is printed, written and plotted of measurements, in worlds of threads and under mpirun."""

import importlib.util
import json
import os
import re
from unittest import mock

import pytest
from bench_tables import COLLECTIVES, LACKING, THREADS, rows_of
from launching import exit_code, mpirun, needs_mpi, python

import npdp
from npdp.bench import collectives, flags
from npdp.bench import run as bench
from npdp.bench.cases import MEMORY_COPY, MPI_ALLREDUCE
from npdp.bench.models import MODELS
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE, algorithms_of
from npdp.report.table import Column, header, line, runs_text

pytestmark = pytest.mark.usefixtures("own_cache")
YIELDING = {"OMPI_MCA_mpi_yield_when_idle": "1"}  # MPI's blocking calls leave the core to other tests
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed (pip install npdp[plot])"
)


# What a world cannot do
def test_an_algorithm_that_the_world_cannot_use_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("npdp.collectives.host_memory.HostMemory.is_of_all", False)
    assert exit_code(bench.main, "allreduce", *THREADS, "2", "--sizes", "8", "--algorithm", "shared_memory") == 2
    assert "--algorithm shared_memory: " in capsys.readouterr().err
    assert exit_code(bench.main, "allreduce", *THREADS, "2", "--sizes", "8") == 0
    out = capsys.readouterr().out
    assert "without   hierarchical, shared_memory: not in this world" in out
    assert "shared_memory" not in {row.contender for row in rows_of(out)}


# What is printed and written
def test_a_table_has_columns_as_wide_as_its_rows():
    columns = (Column("a", "title", 8, ".2f"), Column("b", "name", 6, side="<"), Column("c", "last", 5, ","))
    assert header(columns) == "   title  name     last"
    assert line(columns, {"a": 1.234, "b": "ring", "c": 12345}) == "    1.23  ring    12,345"
    assert line(columns, {"b": "ring", "c": None}) == "       -  ring        -"


@pytest.mark.parametrize("what", COLLECTIVES)
def test_every_algorithm_stands_beside_a_memory_copy_at_each_size(what, capsys):
    assert exit_code(bench.main, what, *THREADS, "3", "--sizes", "8:512", "--factor", "64", "--dtype", "int64") == 0
    out, error = capsys.readouterr()
    assert error == ""
    names = [*(name for name in algorithms_of(what) if name not in (HIERARCHICAL, NATIVE, *LACKING)), MEMORY_COPY]
    rows = rows_of(out)
    assert [row[:3] for row in rows] == [(nbytes, nbytes // 8, name) for nbytes in (8, 512) for name in names]
    assert all(row.errors == 0 and (row.busbw == "-") == (row.contender == MEMORY_COPY) for row in rows)
    chosen = npdp.run_ranks(3, lambda: {nbytes: npdp.init().chosen(what, nbytes, "auto") for nbytes in (8, 512)})[0]
    assert f"auto takes {runs_text(chosen)}" in out.splitlines()
    assert f"{what} of int64" in out and "3 on threads of one process" in out


def test_auto_can_be_timed_and_ordinary_buffers_too(capsys):
    assert exit_code(bench.main, "allreduce", *THREADS, "2", "--sizes", "64", "--algorithm", "auto,ring",
                     "--buffers", "ordinary", "--op", "max") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert [row.contender for row in rows_of(out)] == ["auto", "ring", MEMORY_COPY]
    assert "ordinary, in place" in out and "allreduce of float32, max" in out


def test_one_rank_needs_no_mpi_and_sends_nothing(capsys):
    assert exit_code(bench.main, "allreduce", "--sizes", "1K") == 0
    out = capsys.readouterr().out
    assert {row.busbw for row in rows_of(out)[:-1]} == {"0.00"} and "one rank  carries nothing out" in out
    assert "MPI" not in out and "auto takes" not in out and "of the best" not in out


def test_the_json_file_has_figures_command_and_machine(tmp_path, capsys):
    arguments = ["allreduce", *THREADS, "4", "--sizes", "64,4K", "--algorithm", "ring", "--json", f"{tmp_path}/o.json"]
    assert exit_code(bench.main, *arguments, "--rounds", "7") == 0
    kept = json.loads((tmp_path / "o.json").read_text())
    assert kept["command"] == f"npdp bench {' '.join(arguments[:-1])} o.json --rounds 7"
    assert {"processor", "family", "cores", "system", "versions", "blas", "date"} <= kept["machine"].keys()
    assert kept["machine"]["versions"]["npdp"] == npdp.__version__ and "numpy" in kept["machine"]["versions"]
    assert (kept["benchmark"], kept["world_size"], kept["dtype"], kept["op"]) == ("allreduce", 4, "float32", "sum")
    assert kept["transport"] == "threads of one process" and kept["auto"].keys() == {"64", "4096"}
    assert [(row["bytes"], row["algorithm"]) for row in kept["rows"]] == [
        (64, "ring"), (64, MEMORY_COPY), (4096, "ring"), (4096, MEMORY_COPY)]  # fmt: skip
    for row in kept["rows"]:
        assert len(row["rounds_us"]) >= 7 and min(row["rounds_us"]) <= row["time_us"] <= max(row["rounds_us"])
        assert row["algbw"] == pytest.approx(row["bytes"] / row["time_us"] / 1e3)
        assert row["busbw"] == (None if row["algorithm"] == MEMORY_COPY else pytest.approx(row["algbw"] * 1.5))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("what", [
    "broadcast --sizes 64 --rounds 1", "iteration --models lin10 --rounds 1", "calibrate"])  # fmt: skip
def test_figures_that_cannot_be_kept_are_told_of_in_one_line_and_printed_all_the_same(what, capsys):
    assert exit_code(bench.main, *what.split(), *THREADS, "2", "--json", "/dev/full") == 1
    out, error = capsys.readouterr()
    assert error == "npdp: error: rank 0: --json: /dev/full could not be written: No space left on device\n"
    assert "fused" in out or "auto takes" in out


@needs_matplotlib
@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_plot_is_a_picture(ending, begins, tmp_path, capsys):
    path = tmp_path / f"o.{ending}"
    arguments = ("--sizes", "64,4K", "--algorithm", "ring", "--plot", str(path))
    assert exit_code(bench.main, "allreduce", *THREADS, "4", *arguments) == 0
    assert path.read_bytes().startswith(begins) and path.stat().st_size > 5000


@needs_matplotlib
def test_the_plot_has_a_line_an_algorithm_and_a_dashed_one_for_the_copys_speed(tmp_path):
    with mock.patch("npdp.bench.collectives.plot_times") as plot:
        assert exit_code(bench.main, "allreduce", *THREADS, "4", "--sizes", "64,4K", "--algorithm", "ring,tree",
                         "--plot", f"{tmp_path}/o.png") == 0  # fmt: skip
    (_, title, lines, references), _ = plot.call_args
    assert "allreduce" in title and "4 ranks" in title
    assert list(lines) == ["ring", "tree", MEMORY_COPY]
    (reference,) = references.values()
    assert reference == [(nbytes, time_us * 1.5) for nbytes, time_us in lines[MEMORY_COPY]]


@needs_matplotlib
def test_the_plot_says_what_mpis_own_is():
    config = flags.parse(["allreduce", "--ranks", "2", "--algorithm", "mpi", "--plot", "o.png"])
    rows = [{"algorithm": name, "bytes": 8, "time_us": 1.0} for name in (NATIVE, MPI_ALLREDUCE, MEMORY_COPY)]
    with mock.patch("npdp.bench.collectives.plot_times") as plot:
        collectives._plot(config, mock.Mock(world_size=2), rows)
    assert list(plot.call_args.args[2]) == ["mpi (MPI_Iallreduce, polled)", MPI_ALLREDUCE, MEMORY_COPY]


def test_iterations_of_the_models_are_timed(tmp_path, capsys):
    path = tmp_path / "o.json"
    arguments = ("--models", "lin10,softmax", "--rounds", "2", "--json", str(path))
    assert exit_code(bench.main, "iteration", *THREADS, "2", *arguments) == 0
    out = capsys.readouterr().out
    for update in ("alone", "replicated", "fused"):
        assert re.search(rf"^lin10 +{update} +32 +[\d.]+ +[\d,]+$", out, re.MULTILINE)
        assert re.search(rf"^softmax +{update} +128 +[\d.,]+ +[\d,]+$", out, re.MULTILINE)
    kept = json.loads(path.read_text())
    assert kept["benchmark"] == "iteration" and kept["world_size"] == 2 and len(kept["rows"]) == 6
    for row in kept["rows"]:
        samples = MODELS[row["model"]][1] * (1 if row["update"] == "alone" else 2)
        assert row["samples_per_s"] == pytest.approx(samples / row["time_us"] * 1e6)


# Under mpirun
@needs_mpi
@pytest.mark.parametrize("op", flags.OPS)
def test_mpis_own_is_checked_as_others_are_polled_and_blocking(op, tmp_path):
    path = tmp_path / "o.json"
    arguments = ("--sizes", "64,100K", "--algorithm", "mpi", "--op", op, "--rounds", "1", "--json", str(path))
    code, stdout, stderr = mpirun(2, "-m", "npdp.bench", "allreduce", *arguments, **YIELDING)
    assert (code, stderr) == (0, "")
    rows = rows_of(stdout)
    assert [row.contender for row in rows] == 2 * [NATIVE, MPI_ALLREDUCE, MEMORY_COPY]
    assert {row.errors for row in rows} == {0}
    assert "mpi: MPI_Iallreduce, which npdp polls" in stdout and "MPI_Allreduce: blocking" in stdout
    assert list(json.loads(path.read_text())["explained"]) == [NATIVE, MPI_ALLREDUCE, MEMORY_COPY]


@needs_mpi
def test_under_mpirun_rank_0_prints_the_table_with_mpis_own(tmp_path):
    path = tmp_path / "o.json"
    arguments = ("--sizes", "64,64K", "--json", str(path))
    code, stdout, stderr = mpirun(2, "-m", "npdp.bench", "allreduce", *arguments, **YIELDING)
    assert (code, stderr) == (0, "")
    own = [name for name in algorithms_of("allreduce") if name not in (HIERARCHICAL, NATIVE, *LACKING)]
    assert [row.contender for row in rows_of(stdout)] == 2 * [*own, MPI_ALLREDUCE, MEMORY_COPY]
    assert all(row.errors == 0 for row in rows_of(stdout))
    kept = json.loads(path.read_text())
    assert kept["command"].startswith("mpirun -n 2 python -m npdp.bench allreduce --sizes 64,64K ")
    assert kept["world_size"] == 2 and "mpi4py" in kept["machine"]["versions"]


@needs_mpi
def test_the_command_starts_its_ranks():
    code, stdout, stderr = python("-m", "npdp", "bench", "allgather", "--ranks", "2", "--sizes", "1K", "--rounds", "1")
    assert (code, stderr) == (0, "")
    assert "2 on MPI (" in stdout and {row.contender for row in rows_of(stdout)} == {
        *(name for name in algorithms_of("allgather") if name not in LACKING), MEMORY_COPY,
    }  # fmt: skip
    code, stdout, stderr = python("-m", "npdp", "bench", "iteration", "--ranks", "2", "--models", "lin10")
    assert (code, stderr) == (0, "") and stdout.count("lin10") == 3


@needs_mpi
def test_under_mpirun_all_ranks_refuse_together():
    code, stdout, stderr = mpirun(2, "-m", "npdp.bench", "allreduce", "--sizes", "1X")
    assert (code, stdout) == (2, "") and stderr.count("npdp: error: ") == 1
    code, stdout, stderr = mpirun(2, "-m", "npdp.bench", "allreduce", "--ranks", "3")
    assert (code, stdout) == (2, "") and "this is a world of 2" in stderr
