"""Every schedule there is, proven for world sizes 1 to 64, and counted: bytes and steps are what the docs say."""

import math

import pytest

from npdp.base.partition import part
from npdp.collectives.algorithms import ALGORITHMS, SCHEDULES, require
from npdp.collectives.schedule import add, of_rank, put
from npdp.collectives.verify import bytes_sent, prove

LARGE = 100_003
EVERY = [(collective, algorithm) for collective, makers in SCHEDULES.items() for algorithm in makers]
NAMES = ["-".join(pair) for pair in EVERY]


def schedule(collective, algorithm, world_size, *root):
    return list(SCHEDULES[collective][algorithm](world_size, *root))


def counts(world_size):
    return 0, 1, world_size - 1, world_size, world_size + 1, LARGE


def sizes(count, world_size):
    return [stop - start for start, stop in (part(count, world_size, rank) for rank in range(world_size))]


@pytest.mark.parametrize(("collective", "algorithm"), EVERY, ids=NAMES)
def test_it_is_proven_for_every_world_size_up_to_64(collective, algorithm):
    for world_size in range(1, 65):
        prove(schedule(collective, algorithm, world_size), collective, world_size)


@pytest.mark.parametrize("algorithm", SCHEDULES["broadcast"])
def test_a_broadcast_is_proven_from_every_root(algorithm):
    for world_size in range(1, 10):
        for root in range(world_size):
            prove(schedule("broadcast", algorithm, world_size, root), "broadcast", world_size, root)
    for world_size, root in [(16, 15), (17, 1), (31, 16), (32, 31), (33, 32), (64, 63)]:
        prove(schedule("broadcast", algorithm, world_size, root), "broadcast", world_size, root)


@pytest.mark.parametrize(("collective", "algorithm"), EVERY, ids=NAMES)
def test_one_rank_has_nothing_to_do(collective, algorithm):
    assert [step for step in schedule(collective, algorithm, 1) if step] == []


@pytest.mark.parametrize("world_size", range(1, 65))
def test_the_ring_allreduce_sends_2_times_p_minus_1_times_the_buffer(world_size):
    steps = schedule("allreduce", "ring", world_size)
    for count in counts(world_size):
        for itemsize in (4, 8):
            sent = bytes_sent(steps, count, itemsize, world_size)
            assert sum(sent) == 2 * (world_size - 1) * count * itemsize
            chunk = sizes(count, world_size)
            # rank r adds up its own chunk and never sends it there; spreading it keeps the right neighbour's back
            assert sent == [
                itemsize * (2 * count - chunk[rank] - chunk[(rank + 1) % world_size]) if world_size > 1 else 0
                for rank in range(world_size)
            ]


@pytest.mark.parametrize("world_size", range(1, 65))
def test_ring_halves_send_each_chunk_p_minus_1_times(world_size):
    for collective in ("reduce_scatter", "allgather"):
        for count in counts(world_size):
            sent = bytes_sent(schedule(collective, "ring", world_size), count, 4, world_size)
            assert sum(sent) == (world_size - 1) * count * 4


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16, 32, 64])
def test_halving_doubling_sends_as_few_bytes_as_the_ring_where_ranks_are_a_power_of_two(world_size):
    for count in counts(world_size):
        ring, halving = (schedule("allreduce", name, world_size) for name in ("ring", "halving_doubling"))
        assert sum(bytes_sent(halving, count, 4, world_size)) == sum(bytes_sent(ring, count, 4, world_size))


@pytest.mark.parametrize("world_size", range(2, 65))
def test_naive_and_tree_send_the_whole_buffer_on_each_edge(world_size):
    for count in counts(world_size):
        for algorithm in ("naive", "tree"):
            sent = bytes_sent(schedule("allreduce", algorithm, world_size), count, 8, world_size)
            assert sum(sent) == 2 * (world_size - 1) * count * 8
            sent = bytes_sent(schedule("broadcast", algorithm, world_size), count, 8, world_size)
            assert sum(sent) == (world_size - 1) * count * 8
        naive = bytes_sent(schedule("allreduce", "naive", world_size), count, 8, world_size)
        assert naive == [(world_size - 1) * count * 8] + [count * 8] * (world_size - 1)


@pytest.mark.parametrize("world_size", range(1, 65))
def test_algorithms_take_as_many_steps_as_theory_says(world_size):
    doublings = math.ceil(math.log2(world_size))
    steps = {name: len(schedule("allreduce", name, world_size)) for name in SCHEDULES["allreduce"]}
    assert steps["ring"] == 2 * (world_size - 1)
    assert steps["halving_doubling"] == steps["tree"] == 2 * doublings
    assert steps["naive"] == world_size  # P-1 sums and one broadcast
    assert len(schedule("broadcast", "tree", world_size)) == doublings


def test_the_naive_sum_adds_in_rank_order():
    assert schedule("allreduce", "naive", 4)[:3] == [[add(1, 0, 0, 4)], [add(2, 0, 0, 4)], [add(3, 0, 0, 4)]]


def test_the_ring_is_the_one_of_its_picture():
    first, second, third = schedule("reduce_scatter", "ring", 4)
    assert first == [add(0, 1, 3), add(1, 2, 0), add(2, 3, 1), add(3, 0, 2)]
    assert second == [add(0, 1, 2), add(1, 2, 3), add(2, 3, 0), add(3, 0, 1)]
    assert third == [add(0, 1, 1), add(1, 2, 2), add(2, 3, 3), add(3, 0, 0)]


def test_halving_doubling_is_the_one_of_its_picture():
    steps = schedule("reduce_scatter", "halving_doubling", 5)
    pairs = [{(move.source, move.target) for move in step} for step in steps]
    both = lambda *edges: {pair for a, b in edges for pair in ((a, b), (b, a))}  # noqa: E731
    assert pairs == [both((0, 3), (1, 4)) | {(2, 4)}, both((0, 2), (3, 4)) | {(1, 2)}, both((0, 1))]


def test_the_tree_is_the_one_of_its_picture():
    assert schedule("broadcast", "tree", 8) == [
        [put(0, 4, 0, 8)],
        [put(0, 2, 0, 8), put(4, 6, 0, 8)],
        [put(0, 1, 0, 8), put(2, 3, 0, 8), put(4, 5, 0, 8), put(6, 7, 0, 8)],
    ]


def test_a_rank_carries_out_the_moves_that_name_it_and_skips_steps_that_do_not():
    steps = [[add(0, 1, 0), add(1, 0, 1)], [add(2, 1, 0)], [put(1, 2, 1)]]
    assert list(of_rank(steps, 0)) == [([add(0, 1, 0)], [add(1, 0, 1)])]
    assert list(of_rank(steps, 2)) == [([add(2, 1, 0)], []), ([], [put(1, 2, 1)])]


def test_an_unknown_algorithm_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match=r"allreduce: no algorithm 'rign'; there are auto, naive, ring, .*mpi"):
        require("allreduce", "rign")
    known = r"broadcast: no algorithm 'ring'; there are auto, naive, tree, shared_memory$"
    with pytest.raises(ValueError, match=known):
        require("broadcast", "ring")
    with pytest.raises(ValueError, match="reduce_scatter: no algorithm 'mpi'"):
        require("reduce_scatter", "mpi")
    for name in ALGORITHMS[1:]:
        require("allreduce", name)
