"""npdp bench: results that are checked while timing, and what is printed and written of them."""

import importlib.util
import json
import os
import re
import time
from unittest import mock

import numpy as np
import pytest
from launching import exit_code, mpirun, needs_mpi, python
from worlds import run

import npdp
from npdp import kernels
from npdp.bench import collectives, flags
from npdp.bench import run as bench
from npdp.bench.accuracy import accuracy, accuracy_text
from npdp.bench.cases import BUS_FACTORS, CASES, MEMORY_COPY, MPI_ALLREDUCE, Case, buffers, memory_copy
from npdp.bench.inputs import PERIOD, count_wrong, exact_calls, fill, inputs, reduced
from npdp.bench.models import MODELS
from npdp.bench.timing import Contender, time_in_turn
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE, algorithms_of
from npdp.comm.mpi import MpiTransport
from npdp.comm.transport import NoTransport
from npdp.parallel import checks
from npdp.parallel.world import World
from npdp.report.table import Column, header, line, runs_text

THREADS = ("--transport", "threads", "--ranks")
COLLECTIVES = tuple(CASES)
YIELDING = {"OMPI_MCA_mpi_yield_when_idle": "1"}  # MPI's blocking calls leave the core to other tests
LACKING = [] if kernels.backend() == "c" else ["shared_memory"]  # algorithms that this machine cannot use
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed (pip install npdp[plot])"
)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """What is measured here, beside other tests, is not to choose in these."""
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache"))):
        yield


def cells(out: str) -> list[tuple[int, int, str, float, float, str, int]]:
    """Return the rows of a printed table, without what was predicted."""
    form = r"\s*(\d+)\s+(\d+)\s+(\w[\w ]*?)\s+([\d.]+)\s+(?:[\d.]+|-)\s+([\d.]+)\s+([\d.]+|-)\s+(\d+)"
    found = [re.fullmatch(form, text) for text in out.splitlines()]
    return [
        (int(row[1]), int(row[2]), row[3], float(row[4]), float(row[5]), row[6], int(row[7])) for row in found if row
    ]


# What a world cannot do
def test_an_algorithm_that_the_world_cannot_use_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("npdp.parallel.world.World.shares_memory", False)
    assert exit_code(bench.main, "allreduce", *THREADS, "2", "--sizes", "8", "--algorithm", "shared_memory") == 2
    assert "--algorithm shared_memory: " in capsys.readouterr().err
    assert exit_code(bench.main, "allreduce", *THREADS, "2", "--sizes", "8") == 0
    out = capsys.readouterr().out
    assert "without   hierarchical, shared_memory: not in this world" in out
    assert "shared_memory" not in {row[2] for row in cells(out)}


# What is timed, and its check
def test_busbw_is_what_each_rank_must_send():
    assert {name: factor(4) for name, factor in BUS_FACTORS.items()} == {
        "allreduce": 1.5, "reduce_scatter": 0.75, "allgather": 0.75, "broadcast": 1.0,
    }  # fmt: skip
    assert BUS_FACTORS["allreduce"](2) == 1 and BUS_FACTORS["allgather"](1) == 0


