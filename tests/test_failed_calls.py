"""After a collective that failed, or that was interrupted, there are no more: its messages may still come."""

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest
from needs import through_shared_memory
from worlds import NOT_THE_SAME, run

import npdp
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import CallLog
from npdp.parallel.world import init


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
    made = CallLog(0)
    made.fail(KeyboardInterrupt())
    with pytest.raises(CommunicationError, match="rank 0 calls a after a collective that failed: KeyboardInterrupt"):
        made.begin("a")
