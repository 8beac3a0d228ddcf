"""Ranks that do not call the same collective are told so, and who called what: nobody waits, nothing is written."""

import re
import time

import numpy as np
import pytest
from launching import is_intel_mpi, mpirun, needs_mpi
from needs import needs_shared_memory, through_shared_memory
from worlds import NOT_THE_SAME, run

import npdp
from npdp.comm.errors import CommunicationError
from npdp.comm.failures import call_log as calls
from npdp.parallel.world import init

DIFFERENT = {  # in a world of how many ranks, and what each calls: not told, they would wait for each other for ever
    "algorithms": (3, lambda rank: npdp.allreduce(np.ones(10), "sum", "tree" if rank == 0 else "ring")),
    "schedules": (3, lambda rank: npdp.allreduce(np.ones(10), "sum", "naive" if rank == 2 else "ring")),
    "roots": (2, lambda rank: npdp.broadcast(np.ones(200_000), rank, "naive")),
    "roots of a tree": (3, lambda rank: npdp.broadcast(np.ones(200_000), rank % 2, "tree")),
    "counts": (3, lambda rank: npdp.allreduce(np.ones(10 if rank == 0 else 10**6), "sum", "ring")),
    "counts of a naive sum": (3, lambda rank: npdp.allreduce(np.ones(12 + 3 * rank), "sum", "naive")),
    "counts halved": (3, lambda rank: npdp.allreduce(np.ones(12 + 3 * rank), "sum", "halving_doubling")),
    "counts in a tree": (3, lambda rank: npdp.allreduce(np.ones(12 + 3 * rank), "sum", "tree")),
    "ops": (3, lambda rank: npdp.allreduce(np.ones(10), "max" if rank else "sum", "naive")),
    "a mean": (3, lambda rank: npdp.allreduce(np.ones(10), "mean" if rank else "sum", "halving_doubling")),
    "dtypes": (2, lambda rank: npdp.allreduce(np.ones(10, "i8" if rank else "f8"), "sum", "ring")),
    "dtypes of as many bytes": (2, lambda rank: npdp.allreduce(np.ones(4, "f4" if rank else "i4"), "sum", "tree")),
    "dtypes of any algorithm": (2, lambda rank: npdp.allreduce(np.ones(6, "f8" if rank else "f4"))),
    "orders": (3, lambda rank: npdp.allreduce(np.ones((2, 5), order="F" if rank == 1 else "C"), "sum", "ring")),
    "orders of a broadcast": (2, lambda rank: npdp.broadcast(np.ones((2, 5), order="CF"[rank]), 0, "tree")),
    "collectives": (4, lambda rank: (npdp.allreduce if rank else npdp.reduce_scatter)(np.ones(500), "sum", "ring")),
    "a broadcast": (3, lambda rank: (npdp.allreduce if rank else npdp.broadcast)(np.ones(12), algorithm="naive")),
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

    with pytest.raises(CommunicationError, match=rf"rank \d (calls )?barrier\b.*{NOT_THE_SAME}"):
        run(2, program, hosts=None if algorithm == "shared_memory" else (0, 1))


@needs_shared_memory
def test_taking_shared_memory_is_told_as_that():
    def program():
        npdp.barrier()
        (npdp.barrier if npdp.rank() else lambda: npdp.shared_empty(9))()

    with pytest.raises(CommunicationError, match=r"barrier, rank 0 shared_empty|rank 0 calls shared_empty, .* barrier"):
        run(2, program)


def test_a_first_collective_that_differs_is_told_as_that():
    with pytest.raises(CommunicationError, match=r"by ring, rank 0 .*, its first|rank 0 calls .*, its first"):
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
        run(2 if hosts is None else 4, program, algorithm=algorithm, hosts=hosts)


@needs_mpi
@pytest.mark.parametrize(
    ("fault", "wanted", "got"),
    [
        ("other_algorithm", "allreduce of 10 float64 (sum) by tree", "allreduce of 10 float64 (sum) by ring"),
        ("far_ahead", "broadcast of 8 float64 from rank 0 by tree", "broadcast of 9 float64 from rank 0 by tree"),
        ("other_root", "broadcast of 200000 float64 from rank 0 by", "broadcast of 200000 float64 from rank 1 by"),
        ("mpi_on_one", "allreduce of 10 float64 (sum) by mpi", "its first that may share memory"),
        ("wrong_count", "allreduce of 10 float64 (sum) by naive", "allreduce of 11 float64 (sum) by naive"),
    ],
)
def test_ranks_under_mpi_that_call_different_collectives_are_told_so(fault, wanted, got):
    if fault == "other_root" and is_intel_mpi():
        pytest.skip("Intel MPI takes large arrays too before anybody wants them: no rank waits for another")
    code, stdout, stderr = mpirun(3, "faults.py", fault)
    took = time.monotonic() - float(stdout.split()[1])
    assert code and took < 8, (code, took)
    assert stderr.count("Traceback (most recent call last)") == 1 and NOT_THE_SAME in stderr
    assert wanted in stderr and got in stderr


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("algorithm", ["naive", "tree"])
def test_ranks_under_mpi_that_all_send_and_never_receive_are_told_so_when_they_leave(algorithm, ranks):
    code, _, stderr = mpirun(ranks, "faults.py", "own_roots", algorithm)
    assert code, stderr
    wanted = rf"rank (\d) calls broadcast of 8 float64 from rank \1 by {algorithm}, rank (\d) .* from rank \2 by"
    assert re.search(wanted, stderr) and NOT_THE_SAME in stderr, stderr


@needs_mpi
@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("algorithm", ["naive", "tree"])
def test_a_last_call_of_one_rank_more_is_told_when_ranks_leave(algorithm, rank):
    code, _, stderr = mpirun(3, "faults.py", "last_extra_call", algorithm, rank)
    assert code, stderr
    one_more = rf"number \d+ is broadcast of 8 float64 from rank {rank} by {algorithm}"
    assert re.search(rf"leaves after \d+ collectives by messages, rank \d after \d+; {one_more}", stderr), stderr


@needs_mpi
def test_a_last_call_of_one_worker_more_is_told_though_workers_are_a_world_of_their_own():
    code, _, stderr = mpirun(3, "faults.py", "last_extra_call_of_workers")
    assert code and "number 1 is broadcast of 8 float64 from rank 0 by naive" in stderr, stderr


@needs_mpi
@pytest.mark.parametrize("differs", ["dtype", "op", "order"])
def test_ranks_that_call_mpis_own_all_reduce_otherwise_are_told_so_before_it_is_called(differs):
    code, stdout, stderr = mpirun(3, "faults.py", "mpi_unlike", differs)
    assert code == 1 and NOT_THE_SAME in stderr and "numbers" not in stdout, (code, stdout, stderr)


def test_calls_with_one_tag_are_told_apart_all_the_same(monkeypatch):
    monkeypatch.setattr(calls, "_code", len)
    with pytest.raises(CommunicationError, match=r"rank \d calls allreduce of \d float64 \(sum\) by ring, rank \d all"):
        run(2, lambda: npdp.allreduce(np.ones(npdp.rank() + 2), "sum", "ring"))


@needs_mpi
def test_a_message_larger_than_wanted_is_not_written():
    code, stdout, stderr = mpirun(2, "faults.py", "larger_than_wanted")
    assert code == 0, stderr
    assert "rank 1 is told so and has 0 elements overwritten" in stdout


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
