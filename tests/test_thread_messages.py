"""What a transport of threads promises: messages in order, unbuffered, of the wanted size, and a wait that ends."""

import threading
import time

import numpy as np
import pytest
from worlds import NOT_THE_SAME, run

import npdp
from npdp.comm.errors import CommunicationError
from npdp.comm.threads import run_threads
from npdp.comm.transport import NoTransport


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


@pytest.mark.parametrize(
    ("sent", "said"), [((3, "f8"), "got 24:"), ((1, "f8"), "got 8:"), ((2, "i8"), "got 16 of another dtype")]
)
def test_a_message_of_another_size_or_dtype_is_an_error_on_both_sides(sent, said):
    """One that belongs to no collective, where calls are compared before."""

    def program(transport):
        other = 1 - transport.rank
        handle = transport.send(np.ones(*sent), other) if transport.rank == 0 else transport.receive(np.ones(2), other)
        with pytest.raises(CommunicationError, match=f"^rank 1: wanted 16 bytes.* from rank 0, {said}.*") as caught:
            transport.wait(handle)
        return str(caught.value)

    for text in run_threads(2, program):
        assert text.endswith(f"the two ranks {NOT_THE_SAME}")


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
