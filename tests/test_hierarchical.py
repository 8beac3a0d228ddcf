"""The hierarchical all-reduce carried out, by worlds of threads on several hosts, even and uneven.

Sizes at which it changes its way are small here, so that buffers of some thousand elements are gathered, cross in one
piece, and in several, and pieces in several segments. Its schedules: test_hierarchical_schedules.py. On emulated hosts,
over MPI: test_hosts.py.
"""

import time

import numpy as np
import pytest
from hierarchical_sizes import GATHERED, PIECE, RING, SEGMENT, small_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import MEMORIES, Arrays, do_in
from needs import needs_shared_memory
from worlds import DTYPES, PAIRS, do, record, run

import npdp
from npdp.collectives.across_hosts import AcrossHosts
from npdp.collectives.algorithms import HIERARCHICAL, algorithms_of
from npdp.comm.call import Call
from npdp.comm.errors import CommunicationError
from npdp.comm.failures.call_log import LoggedCall
from npdp.comm.threads import run_threads
from npdp.parallel.world import init

SHAPES = [(0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 1, 1), (0, 1, 1, 1), (0, 1, 2), (2, 2, 0, 0, 1, 1), (0, 1, 2, 3, 3)]
LONGEST = 4 * PIECE // 4 * 3 + 7  # float32 on 4 hosts: some pieces; of 8 bytes, twice as many


@pytest.fixture(scope="module", autouse=True)
def _small_sizes():
    with small_sizes():
        yield


@pytest.fixture(params=[pytest.param("c", marks=needs_shared_memory), "numpy"])
def way(request, monkeypatch):
    """In memory, and by messages, as where there are no C kernels."""
    if request.param == "numpy":
        monkeypatch.setattr("npdp.collectives.host_memory.HostMemory.host", None)
    return request.param


