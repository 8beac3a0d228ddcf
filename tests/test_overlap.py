"""Work beside the program is done in the order in which it was begun, by a thread that loses no error."""

import threading
import time
import weakref
from unittest import mock

import numpy as np
import pytest
from worlds import run

import npdp
from npdp.collectives import overlap as overlap_module
from npdp.collectives.overlap import Overlap
from npdp.parallel.world import init


def ignore(what):
    """Neither wait for a message nor look at a failure."""


def here():
    return threading.current_thread().name


def test_work_goes_on_in_the_order_in_which_it_was_begun_on_another_thread():
    may_go_on, seen = threading.Event(), []

    def wait(message):
        seen.append((message, here()))
        assert may_go_on.wait(20)

    def work(number):
        for part in range(3):
            seen.append((number, part, here()))
            yield f"message {number}.{part}" if part else None

    overlap = Overlap(ignore)
    for number in range(3):
        overlap.begin(work(number), wait)
    assert overlap.busy
    may_go_on.set()
    overlap.finish()
    assert not overlap.busy
    thread = "npdp overlap"
    expected = [
        entry
        for number in range(3)
        for entry in ((number, 0, here() if number == 0 else thread), (number, 1, thread),
                      (f"message {number}.1", thread),
                      (number, 2, thread), (f"message {number}.2", thread))
    ]  # fmt: skip
    assert seen == expected


def test_what_can_be_done_without_waiting_is_done_at_once_where_nothing_is_before_it():
    waited, seen = [], []

    def work(number):
        seen.append((number, here()))
        yield f"message {number}"
        seen.append((number, here()))

    overlap = Overlap(ignore)
    for number in range(3):
        overlap.begin(work(number), waited.append)
        assert seen[-1] == (number, here())
        overlap.finish()
        assert seen[-1] == (number, "npdp overlap")
    overlap.begin(iter(()), waited.append)  # nothing to do
    overlap.finish()
    assert waited == ["message 0", "message 1", "message 2"]


def test_finish_may_be_called_again_where_it_was_interrupted():
    overlap, slow, waited = Overlap(ignore), threading.Event(), []
    wait_for = overlap_module._Done.wait_for

    def interrupted(done, count):
        """Ctrl-C when the first of two is done, and has been seen to be."""
        wait_for(done, 1)
        raise KeyboardInterrupt

    overlap.begin(iter(()), ignore)
    overlap.begin(iter(["message"]), lambda message: waited.append(slow.wait(5)))
    with mock.patch.object(overlap_module._Done, "wait_for", interrupted), pytest.raises(KeyboardInterrupt):
        overlap.finish()
    assert overlap.busy
    threading.Timer(0.1, slow.set).start()
    overlap.finish()
    assert waited == [True] and not overlap.busy
    with mock.patch.object(overlap_module._Done, "wait_for", interrupted), pytest.raises(KeyboardInterrupt):
        overlap.finish()
    overlap.finish()  # there is nothing left to wait for


def test_finish_says_how_long_it_had_to_wait():
    overlap = Overlap(ignore)
    overlap.begin(iter([0.05]), time.sleep)
    assert 0.02 < overlap.finish() < 5
    assert overlap.finish() < 0.02


def test_a_failure_is_raised_where_the_program_waits_nothing_behind_it_is_done_and_the_thread_lives_on():
    failures, done = [], []
    overlap = Overlap(failures.append)

    def fail():
        yield None
        raise ValueError("first")

    def second():
        yield None
        done.append("second")

    overlap.begin(fail(), ignore)
    overlap.begin(second(), ignore)
    with pytest.raises(ValueError, match="first"):
        overlap.finish()
    assert [str(failure) for failure in failures] == ["first"]
    overlap.begin((done.append(number) for number in range(2)), ignore)
    overlap.finish()
    assert done == [0, 1]


def test_a_failure_before_anything_is_waited_for_is_raised_at_once_and_the_thread_lives_on():
    overlap, done = Overlap(ignore), []
    with pytest.raises(ZeroDivisionError):
        overlap.begin((1 / number for number in (0,)), ignore)
    overlap.finish()
    overlap.begin((done.append(number) for number in range(2)), ignore)
    overlap.finish()
    assert done == [0, 1]


def test_its_thread_keeps_nothing_of_what_is_done_and_ends_with_it():
    overlap, message = Overlap(ignore), np.empty(1)
    kept = weakref.ref(message)
    overlap.begin(iter([message]), ignore)
    overlap.finish()
    del message
    assert kept() is None
    thread = overlap._thread
    del overlap
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize(("hosts", "late"), [((0, 0, 1, 1), (2, 3)), ((0, 0, 1, 1), (1,)), ((0, 0, 1), (2,))], ids=str)
@pytest.mark.parametrize("count", [8, 8192, 65536])
def test_nobody_waits_where_an_all_reduce_begins(hosts, late, count):
    def program():
        world = init()
        buffer = npdp.shared_empty(count, np.float32)
        buffer[:] = 1 + world.rank
        world.allreduce(np.zeros(count, np.float32))  # what is made the first time
        world.barrier()
        if world.rank in late:
            time.sleep(0.5)
        before = time.perf_counter()
        world.begin_allreduce(buffer)
        taken = time.perf_counter() - before
        world.finish()
        return taken < 0.25, buffer[0] == buffer[-1] == len(hosts) * (len(hosts) + 1) // 2

    assert run(len(hosts), program, hosts=hosts, algorithm="hierarchical") == [(True, True)] * len(hosts)
