"""Ranks in shared memory that do not call the same, that leave or fail: the others are told so, and nobody waits."""

import time

import numpy as np
import pytest
from launching import python
from memories import slots_of
from needs import needs_shared_memory
from worlds import NOT_THE_SAME, run

import npdp
from npdp.comm.errors import CommunicationError

pytestmark = needs_shared_memory

SLOT_BYTES = 2048  # 4000 elements take many


@pytest.fixture(scope="module", autouse=True)
def _small_slots():
    with slots_of(SLOT_BYTES):
        yield


CALLS = {
    "allreduce of 40 float64 (sum)": lambda how: npdp.allreduce(np.ones(40), algorithm=how),
    "allreduce of 41 float64 (sum)": lambda how: npdp.allreduce(np.ones(41), algorithm=how),
    "allreduce of 40 float32 (sum)": lambda how: npdp.allreduce(np.ones(40, np.float32), algorithm=how),
    "allreduce of 40 float64 (max)": lambda how: npdp.allreduce(np.ones(40), "max", how),
    "allreduce of 4000 float64 (sum)": lambda how: npdp.allreduce(np.ones(4000), algorithm=how),
    "allreduce of 4000 int64 (sum)": lambda how: npdp.allreduce(np.ones(4000, np.int64), algorithm=how),
    "reduce_scatter of 4000 float64 (sum)": lambda how: npdp.reduce_scatter(np.ones(4000), algorithm=how),
    "broadcast of 4000 float64 from rank 0": lambda how: npdp.broadcast(np.ones(4000), 0, how),
    "broadcast of 4000 float64 from rank 2": lambda how: npdp.broadcast(np.ones(4000), 2, how),
    "allgather of 3000 int32": lambda how: npdp.allgather(np.ones(1000, "i4"), np.ones(3000, "i4"), how),
}


def told(others, odd, how):
    """Return what each of three ranks is told where rank 1 calls something else."""

    def program():
        npdp.barrier()
        try:
            CALLS[odd if npdp.rank() == 1 else others](how)
        except CommunicationError as error:
            return str(error)
        return "nothing"

    return run(3, program, limit_s=5)


@pytest.mark.parametrize("odd", CALLS)
@pytest.mark.parametrize("others", ["allreduce of 40 float64 (sum)", "allreduce of 4000 float64 (sum)"])
def test_ranks_that_call_something_else_are_told_who_called_what(others, odd):
    said = told(others, odd, "shared_memory")
    if odd == others:
        assert said == ["nothing"] * 3
        return
    end = f": the ranks {NOT_THE_SAME}"
    assert said[0] == f"rank 0 calls {others}, rank 1 {odd}{end}"
    assert said[1] == f"rank 1 calls {odd}, rank 0 {others}{end}"
    assert said[2] == f"rank 2 calls {others}, rank 1 {odd}{end}"


@pytest.mark.parametrize("odd", list(CALLS)[1:])
def test_where_auto_chooses_for_each_rank_they_are_told_so_too(odd):
    """It may not choose messages for one and shared memory for the other: they would wait for each other for ever."""
    assert "nothing" not in told("allreduce of 40 float64 (sum)", odd, "auto")


MIXED = """
import numpy as np
import npdp

def program():
    npdp.barrier()
    try:
        npdp.allreduce(np.ones(40), algorithm=("ring", "shared_memory")[npdp.rank()])
    except Exception as error:
        return type(error).__name__

print(npdp.run_ranks(2, program))
"""


def test_a_rank_that_waits_for_messages_and_one_that_waits_in_shared_memory_are_told_so():
    """So it is, too, where counts differ and `auto`, by what was measured, takes messages for one and not the other."""
    code, stdout, stderr = python("-c", MIXED, timeout=5)  # ended from outside where they wait for ever
    assert (code, stdout) == (0, "['CommunicationError', 'CommunicationError']\n"), stderr


def test_a_rank_that_leaves_while_others_wait_for_it_is_named():
    def program():
        npdp.barrier()
        if npdp.rank() != 1:
            npdp.allreduce(npdp.rank() * np.ones(4000))

    before = time.monotonic()
    with pytest.raises(CommunicationError, match="rank [02] waits for rank 1, which has left"):
        run(3, program)
    assert time.monotonic() - before < 2


def test_a_rank_may_leave_after_its_last_collective_while_others_are_still_in_it():
    def program():
        for count in (10, 4000):
            if npdp.rank() == 0:
                time.sleep(0.01)
            npdp.allreduce(np.ones(count))

    for _ in range(20):
        run(3, program)


def test_an_exception_of_one_rank_ends_those_that_wait_in_shared_memory():
    ended = []

    def program():
        npdp.barrier()
        if npdp.rank() == 1:
            raise KeyError("the fault on purpose")
        try:
            npdp.allreduce(np.ones(4000))
        finally:
            ended.append(npdp.rank())

    before = time.monotonic()
    with pytest.raises(KeyError, match="the fault on purpose"):
        run(3, program)
    assert time.monotonic() - before < 2 and sorted(ended) == [0, 2]
