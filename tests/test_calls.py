"""Ranks that do not call the same collectives by messages are told so: nobody waits, and nothing is written."""

import contextlib
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from launching import is_intel_mpi, mpirun, needs_mpi
from needs import needs_shared_memory, through_shared_memory
from worlds import run

import npdp
from npdp.comm import calls
from npdp.comm.calls import KEPT, Calls
from npdp.comm.errors import CommunicationError
from npdp.comm.threads import run_threads
from npdp.parallel.world import init

NOT_THE_SAME = "do not call the same collective with the same count and dtype"

# Each of these left ranks waiting for each other, with nothing on its way; by whom it is called, and how
DIFFERENT = {
    "algorithms": (3, lambda rank: npdp.allreduce(np.ones(10), "sum", "tree" if rank == 0 else "ring")),
    "schedules": (3, lambda rank: npdp.allreduce(np.ones(10), "sum", "naive" if rank == 2 else "ring")),
    "roots": (2, lambda rank: npdp.broadcast(np.ones(200_000), rank, "naive")),
    "roots of a tree": (3, lambda rank: npdp.broadcast(np.ones(200_000), rank % 2, "tree")),
    "counts": (3, lambda rank: npdp.allreduce(np.ones(10 if rank == 0 else 10**6), "sum", "ring")),
    "ops": (3, lambda rank: npdp.allreduce(np.ones(10), "max" if rank else "sum", "naive")),
    "a mean": (3, lambda rank: npdp.allreduce(np.ones(10), "mean" if rank else "sum", "halving_doubling")),
    "dtypes": (2, lambda rank: npdp.allreduce(np.ones(10, "i8" if rank else "f8"), "sum", "ring")),
    "orders": (3, lambda rank: npdp.allreduce(np.ones((2, 5), order="F" if rank == 1 else "C"), "sum", "ring")),
    "orders of a broadcast": (2, lambda rank: npdp.broadcast(np.ones((2, 5), order="CF"[rank]), 0, "tree")),
    "collectives": (4, lambda rank: (npdp.allreduce if rank else npdp.reduce_scatter)(np.ones(500), "sum", "ring")),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_ranks_on_threads_that_call_different_collectives_are_told_so(what):
    ranks, program = DIFFERENT[what]
    with pytest.raises(CommunicationError, match=NOT_THE_SAME):
        run(ranks, lambda: program(npdp.rank()))


@pytest.mark.parametrize("algorithm", ["ring", through_shared_memory])
def test_a_barrier_is_called_a_barrier(algorithm):
    """And it is another collective than a sum of one number."""

    def program():
        world = init()
        world.allreduce(np.ones(1, np.int64), "sum", algorithm)
        (world.barrier if world.rank else lambda: world.sum(0))()

    with pytest.raises(CommunicationError, match=r"rank \d (calls )?barrier\b.*NOT".replace("NOT", NOT_THE_SAME)):
        run(2, program, hosts=None if algorithm == "shared_memory" else (0, 1))


@needs_shared_memory
def test_taking_shared_memory_is_told_as_that():
    def program():
        npdp.barrier()
        (npdp.barrier if npdp.rank() else lambda: npdp.shared_empty(9))()

    with pytest.raises(CommunicationError, match=r"barrier, rank 0 shared_empty|rank 0 calls shared_empty, .* barrier"):
        run(2, program)


def test_a_first_collective_that_differs_is_told_as_that():
    with pytest.raises(CommunicationError, match=r"by ring, rank 0 its first|rank 0 calls its first collective"):
        run(2, lambda: npdp.allreduce(np.ones(9), algorithm="ring" if npdp.rank() else "auto"))


@needs_shared_memory
def test_a_mean_does_not_meet_a_sum_in_shared_memory():
    with pytest.raises(CommunicationError, match=r"of 9 float32 \((mean|sum)\), rank . allreduce of 9 float32 \((m|s)"):
        run(2, lambda: npdp.allreduce(np.ones(9, np.float32), "mean" if npdp.rank() else "sum"))


@pytest.mark.parametrize("algorithm", [through_shared_memory, "hierarchical"])
@pytest.mark.parametrize(
    "call",
    [npdp.allreduce, npdp.reduce_scatter, npdp.broadcast, lambda array: npdp.allgather(array.reshape(-1)[:6], array)],
)
def test_ranks_whose_arrays_lie_in_different_orders_are_told_so(call, algorithm):
    hosts = None if algorithm == "shared_memory" else (0, 0, 1, 1)  # where messages between hosts are alike

    def program():
        call(np.ones((3, 4) if hosts is None else (4, 6), order="CF"[npdp.rank() % 2]))

    with pytest.raises(CommunicationError, match=f"in Fortran order.*{NOT_THE_SAME}"):
        npdp.run_ranks(2 if hosts is None else 4, program, algorithm=algorithm, hosts=hosts)


@needs_mpi
@pytest.mark.parametrize(
    ("fault", "wanted", "got"),
    [
        ("other_algorithm", "allreduce of 10 float64 (sum) by tree", "allreduce of 10 float64 (sum) by ring"),
        ("far_ahead", "broadcast of 8 float64 from rank 0 by tree", "broadcast of 9 float64 from rank 0 by tree"),
        ("other_root", "broadcast of 200000 float64 from rank 0 by", "broadcast of 200000 float64 from rank 1 by"),
        ("mpi_on_one", "allreduce of 10 float64 (sum) by mpi", "its first collective that may share memory"),
        ("wrong_count", "allreduce of 10 float64 (sum) by naive", "allreduce of 11 float64 (sum) by naive"),
    ],
)
def test_ranks_under_mpi_that_call_different_collectives_are_told_so(fault, wanted, got):
    if fault == "other_root" and is_intel_mpi():
        pytest.skip("Intel MPI takes large arrays too before anybody wants them: no rank waits for another")
    code, stdout, stderr = mpirun(3, "faults.py", fault)
    took = time.monotonic() - float(stdout.split()[1])
    assert code == 1 and took < 8, (code, took)
    assert stderr.count("Traceback (most recent call last)") == 1 and NOT_THE_SAME in stderr
    assert wanted in stderr and got in stderr


def test_calls_with_one_tag_are_told_apart_all_the_same(monkeypatch):
    monkeypatch.setattr(calls, "_code", len)
    with pytest.raises(CommunicationError, match=r"rank \d calls allreduce of \d float64 \(sum\) by ring, rank \d all"):
        run(2, lambda: npdp.allreduce(np.ones(npdp.rank() + 2), "sum", "ring"))


@needs_mpi
def test_a_message_larger_than_wanted_is_not_written():
    code, stdout, stderr = mpirun(2, "faults.py", "larger_than_wanted")
    assert code == 0, stderr
    assert "rank 1 is told so and has 0 elements overwritten" in stdout


@pytest.mark.parametrize("beside_the_program", [False, True])
def test_after_one_that_failed_there_are_no_more(beside_the_program):
    """Its messages may still come, into arrays that are something else by then."""

    def program():
        world, array = init(), np.ones(1000 + npdp.rank())
        with pytest.raises(CommunicationError, match=NOT_THE_SAME):
            if beside_the_program:
                world.begin_allreduce(array)
                world.finish()
            world.allreduce(array)
        with pytest.raises(CommunicationError, match="of 8 int32 .* after a collective that failed: rank .* calls"):
            npdp.allreduce(np.ones(8, np.int32), algorithm="ring")

    run(2, program, algorithm="ring")


def test_one_that_fails_as_it_is_begun_beside_the_program_is_the_last_as_well():
    may_leave = threading.Event()

    def program():
        world, array = init(), np.ones(1000)
        world.allreduce(array)
        if world.rank == 1:
            assert may_leave.wait(10)
            return
        send = world.transport.send

        def interrupted(*arguments):
            send(*arguments)
            raise TimeoutError("by a handler")

        world.transport.send = interrupted
        with pytest.raises(TimeoutError):
            world.begin_allreduce(array)
        world.transport.send = send
        with pytest.raises(CommunicationError, match="after a collective that failed: by a handler"):
            world.allreduce(array)
        may_leave.set()

    run(2, program, hosts=(0, 1))


@pytest.mark.parametrize("algorithm", ["ring", "tree", "naive", "halving_doubling"])
def test_an_array_that_messages_may_still_write_to_is_kept(algorithm):
    """MPI writes into it when it comes: where that is freed, into what has taken its place."""
    may_leave = threading.Event()

    def interrupt(peers):
        raise TimeoutError("by a handler")

    def program():
        world, array = init(), np.ones(100_000)
        if world.rank == 1:
            assert may_leave.wait(10)
            return
        watched, world.transport.ended = weakref.ref(array), interrupt
        with contextlib.suppress(TimeoutError):
            npdp.allreduce(array, algorithm=algorithm)
        del array
        gc.collect()
        may_leave.set()
        assert watched() is not None

    run(2, program)


@needs_shared_memory
@pytest.mark.parametrize(("collective", "algorithm"), [
    ("allreduce", None), ("allreduce", "tree"), ("allreduce", "ring"), ("allreduce", "halving_doubling"),
    ("broadcast", None), ("broadcast", "tree"), ("reduce_scatter", None), ("reduce_scatter", "ring"),
])  # fmt: skip
@pytest.mark.parametrize(("hosts", "odd"), [((0, 1, 1, 0), 0), ((0, 1, 0, 1), 0), ((0, 1, 0, 1), 1)], ids=str)
def test_a_rank_that_shares_memory_while_others_call_by_messages_is_found(hosts, odd, collective, algorithm):
    """Only ranks of its host see it there, and these may all wait for messages from other hosts."""

    def program():
        npdp.allreduce(np.ones(100))
        npdp.shared_empty(4)
        if npdp.rank() == odd:
            npdp.shared_empty(10)
        else:
            getattr(npdp, collective)(np.ones(100), algorithm=algorithm)

    with pytest.raises(CommunicationError, match="do not call the same collective"):
        run(4, program, hosts=hosts)


@needs_shared_memory
@pytest.mark.parametrize("way", ["one", "any"])
def test_a_rank_that_waits_for_a_message_from_one_that_shares_memory_is_told_so(way):
    def program():
        transport = init().transport
        npdp.barrier()
        if npdp.rank() == 0:
            npdp.barrier()
        elif way == "one":
            transport.wait(transport.receive(np.zeros(1), 0))
        else:
            transport.wait_any([transport.receive(np.zeros(1), 0)])

    with pytest.raises(CommunicationError, match="rank 1 waits .* rank 0, which is in a collective through shared"):
        run(2, program, limit_s=5)


def while_rank_0_waits(algorithm, do):
    """Have rank 0 do this while it waits in an all-reduce, as a signal's handler may, and then call another."""
    may_call = threading.Event()

    def program():
        world, array = init(), np.ones(100_000)
        npdp.allreduce(array, algorithm=algorithm)
        if npdp.rank() == 1:
            assert may_call.wait(10)
            with pytest.raises(CommunicationError, match="rank 1 waits for rank 0, which has left"):
                npdp.allreduce(array, algorithm=algorithm)
            return
        look, world.transport.ended = world.transport.ended, lambda peers: do()
        with pytest.raises((TimeoutError, CommunicationError), match="by a handler|not done"):
            npdp.allreduce(array, algorithm=algorithm)
        world.transport.ended = look
        with pytest.raises(CommunicationError, match="is not done|after a collective that failed: "):
            npdp.allreduce(array, algorithm=algorithm)
        may_call.set()

    run(2, program)


by_each_way = pytest.mark.parametrize("algorithm", [through_shared_memory, "ring", "tree"])


@by_each_way
def test_after_one_that_was_interrupted_there_are_no_more(algorithm):
    """The others wait for the rest of it; they would take the next one for that, or wait for ever."""

    def interrupt():
        raise TimeoutError("by a handler")

    while_rank_0_waits(algorithm, interrupt)


@by_each_way
def test_one_within_another_is_refused(algorithm):
    while_rank_0_waits(algorithm, lambda: npdp.allreduce(np.ones(100_000), algorithm=algorithm))


def test_an_interrupt_without_words_is_a_failure_too():
    made = Calls(0)
    made.fail(KeyboardInterrupt())
    with pytest.raises(CommunicationError, match="rank 0 calls a after a collective that failed: KeyboardInterrupt"):
        made.begin("a")


def test_what_came_just_before_its_sender_left_has_come():
    late, gone = threading.Event(), threading.Event()

    def program(transport):
        if transport.rank == 1:
            late.wait()
            transport.send(np.ones(3), 0)
            transport.world.left.add(1)
            gone.set()
            return None
        look = transport.ended

        def ended(peers):  # looked at when the wait has timed out
            late.set()
            gone.wait()
            return look(peers)

        transport.ended, into = ended, np.zeros(3)
        transport.wait(transport.receive(into, 1))
        return into.tolist()

    assert run_threads(2, program)[0] == [1, 1, 1]


def test_notes_are_compared_by_number():
    mine, theirs = Calls(0), Calls(1)
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


def test_messages_of_calls_in_a_row_are_told_apart():
    made = Calls(0)
    tags = [made.begin("the same").tag for _ in range(3)]
    assert len(set(tags)) == 3
    assert Calls(1).begin("the same").tag == tags[0]
    assert Calls(0, range(7, 9)).begin("the same").tag in (7, 8)


def test_a_call_that_is_being_begun_on_another_thread_is_not_noted_yet(monkeypatch):
    """A rank that waits reads others' notes, and compares, while they go on."""
    made, code = Calls(0), calls._code
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
    made = Calls(0)
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
