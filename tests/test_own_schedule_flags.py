"""`--algorithm file.py:my_ring` and `npdp show`: a schedule in a file, proven before any rank trains with it."""

import json

import pytest
from bench_tables import THREADS, rows_of
from launching import exit_code, mpirun, needs_mpi
from training import fit

from npdp.app import cli, train
from npdp.bench import run as bench

MINE = """
from npdp.collectives import add, put
from npdp.collectives.ring import allreduce as ring

def my_ring(world_size):
    return list(ring(world_size))

def broken(world_size):
    steps = my_ring(world_size)
    steps[0][1] = put(*steps[0][1][:3])
    return steps

def beyond(world_size):
    return [[add(rank, rank + 1, 0) for rank in range(world_size)]]

def to_all(world_size, root):
    return [[put(root, rank, 0, world_size) for rank in range(world_size) if rank != root]]

def fails(world_size):
    return 1 / 0
"""
QUICK = ("--epochs", "2", "--quiet")
SENTENCE = (
    "step 0: rank 2 replaces its chunk 0 by rank 1's: the contribution of rank 2 in it is overwritten; it should add"
)


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def refusal(capsys, main, *arguments):
    """Return the one line by which a command is refused."""
    assert exit_code(main, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_training_gives_the_bits_of_the_same_schedule_built_in_and_says_its_name(mine):
    built_in, own = (fit(*QUICK, "--algorithm", name, ranks=3).end for name in ("ring", f"{mine}:my_ring"))
    assert own["parameters_sha256"] == built_in["parameters_sha256"]
    assert own["algorithm"].startswith("my_ring#")


@pytest.mark.parametrize(
    ("function", "said"),
    [("broken", SENTENCE), ("broken", "--ranks 3` draws it"), ("fails", "ZeroDivisionError: division by zero ("),
     ("beyond", "it goes to rank 3: ranks are 0 to 2, is a % world_size missing?"), ("none", "has no function none")],
)  # fmt: skip
def test_training_refuses_a_wrong_one_in_one_line(mine, capsys, function, said):
    assert said in refusal(capsys, train.main, *QUICK, *THREADS, "3", "--algorithm", f"{mine}:{function}")


def test_a_file_that_is_not_there_and_a_fused_update_are_refused(mine, capsys):
    assert "no file nowhere.py" in refusal(capsys, train.main, *QUICK, *THREADS, "2", "--algorithm", "nowhere.py:ring")
    flags = ("--update", "fused", "--algorithm", f"{mine}:my_ring")
    assert "got my_ring" in refusal(capsys, train.main, *QUICK, *THREADS, "2", *flags)


@pytest.mark.usefixtures("own_cache")
def test_bench_times_it_beside_others_and_refuses_a_wrong_one(mine, capsys):
    flags = ("allreduce", *THREADS, "3", "--sizes", "4K", "--rounds", "1", "--algorithm")
    assert exit_code(bench.main, *flags, f"ring,{mine}:my_ring") == 0
    rows = {row.contender: row for row in rows_of(capsys.readouterr().out)}
    assert rows["my_ring"].errors == 0 and rows["ring"].nbytes == rows["my_ring"].nbytes == 4096
    assert SENTENCE in refusal(capsys, bench.main, *flags, f"{mine}:broken")
    iteration = ("iteration", *THREADS, "2", "--models", "softmax", "--rounds", "1", "--algorithm", f"{mine}:my_ring")
    assert exit_code(bench.main, *iteration) == 0
    assert "fused" not in capsys.readouterr().out


@needs_mpi
def test_ranks_under_mpi_take_it_and_leave_together_where_it_is_wrong(mine):
    code, stdout, stderr = mpirun(3, "-m", "npdp.train", "--epochs", "1", "--algorithm", f"{mine}:my_ring")
    assert code == 0 and "all-reduce my_ring#" in stdout, stderr
    code, stdout, stderr = mpirun(3, "-m", "npdp.train", "--epochs", "1", "--algorithm", f"{mine}:broken")
    assert code == 2 and stdout == "" and stderr.count(SENTENCE) == 1


def shown(capsys, *arguments):
    code = cli.main(["show", *arguments])
    return code, capsys.readouterr().out


def test_show_draws_the_steps_and_gives_the_verdict(mine, capsys, tmp_path):
    code, text = shown(capsys, "ring", "--ranks", "2")
    assert code == 0 and text.splitlines() == [
        "at the beginning", "           chunk 0   chunk 1", "  rank 0   0         0", "  rank 1   1         1", "",
        "step 0   0 +> 1  chunk 1   1 +> 0  chunk 0", "           chunk 0   chunk 1", "  rank 0   0 1       0",
        "  rank 1   1         0 1", "", "step 1   0 -> 1  chunk 0   1 -> 0  chunk 1", "           chunk 0   chunk 1",
        "  rank 0   0 1       0 1", "  rank 1   0 1       0 1", "",
        "proven: allreduce on 2 ranks, 2 steps; no rank sends more than 2 chunks, of which a buffer has 2",
    ]  # fmt: skip
    code, text = shown(capsys, f"{mine}:to_all", "--ranks", "3", "--collective", "broadcast", "--root", "2")
    assert code == 0 and "step 0   2 -> 0  chunks 0-2   2 -> 1  chunks 0-2" in text
    code, text = shown(capsys, f"{mine}:broken", "--ranks", "3")
    assert code == 1 and f"WRONG: allreduce, 3 ranks: {SENTENCE}" in text and "before step 0   after it" in text
    code, text = shown(capsys, f"{mine}:beyond", "--ranks", "3")
    assert code == 1 and text.startswith("WRONG: step 0: (2, 3, 0, 1) is no move among 3 ranks")
    path = tmp_path / "ring.json"
    code, _ = shown(capsys, f"{mine}:broken", "--ranks", "3", "--json", str(path))
    assert code == 1 and SENTENCE in json.loads(path.read_text())["sentence"]
    assert cli.main(["show", f"{mine}:beyond", "--ranks", "3", "--json", str(path)]) == 2
    assert "--json: playback: (2, 3, 0, 1) names a rank" in capsys.readouterr().err
    assert cli.main(["show", "rign"]) == 2 and "there are naive, ring," in capsys.readouterr().err
