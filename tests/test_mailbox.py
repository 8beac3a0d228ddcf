"""Small messages through memory, subworlds, and waiting for any of several messages."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import run

import npdp
from npdp import kernels
from npdp.comm import mailbox
from npdp.comm.errors import CommunicationError
from npdp.parallel.world import init

needs_c = pytest.mark.skipif(kernels.compiled is None, reason="mailboxes are C; there was no compiler")


def boxes():
    """Return this rank's two lines of mailboxes."""
    world = init()
    subworlds = [world.transport.subworld(range(world.world_size)) for _ in range(2)]
    memory = world.shared_once(mailbox.nbytes(world.world_size), np.dtype(np.uint8))
    assert memory is not None
    memory[:] = 0
    world.barrier()
    return mailbox.lines(subworlds, memory)


def subworlds():
    world = init()
    return [world.transport.subworld(range(world.world_size)) for _ in range(2)]


LINES = [pytest.param(boxes, marks=needs_c), subworlds]


def payload(source, target, number, count):
    return (np.arange(count) * 3 + source * 1000 + target * 100 + number).astype(np.int64)


@pytest.mark.parametrize("make", LINES)
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_messages_of_all_sizes_arrive_in_order_on_each_line(make, world_size):
    sizes = [1, 0, 253, 254, 255, 1023, 1024, 1025, 3000, 0, 16]  # a box holds 254 numbers; 1024 go another way

    def program():
        lines, rank, peers = make(), npdp.rank(), range(npdp.world_size())
        handles = []
        for number, count in enumerate(sizes):
            for which, line in enumerate(lines):
                for peer in peers:
                    handles.append((line, line.send(payload(rank, peer, number + which, count), peer)))
        for number, count in enumerate(sizes):
            for which, line in enumerate(lines):
                for peer in peers:
                    got = np.zeros(count, np.int64)
                    line.wait(line.receive(got, peer))
                    assert np.array_equal(got, payload(peer, rank, number + which, count))
        for line, handle in handles:
            line.wait(handle)

    run(world_size, program)


@needs_c
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_receives_may_be_posted_before_or_after(data):
    """Whatever the order of sends, receives and waits on either side: pairs match in order."""
    counts = data.draw(st.lists(st.integers(0, 700), min_size=1, max_size=8))
    early = data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)))

    def program():
        line = boxes()[0]
        if npdp.rank() == 0:
            for handle in [line.send(payload(0, 1, i, count), 1) for i, count in enumerate(counts)]:
                line.wait(handle)
            return
        waiting = []
        for number, count in enumerate(counts):
            got = np.zeros(count, np.int64)
            waiting.append((got, line.receive(got, 0)))
            if early[number]:
                for _, handle in waiting:
                    line.wait(handle)
        for number, (got, handle) in enumerate(waiting):
            line.wait(handle)
            assert np.array_equal(got, payload(0, 1, number, counts[number]))

    run(2, program)


@pytest.mark.parametrize("make", LINES)
def test_while_a_rank_waits_on_one_line_its_messages_on_the_other_go_on(make):
    """The second message finds the box full; only when it has come too is there an answer."""

    def program():
        requests, replies = make()
        got = np.zeros(1, np.int64)
        if npdp.rank() == 0:
            handles = [requests.send(np.array([number]), 1) for number in range(3)]
            replies.wait(replies.receive(got, 1))
            for handle in handles:
                requests.wait(handle)
            return int(got[0])
        for _ in range(3):
            requests.wait(requests.receive(got, 0))
        replies.wait(replies.send(got + 40, 0))
        return None

    assert run(2, program, limit_s=5)[0] == 42


@pytest.mark.parametrize("make", LINES)
def test_whichever_message_comes_first_ends_the_wait_for_any(make):
    def program():
        line = make()[0]
        rank, world_size = npdp.rank(), npdp.world_size()
        if rank == 0:
            coming = {peer: (got := np.zeros(2, np.int64), line.receive(got, peer)) for peer in range(1, world_size)}
            order = []
            while coming:
                peers = list(coming)
                peer = peers[line.wait_any([coming[peer][1] for peer in peers])]
                assert np.array_equal(coming.pop(peer)[0], [peer, 7])
                order.append(peer)
            return order
        time.sleep(0.15 * (world_size - rank))  # the last rank comes first
        line.wait(line.send(np.array([rank, 7]), 0))
        return None

    assert run(4, program)[0] == [3, 2, 1]


