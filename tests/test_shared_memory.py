"""Collectives through shared memory, over threads: every way that the C kernel has, against NumPy and `naive`.

Slots are small here, so that buffers of some thousand elements travel in many segments. What the kernel does with
the ranks at any moment of each other is in test_shared_memory_kernel.py.
"""

import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import python
from memories import MEMORIES, SMALL_BYTES, Arrays, do_in, edges
from needs import needs_shared_memory
from worlds import DTYPES, PAIRS, run

import npdp
from npdp import kernels
from npdp.collectives import host as host_module
from npdp.collectives.algorithms import SCHEDULES
from npdp.comm.errors import CommunicationError
from npdp.parallel.checks import OPS
from npdp.parallel.world import init
from npdp.partition import part

pytestmark = needs_shared_memory

SLOT_BYTES = 2048
EVERY = [(collective, algorithm) for collective in SCHEDULES for algorithm in (*SCHEDULES[collective], "shared_memory")]
LONGEST = 2 * 5 * SLOT_BYTES // 4 + 100


@pytest.fixture(scope="module", autouse=True)
def small_slots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_module, "SLOT_BYTES", SLOT_BYTES)
        yield


def wrong(world_size, calls, count=LONGEST, late=None):
    """Carry out `calls`, one after the other, in one world; return what went wrong."""

    def program():
        arrays = Arrays(count, DTYPES)
        found = []
        for call in calls:
            if npdp.rank() == late:
                time.sleep(0.002)
            found.append(do_in(arrays, *call))
        return found

    return [text for texts in run(world_size, program) for text in texts if text]


# What comes out
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("collective", SCHEDULES)
def test_every_memory_dtype_op_and_edge_gives_what_numpy_gives(collective, world_size):
    reduces = collective in ("allreduce", "reduce_scatter")
    calls = [
        (memory, collective, "shared_memory", dtype, op, count, count + salt, salt)
        for salt, (dtype, op) in enumerate(PAIRS if reduces else [(dtype, "sum") for dtype in DTYPES])
        for count in edges(world_size, np.dtype(dtype).itemsize, SLOT_BYTES)
        for memory in MEMORIES
    ]
    assert wrong(world_size, calls) == []


calls = st.builds(
    lambda memory, pair, dtype_op, count, root, salt: (memory, *pair, *dtype_op, count, root, salt),
    st.sampled_from(MEMORIES),
    st.sampled_from([*EVERY, *[("allreduce", "auto"), ("broadcast", "auto")] * 3]),
    st.sampled_from(PAIRS),
    st.one_of(st.integers(0, 40), st.integers(0, LONGEST)),
    st.integers(0, 8),
    st.integers(0, 10),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.lists(calls, min_size=1, max_size=8), st.integers(0, 9))
