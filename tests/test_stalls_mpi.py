"""Who is late under mpirun: a stopped rank is named and let go on, or ends the job; nothing is left of it."""

import re
import time

import pytest
from launching import left_in_shared_memory, mpirun, needs_mpi, refusal, shared_memory, why_no_ulfm
from stops import stop, trained
from training import fit, off, read_run

from npdp.app import train

pytestmark = needs_mpi
needs_ulfm = pytest.mark.skipif(bool(why_no_ulfm()), reason=why_no_ulfm())
LAUNCHES = [(), pytest.param(("--with-ft", "ulfm"), marks=needs_ulfm)]


@pytest.mark.parametrize(("way", "rank"), [("shared memory", 1), ("ring", 0), ("ps", 2)])
def test_a_stopped_rank_is_named_once_with_its_part_and_goes_on_to_the_right_result(way, rank):
    wrong, _, said, sha256 = stop(way, rank, 0.1)
    assert not wrong, said
    where = "as a server" if way == "ps" else r"in \w+ of iteration \d+"
    (told,) = (line for line in said if "is stopped" in line)
    assert re.fullmatch(rf"npdp: rank {rank} \(process \d+ on \S+\) is stopped \(SIGSTOP\) {where}; .*", told)
    assert sum("waited for" in line for line in said) == 1
    assert sha256 == trained(way)


@pytest.mark.parametrize("flags", LAUNCHES, ids=str)
@pytest.mark.parametrize("when", ["stopped", "stopped_when_others_have_ended"])
def test_after_the_second_limit_the_job_ends_with_a_stopped_rank_and_leaves_nothing(when, flags):
    before, began = shared_memory(), time.monotonic()
    outcome = mpirun(3, "stalls.py", when, "2", flags=flags)  # which asserts that no rank is left
    assert outcome.code != 0
    assert "waited for rank 1" in outcome.stderr and "the limit is 2 s" in outcome.stderr
    assert len(re.findall("rank [02] failed:", outcome.stderr)) == 1
    assert outcome.stderr.count("npdp: rank 1 (process") == 1
    assert not left_in_shared_memory(before)
    assert time.monotonic() - began < 20


def test_of_a_rank_in_c_that_holds_pythons_lock_it_is_said_where_it_stands():
    outcome = mpirun(2, "stalls.py", "in_c", "0")
    assert outcome.code == 0
    assert re.search(r"npdp:   File \".*stalls.py\", line \d+ in in_c\n", outcome.stderr)


def test_a_program_that_has_the_signal_keeps_it():
    outcome = mpirun(2, "stalls.py", "with_a_handler", "0")
    assert outcome.code == 0
    assert "rank 0 has waited for rank 1" in outcome.stderr and "stands at" not in outcome.stderr


def test_who_waits_at_the_end_of_the_program_for_others_at_work_says_nothing():
    outcome = mpirun(2, "stalls.py", "at_work_when_others_have_ended", "2")
    assert (outcome.code, outcome.stderr) == (0, "")


def test_each_rank_that_is_late_is_named_once():
    outcome = mpirun(3, "stalls.py", "in_turn", "0")
    assert outcome.code == 0
    assert re.findall(r"waited for (ranks? [^f]*) for", outcome.stderr) == ["rank 0", "rank 1", "rank 2"]


@needs_ulfm
@pytest.mark.parametrize(("part", "kills"), [
    ("forward", []), ("recovery", ["kill@rank=2,iteration=5,part=exchange"]),
    ("forward", ["kill@rank=2,iteration=5,part=forward"]),  # MPI's Shrink would wait for the stopped one for ever
])  # fmt: skip
def test_a_fenced_rank_is_dead_and_the_others_train_on_to_the_right_result(part, kills, tmp_path):
    training = ("--dtype", "float64", "--epochs", "2")
    limits = ("--elastic", "--fence-stalled", "--stall-warning-s", "1", "--stall-abort-s", "2")
    faults = [word for kill in (f"stop@rank=1,iteration=5,part={part}", *kills) for word in ("--inject", kill)]
    out = ("--metrics", f"{tmp_path}/run.jsonl", "--save", f"{tmp_path}/model.npz")
    flags = ("--with-ft", "ulfm")
    outcome = mpirun(4, "-m", "npdp.train", "--quiet", *training, *limits, *faults, *out, flags=flags)
    assert outcome.code == 0, outcome.stderr
    run, wanted = read_run(outcome.code, tmp_path), fit(*training)
    assert run.end["world_size"] == 3 - len(kills)
    assert run.end["samples_seen"] == wanted.end["samples_seen"]
    assert off(run, wanted) < 1e-10
    assert re.search(r"npdp: rank 1 \(process \d+ on \S+\) is stopped \(SIGSTOP\) in " + part, outcome.stderr)


def test_fencing_is_for_elastic_training(capsys):
    assert "it is for --elastic" in refusal(capsys, train.main, "--fence-stalled")
