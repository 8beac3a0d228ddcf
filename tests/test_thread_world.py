"""A world of threads: what a transport promises, and how a world ends when a rank fails or leaves."""

import sys
import threading
import time

import numpy as np
import pytest
from worlds import run

import npdp
from npdp.comm import waiting
from npdp.comm.errors import CommunicationError, WorldEnded
from npdp.comm.threads import run_threads
from npdp.comm.transport import NoTransport
from npdp.comm.waiting import Patience, wait_until
from npdp.parallel.world import init


def test_each_rank_returns_its_own_result_in_rank_order():
    assert run(4, lambda: (npdp.rank(), npdp.world_size())) == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert run(3, lambda a, b: a + b + npdp.rank(), 10, 100) == [110, 111, 112]


def test_a_world_needs_a_rank():
    with pytest.raises(ValueError, match="at least 1 rank, got 0"):
        npdp.run_ranks(0, lambda: None)


@pytest.mark.parametrize("algorithm", ["rign", "mpi", ""])
def test_an_algorithm_that_threads_do_not_have_is_refused(algorithm):
    with pytest.raises(ValueError, match=f"no algorithm '{algorithm}' among threads; there are auto, naive, ring, "):
        npdp.run_ranks(2, lambda: None, algorithm=algorithm)


def test_init_inside_is_the_same_world_each_time_and_outside_another():
    outside = init()
    for world in run(2, lambda: (init(), init())):
        assert world[0] is world[1] is not outside
    assert init() is outside


def test_messages_between_two_ranks_arrive_in_the_order_in_which_they_were_sent():
    def program(transport):
        if transport.rank == 0:
            handles = [transport.send(np.array([i]), 1) for i in range(50)]
            for handle in reversed(handles):
                transport.wait(handle)
            return None
        got = [np.empty(1, np.int64) for _ in range(50)]
        for handle in [transport.receive(buffer, 0) for buffer in got]:
            transport.wait(handle)
        return [int(buffer[0]) for buffer in got]

    assert run_threads(2, program)[1] == list(range(50))


def test_a_send_is_not_buffered_and_ends_only_when_its_receive_is_there():
    ended = threading.Event()

    def program(transport):
        if transport.rank == 0:
            transport.wait(transport.send(np.zeros(1), 1))
            ended.set()
            return None
        time.sleep(0.1)
        before = ended.is_set()
        transport.wait(transport.receive(np.empty(1), 0))
        return before, ended.wait(5)

    assert run_threads(2, program)[1] == (False, True)


@pytest.mark.parametrize("way", ["one", "any"])
def test_the_time_in_which_a_rank_waits_is_taken(way):
    def program(transport):
        if transport.rank == 0:
            time.sleep(0.1)
            transport.wait(transport.send(np.zeros(1), 1))
            return None
        receive = transport.receive(np.zeros(1), 0)
        transport.wait(receive) if way == "one" else transport.wait_any([receive])
        return transport.wait_s

    assert run_threads(2, program)[1] > 0.05


def test_a_message_of_another_size_is_an_error_on_both_sides():
    def program(transport):
        other = 1 - transport.rank
        handle = transport.send(np.zeros(3), other) if transport.rank == 0 else transport.receive(np.empty(2), other)
        with pytest.raises(CommunicationError) as caught:
            transport.wait(handle)
        return str(caught.value)

    text = "rank 1: wanted 16 bytes from rank 0, got 24: the two ranks do not call the same collective with the same "
    assert all(got.startswith(text) for got in run_threads(2, program))


def test_an_exception_on_one_rank_ends_the_others_inside_a_collective_and_is_raised():
    after = []

    def program():
        if npdp.rank() == 1:
            time.sleep(0.05)
            raise KeyError("rank 1's own")
        npdp.allreduce(np.ones(8))
        after.append(npdp.rank())

    with pytest.raises(KeyError, match="rank 1's own") as caught:
        run(4, program)
    assert caught.value.npdp_rank == 1
    assert after == []


def test_the_first_exception_speaks():
    def program():
        time.sleep(0.2 * npdp.rank())
        raise ValueError(f"rank {npdp.rank()}")

    with pytest.raises(ValueError, match="rank 0"):
        run(3, program)


def test_the_end_of_the_world_is_no_exception_that_a_handler_would_keep():
    swallowed, seen = [], []

    def program():
        if npdp.rank() == 0:
            time.sleep(0.05)
            raise OSError("disk full")
        try:
            npdp.barrier()
        except Exception as error:
            swallowed.append(error)
        except BaseException as error:
            seen.append(type(error))
            raise

    with pytest.raises(OSError, match="disk full"):
        run(3, program)
    assert swallowed == [] and seen == [WorldEnded] * 2


def test_a_rank_that_leaves_early_is_missed_by_name():
    def program():
        if npdp.rank() != 1:
            npdp.allreduce(np.ones(4), algorithm="ring")

    with pytest.raises(CommunicationError, match=r"rank [02] waits for rank 1, which has left: the ranks do not"):
        run(3, program)


def test_a_rank_may_leave_while_others_still_talk_to_each_other():
    def program(transport):
        if transport.rank == 2:
            return None
        if transport.rank == 0:
            time.sleep(0.15)  # longer than a rank waits before it looks who has left
        buffer = np.array([transport.rank])
        transport.wait(transport.send(buffer, 1) if transport.rank == 0 else transport.receive(buffer, 0))
        return int(buffer[0])

    assert run_threads(3, program) == [0, 0, None]