def test_any_sequence_of_collectives_and_algorithms_gives_what_numpy_gives(world_size, sequence, late):
    assert wrong(world_size, sequence, late=late) == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from(["allreduce", "reduce_scatter"]), st.sampled_from(MEMORIES),
    st.sampled_from(["float32", "float64"]), st.sampled_from(["sum", "prod", "mean"]), st.integers(0, LONGEST),
    st.integers(0, 99),
)  # fmt: skip
def test_it_adds_in_rank_order_and_gives_the_bits_of_naive(world_size, collective, memory, dtype, op, count, seed):
    inputs = [np.random.default_rng([seed, rank]).standard_normal(count).astype(dtype) for rank in range(world_size)]

    def program():
        arrays = Arrays(count, [dtype])
        chunk = slice(*part(count, world_size, npdp.rank())) if collective == "reduce_scatter" else slice(None)
        bits = []
        for algorithm in ("shared_memory", "naive"):
            array = arrays.lay(memory, inputs[npdp.rank()])
            getattr(npdp, collective)(array, op, algorithm)
            bits.append(array[chunk].tobytes())
        return bits

    for mine, naives in run(world_size, program):
        assert mine == naives


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("op", OPS)
def test_nan_inf_and_zeros_of_either_sign_pass_as_with_naive(op, memory):
    special = np.array([np.nan, 1, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1e308])
    inputs = [np.resize(np.roll(special, 3 * rank + rank // 2), 3000) for rank in range(3)]

    def program():
        arrays, bits = Arrays(3000, ["float64"]), []
        for algorithm in ("shared_memory", "naive"):
            array = arrays.lay(memory, inputs[npdp.rank()])
            with np.errstate(all="ignore"):
                npdp.allreduce(array, op, algorithm)
            bits.append(np.where(np.isnan(array), 7.0, array).tobytes())
        return bits

    for mine, naives in run(3, program):
        assert mine == naives


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("count", [50, 1000, 3000])
def test_an_array_may_be_changed_as_soon_as_the_collective_has_returned(count, memory):
    """Many times, with ranks that dawdle in turn: nobody may still read from it, or write to it."""

    def program():
        rank, faults = npdp.rank(), 0
        arrays = Arrays(count, ["float64"])
        for turn in range(120):
            array = arrays.lay(memory, np.full(count, rank + 1.0 + turn))
            if turn % 7 == rank:
                time.sleep(0.0003)
            npdp.allreduce(array)
            faults += bool((array != 6 + 3 * turn).any())
            array[...] = -1000
            npdp.broadcast(array, turn % 3)
            faults += bool((array != -1000).any())
        return faults

    assert run(3, program) == [0, 0, 0]


def test_no_collective_of_thousands_of_small_ones_is_mistaken_for_another():
    def program():
        array, faults = np.empty(3, np.int64), 0
        for turn in range(3000):
            array[:] = turn + npdp.rank()
            npdp.allreduce(array, "max" if turn % 3 else "sum")
            faults += bool((array != (turn + 1 if turn % 3 else 2 * turn + 1)).any())
        return faults

    assert run(2, program) == [0, 0]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("memory", ["ordinary", "mixed"])
def test_both_ways_to_write_a_slot_give_what_numpy_gives(monkeypatch, world_size, memory):
    monkeypatch.setattr(host_module, "SLOT_BYTES", 1 << 17)

    def program():
        arrays = Arrays(200_003, ["float32"])
        calls = [(memory, "allreduce", "shared_memory", "float32", "sum", 200_003, 0, salt) for salt in range(20)]
        found = [do_in(arrays, *call) for call in calls]
        host = init().host.kernel._host
        return [text for text in found if text], [*host.writes.byte_s, *host.sums.byte_s]

    for found, byte_s in run(world_size, program):
        assert found == []
        assert all(each > 0 for each in byte_s)


def test_an_int64_by_its_other_name_is_one_too():
    def program():
        array = np.arange(4, dtype=np.longlong)
        npdp.allreduce(array)
        return array.tolist()

    assert run(2, program) == [[0, 2, 4, 6]] * 2


@pytest.mark.parametrize("algorithm", ["naive", "shared_memory"])
def test_an_array_that_is_not_aligned_to_its_elements_is_refused(algorithm):
    def program():
        array = np.zeros(8 * 2000 + 1, np.uint8)[1:].view(np.float64)
        npdp.allreduce(array, algorithm=algorithm)

    with pytest.raises(ValueError, match="aligned"):
        run(2, program)


def test_auto_takes_shared_memory_where_all_ranks_share_it():
    sizes = (0, SMALL_BYTES, 1 << 22)
    assert run(3, lambda: [init().chosen("allreduce", nbytes) for nbytes in sizes]) == [["shared_memory"] * 3] * 3


def test_an_algorithm_that_a_collective_lacks_is_refused_though_the_world_has_it():
    def program():
        npdp.init("tree")
        npdp.reduce_scatter(np.zeros(4))  # the world's algorithm has none: the best is taken
        npdp.reduce_scatter(np.zeros(4), algorithm="tree")

    with pytest.raises(ValueError, match="no algorithm 'tree'"):
        run(2, program)


# Ranks that do not agree, leave, or fail
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
    end = ": the ranks do not call the same collective with the same count and dtype"
    assert said[0] == f"rank 0 calls {others}, rank 1 {odd}{end}"
    assert said[1] == f"rank 1 calls {odd}, rank 0 {others}{end}"
    assert said[2] == f"rank 2 calls {others}, rank 1 {odd}{end}"


@pytest.mark.parametrize("odd", list(CALLS)[1:])
def test_so_they_are_where_auto_chooses_for_each(odd):
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


# Where memory cannot be had
def this_rank():
    """Return the number of the rank whose thread asks."""
    return int(threading.current_thread().name.removeprefix("rank "))


def on_rank(number, original, instead):
    """Return `original`, but `instead` on one rank."""
    return lambda *arguments: (instead if this_rank() == number else original)(*arguments)


NOT_SHARED = "allreduce: shared_memory needs all ranks on one host, and npdp's C kernels"
FAULTS = {
    "make": lambda patch: patch.setattr(host_module, "make", lambda *_: None),
    "find": lambda patch: patch.setattr(host_module, "find", on_rank(2, host_module.find, lambda *_: None)),
    "numpy": lambda patch: patch.setattr(kernels, "backend", on_rank(1, kernels.backend, lambda: "numpy")),
    "hosts": lambda patch: None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_all_ranks_go_back_to_messages_alike_where_one_cannot_share_memory(fault, monkeypatch):
    """Ranks of several hosts: those of each share memory, but not all of them."""
    FAULTS[fault](monkeypatch)

    def program():
        world = init()
        array = npdp.shared_empty((40, 30), np.float64)
        array[...] = npdp.rank() + np.arange(1200.0).reshape(40, 30)
        npdp.allreduce(array)
        out = npdp.shared_empty(7, np.int32)
        npdp.allgather(np.full(len(range(*part(7, 3, npdp.rank()))), npdp.rank(), np.int32), out)
        with pytest.raises(ValueError, match=NOT_SHARED):
            npdp.allreduce(array, algorithm="shared_memory")
        shared = (world.shares_memory, world.everyones(array), world.shared_once(10, array.dtype))
        return array.tolist(), out.tolist(), shared, world.chosen("allreduce", 100) != "shared_memory"

    wanted = (3 + 3 * np.arange(1200.0).reshape(40, 30)).tolist()
    hosts = (0, 0, 1) if fault == "hosts" else (0, 0, 0)
    assert run(3, program, hosts=hosts) == [(wanted, [0, 0, 0, 1, 1, 2, 2], (False, None, None), True)] * 3


WITH_NUMPY = """
import json
import numpy as np
import npdp
from npdp.parallel.world import init

def program():
    array = npdp.shared_empty(5000)
    array[:] = npdp.rank() + 1
    npdp.allreduce(array)
    try:
        npdp.allreduce(array, algorithm="shared_memory")
    except ValueError as error:
        return init().chosen("allreduce", 100) == "shared_memory", float(array.sum()), str(error)

print(json.dumps(npdp.run_ranks(2, program)))
"""


def test_with_numpys_kernels_auto_takes_messages_and_shared_memory_is_refused():
    code, stdout, stderr = python("-c", WITH_NUMPY, NPDP_KERNELS="numpy")
    assert code == 0, stderr
    assert json.loads(stdout) == [[False, 15000.0, NOT_SHARED]] * 2


def test_the_flag_is_refused_in_one_line_where_there_is_none():
    flags = ("--transport", "threads", "--ranks", "2", "--algorithm", "shared_memory", "--epochs", "0")
    code, _, stderr = python("-m", "npdp.train", *flags, NPDP_KERNELS="numpy")
    assert code == 2, stderr
    assert len(stderr.splitlines()) == 1 and "--algorithm shared_memory: " + NOT_SHARED in stderr