@pytest.mark.parametrize("count", [0, 1, PERIOD - 1, PERIOD, PERIOD + 1, 3 * PERIOD + 5])
@pytest.mark.parametrize("start", [0, 1, PERIOD, PERIOD + 7])
def test_a_wrong_element_is_found_wherever_it_is(count, start):
    pattern = inputs(1, 3, "sum", np.dtype(np.float32))
    whole, buffer = np.empty(start + count, np.float32), np.empty(count, np.float32)
    fill(whole, pattern)
    fill(buffer, pattern, start)
    assert np.array_equal(buffer, whole[start:]) and count_wrong(buffer, pattern, start) == 0
    for place in {0, count // 2, count - 1} if count else ():
        spoilt = buffer.copy()
        spoilt[place] = np.nan
        assert count_wrong(spoilt, pattern, start) == 1


def test_inputs_differ_between_ranks_and_along_the_buffer():
    first, second = (inputs(rank, 2, "sum", np.dtype(np.int32)) for rank in range(2))
    for other in (second, np.roll(first, 1), np.roll(first, 4096)):
        assert 0.8 < np.count_nonzero(first != other) / PERIOD < 0.99


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("world_size", [2, 3, 4, 7, 33, 1000])
def test_sums_in_a_row_are_exact_as_long_as_they_are_checked(world_size, dtype):
    calls = exact_calls(world_size, "sum", dtype, 1000)
    largest = 5 * world_size * world_size ** (calls - 1)
    assert 2 <= calls <= 62
    if dtype.kind == "i":
        assert largest <= np.iinfo(dtype).max
    else:
        assert largest <= 2 ** (np.finfo(dtype).nmant + 1)


@pytest.mark.parametrize("op", flags.OPS)
def test_a_reduction_is_numpys(op):
    stack = np.stack([inputs(rank, 5, op, np.dtype(np.float64)) for rank in range(5)])
    assert np.array_equal(reduced(5, op, np.dtype(np.float64)), getattr(stack, op)(axis=0))
    assert exact_calls(5, op, np.dtype(np.float64), 9) == (1 if op == "prod" else 9)


@pytest.mark.parametrize("what", COLLECTIVES)
def test_each_collective_is_right_after_as_many_calls_as_are_checked(what):
    def program(op, count):
        memory, other = npdp.shared_empty(count + 3), np.empty(count, np.float32)
        case = Case(memory[:count], memory[count:], other, npdp.rank(), npdp.world_size(), op, "auto")
        contender = CASES[what](case)
        wrong = []
        for calls in (1, min(2, contender.most_calls), min(5, contender.most_calls)):
            contender.fill()
            npdp.barrier()
            contender.warm()
            for _ in range(calls):
                contender.call()
            wrong.append(contender.wrong(calls))
        return wrong

    for op in flags.OPS if what in flags.REDUCTIONS else ("sum",):
        for count in (1, 2, 20000):
            assert run(3, program, op, count) == [[0, 0, 0]] * 3, (op, count)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("nbytes", [4, 4096, 100_000])
def test_a_memory_copy_goes_from_what_is_measured_to_memory_of_its_kind(nbytes, shared):
    def program():
        memory = buffers(nbytes, np.dtype(np.float32), shared)
        case = Case(memory[0], memory[0, -1:], memory[1], npdp.rank(), npdp.world_size(), "sum", "auto")
        contender = memory_copy(case)
        contender.fill()
        before = contender.wrong(1)
        contender.call()
        wanted = inputs(npdp.rank(), npdp.world_size(), "sum", memory.dtype)
        host = npdp.init().host
        return before, contender.wrong(1), count_wrong(memory[1], wanted), [
            host is not None and host.arena.everyones(row) is not None for row in memory], memory.nbytes

    for before, after, elsewhere, of_host, size in run(2, program):
        assert before > 0 and after == elsewhere == 0 and size >= 2 * nbytes
        assert of_host == [shared and kernels.backend() == "c"] * 2


@pytest.mark.parametrize(("count", "parts"), [(3, [3]), (4, [4]), (10, [4, 4, 2])])
def test_mpi_counts_in_32_bits_so_it_gets_long_buffers_in_parts(count, parts, monkeypatch):
    monkeypatch.setattr("npdp.comm.mpi.MOST_ELEMENTS", 4)
    transport = object.__new__(MpiTransport)
    transport._mpi, transport._data, transport._ops = mock.Mock(IN_PLACE="in place"), mock.Mock(), {"max": "MAX"}
    buffer = np.arange(count)
    transport.blocking_allreduce(buffer, "max")()
    calls = [call.args for call in transport._data.Allreduce.call_args_list]
    assert [(how, part.size, op) for how, part, op in calls] == [("in place", size, "MAX") for size in parts]
    assert all(np.shares_memory(part, buffer) for _, part, _ in calls)
    assert np.array_equal(np.concatenate([part for _, part, _ in calls]), buffer)


def nothing(*arguments, **options):
    """A collective that does not do its work."""


def off_by_one_on_the_last_rank(collective):
    def spoilt(*arguments, **options):
        collective(*arguments, **options)
        array = arguments[1] if collective is npdp.parallel.arrays.allgather else arguments[0]
        if npdp.rank() == npdp.world_size() - 1:
            array[-1] += 1

    return spoilt


@pytest.mark.parametrize("what", COLLECTIVES)
@pytest.mark.parametrize("fault", ["does nothing", "is off by one in one place"])
def test_a_collective_that_is_wrong_is_found(what, fault, capsys, monkeypatch, tmp_path):
    wrong = nothing if fault == "does nothing" else off_by_one_on_the_last_rank(getattr(npdp, what))
    monkeypatch.setattr(npdp, what, wrong)
    path = tmp_path / "o.json"
    arguments = ("--sizes", "64,100K", "--algorithm", "naive,auto", "--json", str(path))
    assert exit_code(bench.main, what, *THREADS, "3", *arguments) == 1
    out = capsys.readouterr().out
    assert "WRONG: " in out.splitlines()[-1]
    assert all((row[-1] > 0) == (row[2] != MEMORY_COPY) for row in cells(out))
    rows = json.loads(path.read_text())["rows"]
    assert [row["errors"] for row in rows] == [row[-1] for row in cells(out)]


# What is predicted
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


# How it is timed
def test_contenders_take_turns_and_the_slowest_rank_counts():
    def program():
        order = []

        def made(name, seconds):
            def call():
                order.append(name)
                time.sleep(seconds if npdp.rank() == 1 else 0)

            return Contender(name, nothing, lambda: order.append("warm"), call, lambda calls: npdp.rank(), 1)

        timings = time_in_turn(npdp.init(), [made("a", 0.03), made("b", 0.02)], 6)
        return order, timings

    for order, (a, b) in run(3, program):
        tries, rounds = order[:8], order[8:]
        assert tries == ["warm", "a", "warm", "a", "warm", "b", "warm", "b"]
        assert rounds == 6 * ["warm", "a", "warm", "b"]
        assert a.median_s > 0.03 and b.median_s > 0.02
        assert len(a.rounds_s) == 6 and a.calls == 1
        assert a.errors == b.errors == 8 * (0 + 1 + 2)


@pytest.mark.parametrize(("seconds", "most_calls", "calls", "rounds"), [
    (1e-5, 10, 10, 50),  # no more in a row than can be checked, and no more rounds than 50
    (1.9e-3, 1000, 5, 26),  # 10 ms a round, a quarter of a second in all
    (1.0, 1000, 1, 5),  # at least as many rounds as are wanted
])  # fmt: skip
def test_what_is_quick_is_called_more_often(seconds, most_calls, calls, rounds, monkeypatch):
    clock = mock.Mock(perf_counter=lambda: clock.now, now=0.0)
    monkeypatch.setattr("npdp.bench.timing.time", clock)

    def call():
        clock.now += seconds

    contender = Contender("it", nothing, nothing, call, lambda calls: 0, most_calls)
    (timing,) = time_in_turn(World(NoTransport()), [contender], 5)
    assert (timing.calls, len(timing.rounds_s)) == (calls, rounds)
    assert timing.median_s == pytest.approx(seconds)


def test_a_machine_that_grows_busy_gets_no_more_rounds_than_must_be(monkeypatch):
    clock = mock.Mock(perf_counter=lambda: clock.now, now=0.0)
    monkeypatch.setattr("npdp.bench.timing.time", clock)
    calls = iter(range(1000))

    def call():
        clock.now += 1e-3 if next(calls) < 2 else 1.0  # quick when it is tried

    (timing,) = time_in_turn(World(NoTransport()), [Contender("it", nothing, nothing, call, lambda calls: 0, 3)], 4)
    assert (timing.calls, len(timing.rounds_s)) == (3, 4)


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
    rows = cells(out)
    assert [row[:3] for row in rows] == [(nbytes, nbytes // 8, name) for nbytes in (8, 512) for name in names]
    assert all(row[-1] == 0 and (row[5] == "-") == (row[2] == MEMORY_COPY) for row in rows)
    chosen = npdp.run_ranks(3, lambda: {nbytes: npdp.init().chosen(what, nbytes, "auto") for nbytes in (8, 512)})[0]
    assert f"auto takes {runs_text(chosen)}" in out.splitlines()
    assert f"{what} of int64" in out and "3 on threads of one process" in out


def test_auto_can_be_timed_and_ordinary_buffers_too(capsys):
    assert exit_code(bench.main, "allreduce", *THREADS, "2", "--sizes", "64", "--algorithm", "auto,ring",
                     "--buffers", "ordinary", "--op", "max") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert [row[2] for row in cells(out)] == ["auto", "ring", MEMORY_COPY]
    assert "ordinary, in place" in out and "allreduce of float32, max" in out


def test_one_rank_needs_no_mpi_and_sends_nothing(capsys):
    assert exit_code(bench.main, "allreduce", "--sizes", "1K") == 0
    out = capsys.readouterr().out
    assert {row[5] for row in cells(out)[:-1]} == {"0.00"} and "one rank  carries nothing out" in out
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
    rows = cells(stdout)
    assert [row[2] for row in rows] == 2 * [NATIVE, MPI_ALLREDUCE, MEMORY_COPY] and {row[-1] for row in rows} == {0}
    assert "mpi: MPI_Iallreduce, which npdp polls" in stdout and "MPI_Allreduce: blocking" in stdout
    assert list(json.loads(path.read_text())["explained"]) == [NATIVE, MPI_ALLREDUCE, MEMORY_COPY]


@needs_mpi
def test_under_mpirun_rank_0_prints_the_table_with_mpis_own(tmp_path):
    path = tmp_path / "o.json"
    arguments = ("--sizes", "64,64K", "--json", str(path))
    code, stdout, stderr = mpirun(2, "-m", "npdp.bench", "allreduce", *arguments, **YIELDING)
    assert (code, stderr) == (0, "")
    own = [name for name in algorithms_of("allreduce") if name not in (HIERARCHICAL, NATIVE, *LACKING)]
    assert [row[2] for row in cells(stdout)] == 2 * [*own, MPI_ALLREDUCE, MEMORY_COPY]
    assert all(row[-1] == 0 for row in cells(stdout))
    kept = json.loads(path.read_text())
    assert kept["command"].startswith("mpirun -n 2 python -m npdp.bench allreduce --sizes 64,64K ")
    assert kept["world_size"] == 2 and "mpi4py" in kept["machine"]["versions"]


@needs_mpi
def test_the_command_starts_its_ranks():
    code, stdout, stderr = python("-m", "npdp", "bench", "allgather", "--ranks", "2", "--sizes", "1K", "--rounds", "1")
    assert (code, stderr) == (0, "")
    assert "2 on MPI (" in stdout and {row[2] for row in cells(stdout)} == {
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
