"""Who is late under mpirun: a stopped rank is named and let go on, or ends the job; nothing is left of it."""

import re
import time

import pytest
from launching import left_in_shared_memory, mpirun, needs_mpi, shared_memory
from stops import stop, trained

pytestmark = needs_mpi


@pytest.mark.parametrize(("way", "rank"), [("shared memory", 1), ("ring", 0), ("ps", 2)])
def test_a_stopped_rank_is_named_once_with_its_part_and_goes_on_to_the_right_result(way, rank):
    wrong, _, said, sha256 = stop(way, rank, 0.1)
    assert not wrong, said
    where = "as a server" if way == "ps" else r"in \w+ of iteration \d+"
    (told,) = (line for line in said if "is stopped" in line)
    assert re.fullmatch(rf"npdp: rank {rank} \(process \d+ on \S+\) is stopped \(SIGSTOP\) {where}; .*", told)
    assert sum("waited for" in line for line in said) == 1
    assert sha256 == trained(way)


@pytest.mark.parametrize("when", ["stopped", "stopped_when_others_have_ended"])
def test_after_the_second_limit_the_job_ends_with_a_stopped_rank_and_leaves_nothing(when):
    before, began = shared_memory(), time.monotonic()
    outcome = mpirun(3, "stalls.py", when, "2")  # which asserts that no rank is left
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