@pytest.mark.parametrize("algorithm", ["naive", "ring", "halving_doubling", "tree"])
def test_different_counts_are_an_error_and_no_hang(algorithm):
    text = r"rank \d calls allreduce of \d+ float64 \(sum\) by \w+, rank \d allreduce of \d+ float64|has left"
    with pytest.raises(CommunicationError, match=text):
        run(3, lambda: npdp.allreduce(np.ones(12 + 3 * npdp.rank()), algorithm=algorithm))


@pytest.mark.parametrize(
    ("sent", "said"), [((3, "f8"), "got 24:"), ((1, "f8"), "got 8:"), ((2, "i8"), "got 16 of another dtype")]
)
def test_a_message_of_another_size_or_dtype_is_refused(sent, said):
    """One that belongs to no collective, where calls are compared before."""

    def program():
        transport = init().transport
        if npdp.rank() == 0:
            transport.wait(transport.send(np.ones(*sent), 1))
        else:
            transport.wait(transport.receive(np.ones(2), 0))

    with pytest.raises(CommunicationError, match=f"rank 1: wanted 16 bytes.* from rank 0, {said}"):
        run(2, program)


def test_different_dtypes_are_an_error_and_no_hang():
    with pytest.raises(CommunicationError):
        run(2, lambda: npdp.allreduce(np.ones(6, "float64" if npdp.rank() else "float32")))


def test_different_collectives_are_an_error_and_no_hang():
    def program():
        if npdp.rank() == 0:
            npdp.broadcast(np.ones(12), algorithm="naive")
        else:
            npdp.allreduce(np.ones(12), algorithm="ring")

    with pytest.raises(CommunicationError):
        run(3, program)


def test_one_collective_more_on_one_rank_is_an_error_and_no_hang():
    def program():
        for _ in range(3 + (npdp.rank() == 2)):
            npdp.allreduce(np.ones(5), algorithm="halving_doubling")

    with pytest.raises(CommunicationError, match=r"rank 2 waits for rank \d, which has left"):
        run(4, program)


def test_system_exit_passes_through():
    with pytest.raises(SystemExit) as caught:
        run(3, lambda: sys.exit(3))
    assert caught.value.code == 3


def test_a_second_world_works_after_one_has_failed():
    with pytest.raises(ZeroDivisionError):
        run(3, lambda: 1 // npdp.rank())
    assert run(3, lambda: npdp.global_mean(npdp.rank(), 1)) == [1.0] * 3


def test_a_world_can_start_another_inside():
    assert run(2, lambda: [*run(3, npdp.world_size), npdp.world_size()]) == [[3, 3, 3, 2]] * 2


def test_messages_of_two_worlds_at_once_do_not_meet():
    def many():
        total = np.zeros(3)
        for _ in range(20):
            part = np.full(3, float(npdp.rank()))
            npdp.allreduce(part, algorithm="ring")
            total += part
        return float(total[0])

    outcomes = [None, None]

    def start(place, world_size):
        outcomes[place] = run(world_size, many)

    threads = [threading.Thread(target=start, args=arguments) for arguments in ((0, 3), (1, 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[60.0] * 3, [120.0] * 4]


def test_a_rank_alone_has_nobody_to_talk_to():
    alone = NoTransport()
    assert (alone.rank, alone.world_size) == (0, 1)
    with pytest.raises(ValueError, match="rank 0 is alone; it cannot send to rank 1"):
        alone.send(np.ones(1), 1)
    with pytest.raises(ValueError, match="alone"):
        alone.wait(None)


def test_threads_have_no_native_allreduce_and_say_so():
    def program():
        with pytest.raises(NotImplementedError, match="'mpi' is MPI's own all-reduce: a world of threads has none"):
            npdp.allreduce(np.ones(2), algorithm="mpi")
        npdp.allreduce(np.ones(2), algorithm="ring")

    run(2, program)


# Waiting, as ranks that are processes do it
def test_waiting_in_vain_ends_with_the_error(monkeypatch):
    monkeypatch.setattr(waiting, "CHECK_AFTER_S", 0.01)
    with pytest.raises(CommunicationError, match="it has left"):
        wait_until(lambda: False, Patience(3, 1), lambda: CommunicationError("it has left"))


def test_a_message_that_came_just_before_its_sender_left_still_counts(monkeypatch):
    """The last message and the notice of leaving may both come between two looks."""
    monkeypatch.setattr(waiting, "CHECK_AFTER_S", 0.01)
    come = []

    def who_left():
        come.append("message")
        return CommunicationError("it has left")

    looks = []

    def done():
        looks.append(bool(come))
        return bool(come)

    wait_until(done, Patience(3, 0), who_left)
    assert looks.count(True) == 1  # a request that is done must not be asked again: MPI has forgotten it


def test_a_long_wait_sleeps_between_looks():
    """Where ranks outnumber cores, looking all the time would keep the awaited rank from running."""
    start, looks = time.monotonic(), []

    def done():
        looks.append(None)
        return time.monotonic() - start > 0.1

    wait_until(done, Patience(3, 2), lambda: None)
    assert len(looks) < 5 + 0.1 / waiting.SHORTEST_SLEEP_S / 2


def test_messages_of_another_dtype_are_an_error_though_the_bytes_are_as_many():
    def program():
        npdp.allreduce(np.zeros(4, np.float32 if npdp.rank() else np.int32), algorithm="tree")

    with pytest.raises(CommunicationError, match=r"of 4 \w+ \(sum\) by tree, rank \d allreduce of 4 \w+|has left"):
        npdp.run_ranks(2, program)
