"""npdp bench: its sizes and flags, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
from launching import exit_code, refusal

from npdp.app import cli
from npdp.base.errors import InputError
from npdp.bench import flags
from npdp.bench import run as bench
from npdp.bench.cases import BUS_FACTORS, CASES
from npdp.bench.sizes import parse_sizes
from npdp.collectives import arrays as checks
from npdp.report.table import size_text


# Sizes
@pytest.mark.parametrize(("text", "factor", "sizes"), [
    ("64", 2, [64]),
    ("1K", 2, [1024]),
    ("1k,2M,1G", 2, [1024, 2 << 20, 1 << 30]),
    ("1K:8K", 2, [1024, 2048, 4096, 8192]),
    ("1K:64K", 4, [1024, 4096, 16384, 65536]),
    ("1K:5K", 2, [1024, 2048, 4096]),
    ("1M, 8 ,8:32", 2, [8, 16, 32, 1 << 20]),
])  # fmt: skip
def test_sizes_are_lists_and_ranges_in_powers_of_1024(text, factor, sizes):
    assert list(parse_sizes(text, factor)) == sizes


@pytest.mark.parametrize("text", ["", "K", "1X", "1.5K", "-1", "0", "1K:", ":1K", "1K,", "2K:1K", "1K:2K:4K",
                                  "9" * 5000])  # fmt: skip
def test_other_texts_are_no_sizes(text):
    with pytest.raises(InputError, match="--sizes: wanted"):
        parse_sizes(text, 2)


def test_a_size_is_written_as_it_is_read():
    for text in ("1", "1000", "1K", "1025", "64K", "1M", "3G"):
        assert size_text(*parse_sizes(text, 2)) == text


def test_sizes_are_whole_elements_of_the_type():
    config = flags.parse(["allreduce", "--sizes", "9,15,16,1001", "--dtype", "float64"])
    assert config.sizes == (8, 16, 1000)


# Refusals
@pytest.mark.parametrize(("arguments", "said"), [
    ("", "the following arguments are required: WHAT"),
    ("alltoall", "invalid choice: 'alltoall'"),
    ("allreduce --sizes 1X", "got '1X'"),
    ("allreduce --sizes 2", "2 bytes are less than one float32"),
    ("allreduce --sizes 900G --ranks 2", "900G on 2 ranks takes 5,798 GB"),
    ("allreduce --factor 1", "--factor: wanted a whole number, at least 2, got '1'"),
    ("allreduce --rounds 0", "--rounds: wanted a whole number, at least 1"),
    ("allreduce --ranks 0", "--ranks: wanted a whole number, at least 1"),
    ("allreduce --algorithm ring,fast", "--algorithm: no 'fast'; there are auto, naive, ring, "),
    ("broadcast --algorithm ring", "--algorithm: no 'ring'; there are auto, naive, tree"),
    ("broadcast --op sum", "unrecognized arguments: --op sum"),
    ("allreduce --op and", "--op: invalid choice: 'and'"),
    ("allreduce --op mean --dtype int64", "the mean of int64 is no int64"),
    ("allreduce --dtype float16", "--dtype: invalid choice"),
    ("allreduce --algorithm mpi", "one rank runs without MPI"),
    ("allreduce --algorithm ring,mpi --transport threads --ranks 2", "--transport threads has none"),
    ("iteration --algorithm mpi --transport threads --ranks 2", "--transport threads has none"),
    ("iteration --models lin10,vgg", "--models: no 'vgg'; there are lin10, softmax, mlp, mlpbig"),
    ("calibrate", "constants are measured between ranks: give --ranks 2 or more"),
    ("calibrate --ranks 2 --rounds 3", "unrecognized arguments: --rounds 3"),
    ("iteration --sizes 1K", "unrecognized arguments: --sizes 1K (see"),
    ("iteration --json allreduce --sizes 1K", "unrecognized arguments: --sizes 1K (see"),
    ("allreduce --model x", "unrecognized arguments: --model x (see"),
    ("calibrate --ranks 2 --round 3", "unrecognized arguments: --round 3 (see"),
    ("allreduce --size 1K", "unrecognized arguments: --size 1K; did you mean --sizes?"),
    ("allreduce --json /no/such/directory/o.json", "--json: wanted a file to write"),
    ("allreduce --plot o.txt", "--plot: wanted a file that ends in .png, .svg, .pdf, got 'o.txt'"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line_before_any_rank_starts(arguments, said, capsys, monkeypatch):
    monkeypatch.setattr("npdp.app.launch.run_ranks_with_mpirun", lambda *_: pytest.fail("ranks were started"))
    monkeypatch.setattr("npdp.bench.run.measure", lambda *_: pytest.fail("something was measured"))
    for main, before in ((bench.main, ()), (cli.main, ("bench",))):
        assert said in refusal(capsys, main, *before, *arguments.split())


def test_a_plot_without_matplotlib_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert exit_code(bench.main, "allreduce", "--sizes", "8", "--plot", f"{tmp_path}/o.png") == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1) and "pip install 'npdp[plot]'" in error


def test_one_file_for_both_is_refused(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = f"{tmp_path}/o.png"
    line = refusal(capsys, bench.main, "allreduce", "--sizes", "8", "--json", path, "--plot", path)
    assert f"--json and --plot name the same file, {path}" in line


def test_ranks_that_nobody_started_are_refused(capsys):
    said = refusal(capsys, bench.main, "allreduce", "--ranks", "3")
    assert "--ranks 3, but this is a world of 1" in said and "npdp bench allreduce --ranks 3" in said


# Flags
@pytest.mark.parametrize("what", [*CASES, "iteration"])
def test_each_benchmark_has_help_with_examples(what, capsys):
    assert exit_code(cli.main, "bench", what, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: npdp bench {what}")
    assert f"npdp bench {what} --ranks 2" in out.split("examples:")[1]


def test_help_says_what_mpis_own_is(capsys):
    assert exit_code(cli.main, "bench", "allreduce", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mpi, if asked for, is MPI_Iallreduce, which npdp polls" in said
    assert "MPI_Allreduce itself, which blocks" in said


def test_flags_know_what_the_library_knows():
    assert flags.OPS == checks.OPS
    assert {name: np.dtype(name).itemsize for name in flags.ITEM_BYTES} == flags.ITEM_BYTES
    assert tuple(map(np.dtype, flags.ITEM_BYTES)) == checks.DTYPES
    assert set(BUS_FACTORS) == set(CASES) == set(flags.SCHEDULES)


def test_flags_are_read_before_numpy_is_loaded():
    program = "import sys\nfrom npdp.app import cli\nfrom npdp.bench import flags, run\nflags.parse(['allreduce'])\n" \
              "print({'numpy', 'mpi4py'} & set(sys.modules))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
