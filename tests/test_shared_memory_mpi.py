"""Shared memory between the processes of real MPI: mpi_programs/shared_memory.py, a launch a test."""

import time

import pytest
from launching import left_in_shared_memory, mpirun, needs_mpi, shared_memory
from needs import needs_shared_memory

pytestmark = [needs_mpi, needs_shared_memory]
TRACEBACK = "Traceback (most recent call last)"
SOON_S = 2


def run(ranks, what, timeout=60):
    """Run the program; nothing may be left in /dev/shm. Return how it ended, and seconds since the fault, if any."""
    before = shared_memory()
    code, stdout, stderr = mpirun(ranks, "shared_memory.py", what, timeout=timeout)
    took = time.monotonic() - float(stdout.split()[1]) if stdout.startswith("at ") else None
    assert left_in_shared_memory(before) == []
    return code, stderr, took


@pytest.mark.parametrize("ranks", [2, 4])
def test_collectives_waiting_and_memory_are_as_they_should_be(ranks):
    code, stderr, _ = run(ranks, "checks")
    assert code == 0, stderr


def test_a_rank_that_is_killed_ends_all_and_leaves_nothing():
    code, stderr, took = run(3, "kill")
    assert code != 0 and took < SOON_S, stderr
    assert TRACEBACK not in stderr


def test_ranks_that_call_something_else_are_told_who_called_what():
    code, stderr, took = run(3, "differ")
    assert code != 0 and took < SOON_S
    assert stderr.count(TRACEBACK) == 1
    end = "the ranks do not call the same collective with the same count and dtype"
    assert f"of 10 float64 (sum), rank 1 allreduce of 11 float64 (sum): {end}" in stderr or (
        f"rank 1 calls allreduce of 11 float64 (sum), rank 0 allreduce of 10 float64 (sum): {end}" in stderr
    )


def test_a_rank_that_leaves_while_others_wait_for_it_is_named():
    code, stderr, took = run(3, "leave")
    assert code != 0 and took < SOON_S
    assert stderr.count(TRACEBACK) == 1 and "waits for rank 1, which has left the program" in stderr