# Carried out
def edges(hosts, itemsize):
    """Return counts around which something changes."""
    world_size, number = len(hosts), len(set(hosts))
    counts = {0, 1, world_size - 1, world_size, world_size + 1, LONGEST}
    ways = (GATHERED, 97, 43, world_size * SEGMENT, RING * world_size // number, PIECE * number, 2 * PIECE * number)
    return sorted(counts | {nbytes // itemsize + off for nbytes in ways for off in (-1, 0, 1)})


def wrong(hosts, calls, late=None):
    """Carry out `calls`, one after the other, in one world on these hosts; return what went wrong."""

    def program():
        if npdp.rank() == late:
            record(delay_s=0.0003)
        return [do("allreduce", *call) for call in calls]

    return [text for texts in run(len(hosts), program, hosts=hosts) for text in texts if text]


@pytest.mark.parametrize("hosts", SHAPES, ids=str)
def test_every_dtype_op_and_edge_gives_what_numpy_gives(hosts, way):
    counts = edges(hosts, 8)
    calls = [
        (HIERARCHICAL, dtype, op, count, 0, salt)
        for salt, (dtype, op) in enumerate(PAIRS)
        for count in (counts if op == "sum" else counts[salt % 3 :: 3])
    ]
    assert wrong(hosts, calls) == []


@needs_shared_memory
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("hosts", [(0, 0, 1, 1), (0, 0, 0, 1, 1)], ids=str)
def test_it_gives_what_numpy_gives_wherever_arrays_lie(hosts, memory):
    def program():
        arrays = Arrays(LONGEST, DTYPES)
        return [
            do_in(arrays, memory, "allreduce", HIERARCHICAL, dtype, op, count, salt=salt)
            for salt, (dtype, op) in enumerate(PAIRS[::2])
            for count in edges(hosts, np.dtype(dtype).itemsize)
        ]

    assert [text for texts in run(len(hosts), program, hosts=hosts) for text in texts if text] == []


shapes_of_hosts = st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple)
calls = st.builds(
    lambda algorithm, dtype_op, count, salt: (algorithm, *dtype_op, count, 0, salt),
    st.sampled_from([HIERARCHICAL, HIERARCHICAL, "auto", "ring", "tree"]),
    st.sampled_from(PAIRS),
    st.integers(0, 3 * PIECE),
    st.integers(0, 10),
)


@settings(max_examples=60, deadline=None)
@given(shapes_of_hosts, st.lists(calls, min_size=1, max_size=6), st.none() | st.integers(0, 6))
def test_any_sequence_on_any_hosts_gives_what_numpy_gives_whoever_is_late(hosts, sequence, late):
    assert wrong(hosts, sequence, late) == []


@needs_shared_memory
@pytest.mark.parametrize("hosts", [(0, 0, 1, 1), (0, 1, 1, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("count", [20, 3000])
def test_all_ranks_get_the_same_bits_each_time(hosts, count):
    """Of +0 and -0, the minimum is the one that came last: leaders that added in another order would differ."""
    inputs = [np.random.default_rng(rank).standard_normal(count).astype(np.float32) for rank in range(len(hosts))]

    def program():
        host = init().topology.hosts[npdp.rank()]
        total, zeros = inputs[npdp.rank()].copy(), np.full(count, -0.0 if host % 2 else 0.0)
        npdp.allreduce(total, algorithm=HIERARCHICAL)
        npdp.allreduce(zeros, "min", HIERARCHICAL)
        return total.tobytes() + zeros.tobytes()

    first, second = run(len(hosts), program, hosts=hosts), run(len(hosts), program, hosts=hosts)
    assert len({*first, *second}) == 1


@needs_shared_memory
def test_a_host_sends_little_and_small_buffers_go_by_leaders_alone():
    def program(count):
        array = np.zeros(count, np.float32)
        npdp.allreduce(array, algorithm=HIERARCHICAL)  # who is where has been asked once it returns
        recorder = record()
        npdp.allreduce(array, algorithm=HIERARCHICAL)
        return recorder.sent

    assert run(4, program, 10, hosts=(0, 0, 1, 1)) == [[(2, 40)], [], [(0, 40)], []]
    sent = run(4, program, 2000, hosts=(0, 0, 1, 1))  # 8000 bytes: a link carries as many, each way
    assert [sum(nbytes for _, nbytes in mine) for mine in sent] == [4000] * 4
    assert [{peer for peer, _ in mine} for mine in sent] == [{2}, {3}, {0}, {1}]


@needs_shared_memory
def test_pieces_change_hands_inside_while_another_crosses():
    """A piece is in before it crosses; the next is in, and the last one out, before it has crossed."""
    happened = []

    class Host:
        def collective(self, kind, buffer, *like):
            happened.append((kind, len(buffer)))

    class Transport:
        def send(self, buffer, peer, call):
            happened.append(("send", peer))

        def receive(self, buffer, peer, call):
            buffer[:] = 0

    count = 5 * PIECE // 4  # three pieces of 427, 427, 426
    across = AcrossHosts((0, 0, 1, 1), 3, Host())
    call = LoggedCall(1, Call("allreduce", count, "float32"), 1)
    for _ in across.allreduce(np.zeros(count, np.float32), "sum", Transport(), call):
        pass  # what is waited for is there
    sends = [at for at, (what, _) in enumerate(happened) if what == "send"]
    inside = [(kind, length, at) for at, (kind, length) in enumerate(happened) if kind != "send"]
    order = [(kind, length) for kind, length, _ in inside]
    assert order == [("reduce_scatter", 427), ("reduce_scatter", 427), ("allgather", 427), ("reduce_scatter", 426),
                     ("allgather", 427), ("allgather", 426)]  # fmt: skip
    assert all(sends[0] < at < sends[-1] for _, _, at in inside[1:5])
    assert inside[0][2] < sends[0] and sends[-1] < inside[5][2]


# In a world
@needs_shared_memory
def test_auto_takes_it_where_hosts_have_several_ranks():
    def program():
        world = init()
        return [world.chosen("allreduce", nbytes) for nbytes in (8, 200)], world.topology.hosts, world.memory.host.ranks

    chosen, hosts, ranks = zip(*run(4, program, hosts=(5, 5, 3, 3)))
    assert set(hosts) == {(0, 0, 1, 1)} and ranks == ([0, 1], [0, 1], [2, 3], [2, 3])
    assert all(names == [HIERARCHICAL] * 2 for names in chosen)


def test_it_is_for_allreduce_alone_and_other_collectives_go_on_as_they_did():
    assert HIERARCHICAL in algorithms_of("allreduce")
    for collective in ("reduce_scatter", "allgather", "broadcast"):
        assert HIERARCHICAL not in algorithms_of(collective)

    def program():
        npdp.init(HIERARCHICAL)
        chunk = npdp.reduce_scatter(np.arange(4.0))
        out = np.empty(4)
        npdp.allgather(chunk, out)
        npdp.broadcast(out, 1)
        npdp.allreduce(out)
        return out.tolist()

    assert run(4, program, hosts=(0, 0, 1, 1)) == [[0.0, 16.0, 32.0, 48.0]] * 4


@needs_shared_memory
def test_the_seconds_that_its_ranks_are_in_the_kernel_count_once():
    def program():
        world = init()
        world.allreduce(np.zeros(4), algorithm=HIERARCHICAL)
        world.clock.clear()
        before = time.perf_counter()
        time.sleep(0.2 * (world.rank % 2))
        world.allreduce(np.zeros(4), algorithm=HIERARCHICAL)
        return world.clock.collective_s, time.perf_counter() - before

    for number, (collective_s, wall_s) in enumerate(run(4, program, hosts=(0, 0, 1, 1))):
        assert (0.0 if number % 2 else 0.19) < collective_s < wall_s


@needs_shared_memory
def test_on_one_host_it_is_shared_memory():
    assert run(3, lambda: init().chosen("allreduce", 8, HIERARCHICAL)) == ["shared_memory"] * 3
    assert run(1, lambda: npdp.allreduce(np.ones(3), algorithm=HIERARCHICAL)) == [None]


def test_where_hosts_share_no_memory_it_goes_by_messages(monkeypatch):
    monkeypatch.setattr("npdp.collectives.host_memory.HostMemory.host", None)

    def program():
        assert init().topology.hosts == (0, 0, 1, 1)
        recorder = record()
        npdp.allreduce(np.zeros(10 * PIECE, np.float32), algorithm=HIERARCHICAL)
        return {peer for peer, _ in recorder.sent}

    assert run(4, program, hosts=(0, 0, 1, 1)) == [{1, 2}, {0, 3}, {3, 0}, {2, 1}]


def test_hosts_that_do_not_fit_the_ranks_are_refused():
    for hosts in [(0,), (0, 1, 2), (0, -1)]:
        with pytest.raises(ValueError, match="2 ranks need as many hosts, numbers from 0 on"):
            run_threads(2, lambda transport: None, hosts)


# What goes wrong
@pytest.mark.parametrize("count", [10, 3000])
def test_ranks_of_two_hosts_that_do_not_call_the_same_are_told_so(count, way):
    def program():
        npdp.allreduce(np.ones(count + npdp.rank() // 2), algorithm=HIERARCHICAL)

    with pytest.raises(CommunicationError, match="do not call the same collective"):
        run(4, program, hosts=(0, 0, 1, 1))


@pytest.mark.parametrize("count", [10, 3000])
@pytest.mark.parametrize("gone", range(4))
def test_a_rank_that_has_left_is_missed_by_name(gone, count, way):
    def program():
        if npdp.rank() != gone:
            npdp.allreduce(np.ones(count), algorithm=HIERARCHICAL)

    def together():
        npdp.barrier()
        program()

    with pytest.raises(CommunicationError, match=f"waits for rank {gone}, which has left"):
        run(4, together, hosts=(0, 0, 1, 1))


def test_an_exception_on_one_host_ends_the_others_in_the_middle(way):
    def program():
        npdp.barrier()
        if npdp.rank() == 3:
            time.sleep(0.05)
            raise KeyError("rank 3's own")
        npdp.allreduce(np.ones(3000), algorithm=HIERARCHICAL)

    with pytest.raises(KeyError, match="rank 3's own"):
        run(4, program, hosts=(0, 0, 1, 1))
