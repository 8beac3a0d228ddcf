"""How a rank counts and notes its calls, by which ranks that wait tell whether they call the same."""

import numpy as np
import pytest
from launching import mpirun, needs_mpi
from worlds import run

from npdp.comm.failures import call_log as calls
from npdp.comm.failures.call_log import KEPT, CallLog
from npdp.parallel.world import init


def test_notes_are_compared_by_number():
    mine, theirs = CallLog(0), CallLog(1)
    assert mine.note() == ""
    for what in ("a", "b", "c"):
        mine.begin(what)
    for what in ("a", "x"):
        theirs.begin(what)
    assert mine.note() == "3 c" and theirs.note() == "2 x"
    assert theirs.compare(0, mine.note()) is None  # it has not come so far
    assert str(mine.compare(1, theirs.note())).startswith("rank 0 calls b, rank 1 x: the ranks do not call the same")
    for _ in range(KEPT):
        mine.begin("a")
    assert mine.compare(1, theirs.note()) is None  # forgotten
    assert mine.compare(1, f"{KEPT + 3} b") is not None and mine.compare(1, "4 b") is not None


def test_all_calls_are_compared_by_their_number_and_a_hash():
    mine, theirs = CallLog(0), CallLog(1)
    for what in "abc":
        mine.begin(what), theirs.begin(what)
    assert mine.compare_all(1, theirs.last_note()) is None
    mine.begin("d")
    wanted = "rank {} leaves after {} collectives by messages, rank {} after {}; number 4 is d: the ranks have not"
    assert str(mine.compare_all(1, theirs.last_note())).startswith(wanted.format(0, 4, 1, 3))
    assert str(theirs.compare_all(0, mine.last_note())).startswith(wanted.format(1, 3, 0, 4))
    theirs.begin("x")
    assert "rank 0 calls d, rank 1 x" in str(mine.compare_all(1, theirs.last_note()))
    for _ in range(KEPT):
        mine.begin("a"), theirs.begin("a")
    assert f"after {KEPT + 4}; they differ before the last" in str(mine.compare_all(1, theirs.last_note()))


def test_their_order_counts_too():
    mine, theirs = CallLog(0), CallLog(1)
    for what in "ab":
        mine.begin(what)
    for what in "ba":
        theirs.begin(what)
    assert mine.history != theirs.history


def test_a_rank_that_was_told_of_a_failure_compares_nothing_when_it_leaves():
    mine, theirs = CallLog(0), CallLog(1)
    mine.begin("a")
    mine.fail(ValueError("told"))
    assert theirs.compare_all(0, mine.last_note()) is None and mine.compare_all(1, theirs.last_note()) is None


def test_messages_of_calls_in_a_row_are_told_apart():
    made = CallLog(0)
    tags = [made.begin("the same").tag for _ in range(3)]
    assert len(set(tags)) == 3
    assert CallLog(1).begin("the same").tag == tags[0]
    assert CallLog(0, range(7, 9)).begin("the same").tag in (7, 8)


def test_a_call_that_is_being_begun_on_another_thread_is_not_noted_yet(monkeypatch):
    """A rank that waits reads others' notes, and compares, while they go on."""
    made, code = CallLog(0), calls._code
    made.begin("a")
    seen = []

    def in_between(what):
        seen.append((made.note(), made.compare(1, "1 a"), made.compare(1, "2 b")))
        return code(what)

    monkeypatch.setattr(calls, "_code", in_between)
    made.begin("b")
    assert seen == [("1 a", None, None)]


@needs_mpi
def test_notes_do_not_pile_up_at_a_rank_for_which_others_wait():
    code, stdout, stderr = mpirun(2, "faults.py", "waited_for")
    assert code == 0, stderr
    assert stdout.count("notes left: False") == 2


def test_a_note_is_sent_once_in_a_call_and_not_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(calls.time, "monotonic", lambda: now[0])
    made = CallLog(0)
    assert not made.note_is_due()  # nothing was called
    for _ in range(2):
        made.begin("a")
        due = []
        for _ in range(5):
            due.append(made.note_is_due())
            now[0] += 0.6
        assert due == [False, False, True, False, False]


@pytest.mark.parametrize("algorithm", ["ring", "mpi"])
def test_what_is_begun_beside_the_program_is_counted_as_it_is_begun(algorithm):
    def program():
        world = init(algorithm)
        world.transport.native_allreduce = lambda buffer, op, call: None
        for count in (1, 2):
            world.begin_allreduce(np.ones(count))
        noted = world.transport.calls.note()
        world.finish()
        return noted

    assert run(2, program) == [f"2 allreduce of 2 float64 (sum) by {algorithm}"] * 2
