"""Messages between two ranks arrive whole and in order, and two that do not fit are an error on both, not a hang."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import mpirun, needs_mpi
from worlds import DTYPES, record, run, values

import npdp
from npdp.comm.errors import CommunicationError

COUNTS = st.integers(0, 40)
OTHERS = {  # what ranks 0 and 1 do, and what is said of it
    "both send": (
        lambda: npdp.send(np.ones(3), 1 - npdp.rank()),
        "rank 0 sends 3 float64 to rank 1, rank 1 sends 3 float64 to rank 0: both would wait for ever: one of them "
        "must receive first",
    ),
    "both receive": (
        lambda: npdp.receive(np.ones(3), 1 - npdp.rank()),
        "rank 0 receives 3 float64 from rank 1, rank 1 receives 3 float64 from rank 0: both would wait for ever: one "
        "of them must send first",
    ),
    "another count": (
        lambda: npdp.receive(np.ones(4), 1) if npdp.rank() == 0 else npdp.send(np.ones(3), 0),
        "rank 0 receives 4 float64 from rank 1, rank 1 sends 3 float64 to rank 0: wanted the same count, dtype and "
        "order on both",
    ),
    "another dtype of as many bytes": (
        lambda: npdp.send(np.ones(3), 1) if npdp.rank() == 0 else npdp.receive(np.ones(3, np.int64), 0),
        "rank 0 sends 3 float64 to rank 1, rank 1 receives 3 int64 from rank 0: wanted",
    ),
    "another order": (
        lambda: npdp.send(np.ones((2, 3)), 1) if npdp.rank() == 0 else npdp.receive(np.ones((2, 3), order="F"), 0),
        "rank 0 sends 6 float64 to rank 1, rank 1 receives 6 float64 in Fortran order from rank 0: wanted",
    ),
    "a collective": (
        lambda: npdp.send(np.ones(3), 1) if npdp.rank() == 0 else npdp.allreduce(np.ones(3), algorithm="ring"),
        "rank 1 calls allreduce of 3 float64 (sum) by ring, rank 0 send or receive: the ranks do not call the same",
    ),
    "the end": (
        lambda: npdp.send(np.ones(3), 1) if npdp.rank() == 0 else None,
        "rank 0 waits for rank 1, which has left",
    ),
}


@settings(deadline=None, max_examples=40)
@given(ranks=st.integers(2, 5), messages=st.lists(st.tuples(COUNTS, COUNTS, COUNTS, st.sampled_from(DTYPES))))
def test_any_messages_in_any_order_arrive_as_they_were_sent(ranks, messages):
    """All ranks go through one list of who sends how much to whom."""

    def program():
        for salt, (source, target, count, dtype) in enumerate(messages):
            source, target = source % ranks, target % ranks
            sent = values(source, count, dtype, salt)
            if npdp.rank() == source != target:
                npdp.send(sent, target)
                assert np.array_equal(sent, values(source, count, dtype, salt))
            elif npdp.rank() == target != source:
                got = np.full(count, -99, dtype)
                npdp.receive(got, source)
                assert np.array_equal(got, sent)

    run(ranks, program)


@pytest.mark.parametrize("order", "CF")
def test_an_array_of_any_contiguous_shape_keeps_its_places(order):
    sent = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)
    sent.flags.writeable = False

    def program():
        got = np.zeros_like(sent)
        (npdp.receive if npdp.rank() else npdp.send)(got if npdp.rank() else sent, 1 - npdp.rank())
        return got

    assert np.array_equal(run(2, program)[1], sent)


def test_a_send_ends_only_when_its_receive_is_there():
    ended = []

    def program():
        if npdp.rank() == 0:
            npdp.send(np.ones(1), 1)
            ended.append(True)
            return False
        time.sleep(0.1)
        too_early = bool(ended)
        npdp.receive(np.ones(1), 0)
        return too_early

    assert run(2, program) == [False, False] and ended


def test_messages_and_collectives_take_turns():
    def program():
        number = np.array([float(npdp.rank())])
        for _ in range(3):
            npdp.allreduce(number, algorithm="ring")
            if npdp.rank() == 0:
                npdp.send(number, 1)
            elif npdp.rank() == 1:
                npdp.receive(number, 0)
            npdp.allreduce(number)
        return number[0]

    assert run(2, program) == [64.0 / 2, 64.0 / 2]


def test_what_was_begun_beside_the_program_is_done_before_a_message():
    def program():
        record(delay_s=0.02)
        sums = np.ones(1000)
        npdp.init().begin_allreduce(sums)
        got = np.zeros(1)
        (npdp.receive if npdp.rank() else npdp.send)(got if npdp.rank() else sums[:1], 1 - npdp.rank())
        return got[0]

    assert run(2, program, algorithm="ring", hosts=(0, 1))[1] == 2


@pytest.mark.parametrize("what", OTHERS)
def test_two_that_do_not_fit_are_told_so(what):
    program, said = OTHERS[what]
    with pytest.raises(CommunicationError) as caught:
        run(2, program)
    assert str(caught.value).startswith(said)


def test_ranks_that_wait_for_each_other_in_a_circle_are_told_after_the_limit():
    def program():
        npdp.init(stall_warning_s=0, stall_abort_s=0.3)
        npdp.send(np.ones(1), (npdp.rank() + 1) % 3)

    with pytest.raises(CommunicationError, match="waited for .* in send or receive; .*the limit is 0.3 s"):
        run(3, program)


@pytest.mark.parametrize(("call", "error", "said"), [
    (lambda: npdp.send(np.ones(3), 0), ValueError, "send: to must be another rank of this world of 2, got 0"),
    (lambda: npdp.receive(np.ones(3), 2), ValueError, "receive: source must be another rank of this world of 2, got 2"),
    (lambda: npdp.receive(np.ones(3), -1), ValueError, "receive: source must be another rank of this"),
    (lambda: npdp.send(np.ones(3), 1.0), TypeError, "send: to must be another rank of this world of 2, got 1.0"),
    (lambda: npdp.send([1.0], 1), TypeError, "npdp takes a NumPy array, got list"),
    (lambda: npdp.send(np.ones(9)[::2], 1), ValueError, "npdp takes a contiguous array, got strides"),
    (lambda: npdp.receive(np.frombuffer(bytes(8)), 1), ValueError, "npdp works in place, but this array is read-only"),
])  # fmt: skip
def test_what_cannot_be_sent_or_received_is_refused(call, error, said):
    with pytest.raises(error) as caught:
        run(2, lambda: call() if npdp.rank() == 0 else None)
    assert str(caught.value).startswith(said)


def test_a_rank_that_is_alone_has_nobody_to_send_to():
    with pytest.raises(ValueError, match="send: to must be another rank of this world of 1, got 0"):
        run(1, lambda: npdp.send(np.ones(1), 0))


@needs_mpi
@pytest.mark.parametrize(("fault", "said"), [
    ("both_send", "rank 0 sends 3 float64 to rank 1, rank 1 sends 3 float64 to rank 0: both would wait for ever"),
    ("sends_another_count", "rank 0 sends 3 float64 to rank 1, rank 1 receives 4 float32 from rank 0: wanted the same"),
    ("sends_to_one_that_sums", "ranks 0, 1 and 2 have waited for each other for"),
    ("sends_to_one_that_leaves", "rank 0 waits for rank 1, which has left the program"),
])  # fmt: skip
def test_under_mpi_too(fault, said):
    code, stdout, stderr = mpirun(3, "faults.py", fault)
    took = time.monotonic() - float(stdout.split()[1])
    assert code and took < 8, (code, took)
    assert stderr.count("Traceback (most recent call last)") == 1 and said in stderr, stderr
