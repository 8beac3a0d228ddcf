"""The hierarchical all-reduce as data: proven for every shape of hosts, and what goes which way.

Nothing is carried out here; that is in test_hierarchical.py.
"""

import pytest
from hierarchical_sizes import GATHERED, PIECE, RING, small_sizes
from hypothesis import given
from hypothesis import strategies as st

from npdp.collectives import ring
from npdp.collectives.algorithms import SCHEDULES
from npdp.collectives.hierarchical import by_messages, phases_of
from npdp.collectives.schedule import add, put
from npdp.collectives.verify import prove


@pytest.fixture(scope="module", autouse=True)
def _small_sizes():
    with small_sizes():
        yield


# Proven
def parts(total, most=None):
    """Yield the ways to write a number as a sum, the largest first: the shapes that hosts may have."""
    if total == 0:
        yield ()
    for first in range(min(total, most or total), 0, -1):
        for rest in parts(total - first, first):
            yield (first, *rest)


def one_after_the_other(shape):
    return tuple(host for host, ranks in enumerate(shape) for _ in range(ranks))


def allreduce(hosts, nbytes=GATHERED + 1):
    """Return the schedule where a host's ranks share no memory; of something large, if nothing else is said."""
    return list(by_messages(hosts, phases_of(nbytes, tuple(hosts), shares_memory=False)))


def by_leaders(hosts, algorithm):
    return list(by_messages(hosts, phases_of(1, hosts, shares_memory=False)._replace(algorithm=algorithm)))


@pytest.mark.parametrize("world_size", range(1, 17))
def test_it_is_proven_for_every_shape_of_hosts_up_to_16_ranks(world_size):
    for shape in parts(world_size):
        hosts = one_after_the_other(shape)
        for nbytes in (1, GATHERED + 1):
            for algorithm in SCHEDULES["allreduce"]:
                phases = phases_of(nbytes, hosts, shares_memory=False)._replace(algorithm=algorithm)
                prove(list(by_messages(hosts, phases)), "allreduce", world_size)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=16))
def test_it_is_proven_however_ranks_lie_on_hosts(hosts):
    prove(allreduce(hosts), "allreduce", len(hosts))


def crossing(steps, hosts):
    """Return how many chunks leave each host."""
    sent = dict.fromkeys(hosts, 0)
    for move in (move for step in steps for move in step):
        if hosts[move.source] != hosts[move.target]:
            sent[hosts[move.source]] += move.stop - move.start
    return sent


@pytest.mark.parametrize(("count", "ranks"), [(2, 1), (2, 2), (2, 8), (3, 4), (4, 4), (5, 3), (8, 2)])
def test_each_host_sends_what_one_rank_would_in_its_place(count, ranks):
    """Of H L chunks 2 (H - 1) / H, which no way can do with less; a ring that does not know of hosts sends more."""
    hosts = one_after_the_other([ranks] * count)
    least = 2 * (count - 1) * ranks
    assert set(crossing(allreduce(hosts), hosts).values()) == {least}
    assert set(crossing(by_leaders(hosts, "ring"), hosts).values()) == {least}
    if ranks > 1:
        assert crossing(ring.allreduce(len(hosts)), hosts)[0] > least


def test_it_is_the_one_of_its_picture():
    steps = allreduce((0, 0, 1, 1))
    inside, across = [{(0, 1), (1, 0), (2, 3), (3, 2)}], [{(0, 2), (2, 0), (1, 3), (3, 1)}] * 2
    assert [{(move.source, move.target) for move in step} for step in steps] == inside + across + inside
    assert add(0, 1, 2, 4) in steps[0] and add(0, 2, 1) in steps[1] and put(0, 1, 0, 2) in steps[3]


def test_uneven_hosts_have_leaders():
    steps = allreduce((0, 0, 0, 1))
    inside = [[{0, 2}], [{0, 1}]]  # a tree, there and back
    assert [[{*move[:2]} for move in step] for step in steps] == [*inside[::-1], [{0, 3}] * 2, [{0, 3}] * 2, *inside]
    assert crossing(steps, (0, 0, 0, 1)) == {0: 4, 1: 4}


def test_one_host_is_a_ring_and_one_rank_has_nothing_to_do():
    assert allreduce((7,) * 5) == list(ring.allreduce(5))
    assert [step for step in allreduce((0,)) if step] == []


# What goes which way
def gathers(nbytes, hosts):
    phases = phases_of(nbytes, tuple(range(hosts)) * 2, shares_memory=True)
    assert phases.gathered == (len(phases.columns) == 1)
    return phases.gathered


def test_a_small_buffer_is_gathered_where_that_sends_little_more_than_a_ring():
    most = {hosts: max(n for n in range(GATHERED + 2) if gathers(n, hosts)) for hosts in (1, 2, 3, 4, 8)}
    assert most == {1: GATHERED, 2: GATHERED, 3: 97, 4: 43, 8: 12}  # 2/3, 3/2 and 21/4 of it more than a ring


def test_pieces_and_the_way_across_depend_on_bytes_and_hosts():
    def phases(nbytes, *ranks):
        return phases_of(nbytes, one_after_the_other(ranks), shares_memory=True)

    assert [phases(n, 2, 2).pieces for n in (1, 2 * PIECE, 2 * PIECE + 1, 10 * PIECE)] == [1, 1, 2, 5]
    assert phases(10 * PIECE, 2, 2, 2, 2).pieces == 3 and phases(10 * PIECE, 1, 1, 1, 1).pieces == 1
    assert phases(GATHERED + 1, 2, 2, 2).algorithm == phases(2 * RING, *[2] * 8).algorithm == "ring"
    assert phases(2 * RING - 1, 2, 2, 2, 2).algorithm == "halving_doubling"  # of two slices
    assert phases(RING, 2, 2, 2, 1).algorithm == "ring"  # of all that leaders carry
