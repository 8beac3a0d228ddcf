"""A world of threads: how it begins, and how it ends where a rank fails, leaves, or calls something else."""

import sys
import time

import numpy as np
import pytest
from worlds import run

import npdp
from npdp.comm.errors import CommunicationError, WorldEnded
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


def test_threads_have_no_native_allreduce_and_say_so():
    def program():
        with pytest.raises(NotImplementedError, match="'mpi' is MPI's own all-reduce: a world of threads has none"):
            npdp.allreduce(np.ones(2), algorithm="mpi")
        npdp.allreduce(np.ones(2), algorithm="ring")

    run(2, program)