@needs_c
def test_who_waits_uses_no_core():
    def program():
        line = boxes()[0]
        if npdp.rank() == 0:
            time.sleep(1)
            line.wait(line.send(np.zeros(1, np.int64), 1))
            return 0.0
        before = time.thread_time()
        line.wait(line.receive(np.zeros(1, np.int64), 0))
        return time.thread_time() - before

    assert run(2, program)[1] < 0.2


@needs_c
@pytest.mark.parametrize(("sent", "wanted"), [(3, 2), (2, 3), (0, 2), (2, 0), (300, 2), (253, 300), (300, 253)])
def test_a_message_of_another_size_is_refused(sent, wanted):
    def program():
        line = boxes()[0]
        if npdp.rank() == 0:
            line.wait(line.send(np.zeros(sent, np.int64), 1))
            return
        line.wait(line.receive(np.zeros(wanted, np.int64), 0))

    with pytest.raises(CommunicationError, match=f"wanted {wanted * 8} bytes from rank 0"):
        run(2, program)


@pytest.mark.parametrize("make", LINES)
def test_waiting_for_a_rank_that_has_left_ends(make):
    def program():
        line = make()[0]
        if npdp.rank() == 1:
            line.wait_any([line.receive(np.zeros(1, np.int64), 0)])

    before = time.monotonic()
    with pytest.raises(CommunicationError, match="rank 1 waits for rank 0, which has left"):
        run(2, program)
    assert time.monotonic() - before < 5


@needs_c
def test_two_threads_of_a_rank_share_a_line_one_sends_and_one_receives():
    def program():
        world = init()
        transports = [world.transport.subworld(range(2)) for _ in range(2)]
        memory = world.shared_once(mailbox.nbytes(2), np.dtype(np.uint8))
        memory[:] = 0
        world.barrier()
        rank, wrong = npdp.rank(), []

        def answer():
            requests, replies = mailbox.lines(transports, memory)
            for number in range(200):
                got = np.zeros(1, np.int64)
                peer = number % 2
                requests.wait(requests.receive(got, peer))
                replies.wait(replies.send(got + rank, peer))

        server = threading.Thread(target=answer)
        server.start()
        requests, replies = mailbox.lines(transports, memory)
        for number in range(100):
            for peer in range(2):
                requests.wait(requests.send(np.array([number]), peer))
                got = np.zeros(1, np.int64)
                replies.wait(replies.receive(got, peer))
                wrong += [(number, peer)] * int(got[0] != number + peer)
        server.join()
        return wrong

    assert run(2, program) == [[], []]


def test_a_subworld_is_a_world_of_its_own():
    """Its messages do not meet those of the whole, nor those of another subworld of the same ranks."""

    def program():
        transport = init().transport
        rank = transport.rank
        odd = [1, 3]
        if rank not in odd:
            return None
        first, second = transport.subworld(odd), transport.subworld(odd)
        assert (first.rank, first.world_size) == (odd.index(rank), 2)
        peer = 1 - first.rank
        handles = [t.send(np.array([number + 10 * rank]), p) for number, (t, p) in
                   enumerate([(transport, odd[peer]), (first, peer), (second, peer)])]  # fmt: skip
        got = []
        for t, p in [(second, peer), (first, peer), (transport, odd[peer])]:
            value = np.zeros(1, np.int64)
            t.wait(t.receive(value, p))
            got.append(int(value[0]))
        for t, handle in zip([transport, first, second], handles):
            t.wait(handle)
        return got

    results = run(4, program)
    assert results[1] == [32, 31, 30] and results[3] == [12, 11, 10]


def test_a_subworld_may_reorder_and_have_subworlds():
    def program():
        transport = init().transport
        turned = transport.subworld([2, 0, 1])
        pair = turned.subworld([0, 2]) if turned.rank != 1 else None  # ranks 2 and 1 of the whole
        if pair is None:
            return turned.rank, None
        value, peer = np.array([transport.rank]), 1 - pair.rank
        handle = pair.send(value, peer)
        got = np.zeros(1, np.int64)
        pair.wait(pair.receive(got, peer))
        pair.wait(handle)
        return turned.rank, int(got[0])

    assert run(3, program) == [(1, None), (2, 2), (0, 1)]
