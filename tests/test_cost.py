"""What collectives cost: the textbook's formulas, and what auto then takes."""

import math
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import run

import npdp
from npdp.collectives import auto, chooser, constants, cost
from npdp.collectives.algorithms import HIERARCHICAL, NATIVE, SCHEDULES, SHARED_MEMORY
from npdp.collectives.auto import candidates, cheapest, price
from npdp.collectives.cost import posts, price_of_kernel, shapes
from npdp.collectives.execute import SEGMENT_BYTES
from npdp.collectives.machine import Kernel, Link, Machine, Rate, Way, built_in
from npdp.parallel.calibrate import SIZES
from npdp.parallel.world import init

ROOT = Path(__file__).parent.parent
S = 1 << 20
MANY = 1000  # cores
EVERY = [(collective, algorithm) for collective, makers in SCHEDULES.items() for algorithm in makers]


def flat(seconds_per_byte):
    return Rate((1,), (seconds_per_byte,))


def link(alpha=0.0, beta=0.0, both_alpha=None, further=0.0):
    return Link(Way(alpha, flat(beta)), Way(alpha if both_alpha is None else both_alpha, flat(beta)), further)


def machine(alpha=0.0, beta=0.0, gamma=0.0, *, inside=None, kernel=0.0, cores=MANY, **options):
    """Return a machine that is alike inside and across hosts, where `inside` does not say otherwise."""
    across = link(alpha, beta, **options)
    kernel = Kernel(kernel, kernel, flat(0.0), flat(0.0))
    return Machine(inside or across, across, 0.0, 0.0, flat(gamma), kernel, cores)


def seconds(collective, algorithm, hosts, machine, nbytes=S):
    return price(collective, algorithm, nbytes, hosts, machine, shares_memory=False)


def one_host(world_size):
    return (0,) * world_size


def a_host_each(world_size):
    return tuple(range(world_size))


# Rates
def test_a_rate_is_interpolated_in_the_logarithms_and_stays_as_it_is_outside():
    rate = Rate((100, 10_000), (4.0, 1.0))
    assert [rate.at(nbytes) for nbytes in (0, 1, 100, 10_000, 10**9)] == [4, 4, 4, 1, 1]
    assert rate.at(1000) == pytest.approx(2)
    assert Rate((1, 2, 4), (0.0, 0.0, 0.0)).at(3) == 0


@pytest.mark.parametrize(("nbytes", "rates"), [
    ((), ()), ((2, 1), (1.0, 1.0)), ((1, 1), (1.0, 1.0)), ((1,), (1.0, 2.0)), ((1, 2), (0.0, 1.0)),
])  # fmt: skip
def test_what_can_be_no_rate_is_refused(nbytes, rates):
    with pytest.raises(ValueError, match="a rate"):
        Rate(nbytes, rates)


# The textbook
@pytest.mark.parametrize("hosts_of", [one_host, a_host_each])
@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 8, 9, 16])
def test_a_ring_costs_what_the_textbook_says(world_size, hosts_of):
    steps, hosts = world_size - 1, hosts_of(world_size)
    allreduce = [seconds("allreduce", "ring", hosts, machine(*constants)) for constants in np.eye(3)]
    assert allreduce == pytest.approx([2 * steps, 2 * steps / world_size * S, steps / world_size * S])
    for half in ("reduce_scatter", "allgather"):
        assert seconds(half, "ring", hosts, machine(1, 0)) == steps
        assert seconds(half, "ring", hosts, machine(0, 1)) == pytest.approx(steps / world_size * S)


@pytest.mark.parametrize("hosts_of", [one_host, a_host_each])
@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_tree_and_halving_doubling_cost_what_the_textbook_says(world_size, hosts_of):
    levels, hosts = int(math.log2(world_size)), hosts_of(world_size)
    share = (world_size - 1) / world_size * S
    tree = [seconds("allreduce", "tree", hosts, machine(*constants)) for constants in np.eye(3)]
    assert tree == pytest.approx([2 * levels, 2 * levels * S, levels * S])
    halving = [seconds("allreduce", "halving_doubling", hosts, machine(*constants)) for constants in np.eye(3)]
    assert halving == pytest.approx([2 * levels, 2 * share, share])
    assert seconds("broadcast", "tree", hosts, machine(0, 1)) == pytest.approx(levels * S)


@pytest.mark.parametrize("world_size", [2, 3, 4, 9])
def test_naive_costs_what_the_textbook_says_where_each_message_costs_alike(world_size):
    hosts = a_host_each(world_size)
    assert seconds("allreduce", "naive", hosts, machine(1, further=1)) == 2 * (world_size - 1)
    assert seconds("allreduce", "naive", hosts, machine(0, 1)) == pytest.approx(2 * (world_size - 1) * S)


def test_an_early_message_costs_no_latency_and_each_further_one_little():
    hosts = one_host(4)
    assert seconds("broadcast", "naive", hosts, machine(10, further=1)) == 10 + 2  # three leave in a row
    assert seconds("allreduce", "naive", hosts, machine(10, further=1)) == (10 + 1 + 1) + (10 + 2)


def test_messages_both_ways_have_an_alpha_of_their_own():
    hosts = one_host(2)
    assert seconds("allreduce", "ring", hosts, machine(1, both_alpha=5)) == 10
    assert seconds("allreduce", "tree", hosts, machine(1, both_alpha=5)) == 2


# What is shared
def test_ranks_of_a_host_share_its_link():
    free = link()
    hosts = (0, 0, 1, 1)
    assert seconds("allreduce", "ring", hosts, machine(0, 1, inside=free)) == pytest.approx(6 / 4 * S)  # one at a time
    assert seconds("allreduce", "halving_doubling", hosts, machine(0, 1, inside=free)) == pytest.approx(2 * S)


def test_ranks_of_a_host_share_its_cores():
    alone = seconds("allreduce", "ring", one_host(4), machine(0, 1, 1))
    assert seconds("allreduce", "ring", one_host(4), machine(0, 1, 1, cores=2)) == pytest.approx(2 * alone)
    assert seconds("broadcast", "naive", one_host(5), machine(0, 1, cores=2)) == pytest.approx(4 / 2 * S)
    assert seconds("broadcast", "tree", one_host(4), machine(0, 1, cores=2)) == pytest.approx(2 * S)  # two at most


def test_across_hosts_all_but_a_segment_of_the_adding_is_hidden():
    hosts, chunk = a_host_each(2), S / 2
    for gamma in (0.5, 2.0):
        added = max(1, gamma) * chunk + min(1, gamma) * SEGMENT_BYTES
        assert seconds("allreduce", "ring", hosts, machine(0, 1, gamma)) == pytest.approx(added + chunk)
    small = 1000
    assert seconds("allreduce", "ring", hosts, machine(0, 1, 1), small) == pytest.approx(1.5 * small)
    assert seconds("allreduce", "ring", one_host(2), machine(0, 1, 1)) == pytest.approx(1.5 * S)  # one core does both


# Of all algorithms
@given(st.sampled_from(EVERY), st.integers(1, 9), st.integers(1, 1 << 24), st.integers(1, 1 << 24), st.integers(1, 3))
def test_prices_grow_with_bytes(pair, world_size, one, other, per_host):
    hosts = tuple(rank // per_host for rank in range(world_size))
    less, more = (seconds(*pair, hosts, built_in("MPI", per_host), nbytes) for nbytes in sorted((one, other)))
    assert 0 < less <= more


@given(st.integers(2, 4), st.integers(1, 3), st.booleans(), st.integers(1, 1 << 24), st.integers(1, 1 << 24))
def test_prices_of_shared_memory_and_hierarchical_grow_with_bytes(hosts, per_host, shares_memory, one, other):
    # where it changes from one way to another it may fall: there the other would have been the better one before
    constants = built_in("MPI", per_host)
    small, large = sorted((one, other))
    for collective in SCHEDULES:
        prices = [price(collective, SHARED_MEMORY, n, one_host(per_host), constants, True) for n in (small, large)]
        assert 0 < prices[0] <= prices[1]
    across = tuple(rank // per_host for rank in range(hosts * per_host))
    prices = [price("allreduce", HIERARCHICAL, n, across, constants, shares_memory) for n in (small, 4 * large)]
    assert 0 < prices[0] <= prices[1]


@pytest.mark.parametrize("pair", EVERY, ids="-".join)
@pytest.mark.parametrize("hosts", [one_host(1), one_host(7), a_host_each(6), (0, 0, 1, 1, 1)])
def test_the_shapes_of_a_schedule_are_its_steps(pair, hosts):
    maker = SCHEDULES[pair[0]][pair[1]]
    steps, found = [step for step in maker(len(hosts)) if step], shapes(hosts, maker, len(hosts))
    assert sum(found.values()) == len(steps)
    chunks = sum(move.stop - move.start for step in steps for move in step if hosts[move.source] != hosts[move.target])
    if len(set(hosts)) == len(hosts) == 6 and pair[1] == "ring":
        counted = [times * load.sent_across for shape, times in found.items() for ((load, _),) in shape]
        assert sum(counted) * len(hosts) == chunks


def test_a_ring_is_two_shapes_however_many_ranks_there_are():
    for hosts in (one_host(64), a_host_each(64)):
        assert sorted(shapes(hosts, SCHEDULES["allreduce"]["ring"], 64).values()) == [63, 63]


def test_sizes_at_which_the_kernel_changes_its_way_are_those_that_are_priced():
    kernel = "".join((ROOT / "csrc" / name).read_text() for name in ("layout.h", "shared_memory.c"))
    for name in ("SMALL_BYTES", "SMALL_DIRECT_BYTES"):
        assert re.findall(rf"\b{name} = (\d+)", kernel) == [str(getattr(cost, name))]
    assert SIZES[0] <= cost.SMALL_DIRECT_BYTES < SIZES[1]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("collective", SCHEDULES)
@pytest.mark.parametrize("staged", [False, True])
def test_the_kernel_posts_as_often_as_is_priced(ranks, collective, staged):
    if not npdp.run_ranks(2, lambda: init().memory.is_of_all)[0]:
        pytest.skip("there is no shared memory here")

    def program(nbytes):
        world = init()
        array = np.zeros(nbytes // 4, np.float32) if staged else world.shared_empty(nbytes // 4, np.dtype(np.float32))
        before = world.memory.host.kernel._host.posted
        world.memory.host.collective(collective, array)
        return world.memory.host.kernel._host.posted - before

    for nbytes in (64, 1024, 1028, 4096, 8192, 8196, 300_000, 512 << 10, 700_000, 3 << 20):
        assert set(run(ranks, program, nbytes)) == {posts(collective, nbytes, staged)}, nbytes


def test_small_arrays_cost_the_same_wherever_they_lie():
    """They go the same way; above, those in shared memory cost a post more and fewer bytes."""
    constants = built_in("MPI", 2)
    for collective in SCHEDULES:
        prices = [[price_of_kernel(collective, n, 2, staged, constants) for n in (1024, 1028)] for staged in (0, 1)]
        inside, outside = prices
        assert inside[0] == outside[0] < inside[1] != outside[1]


# What auto takes
def test_auto_flips_where_theory_says():
    alpha, beta, hosts = 1e-5, 1e-9, a_host_each(8)
    slow_both_ways = machine(alpha, beta, both_alpha=3 * alpha)
    # tree: 6 alpha + 6 S beta; halving-doubling: 18 alpha + 14/8 S beta
    flip = (18 - 6) * alpha / ((6 - 14 / 8) * beta)
    assert cheapest("allreduce", round(flip / 1.5), hosts, slow_both_ways, False) == "tree"
    assert cheapest("allreduce", round(flip * 1.5), hosts, slow_both_ways, False) == "halving_doubling"


def test_auto_takes_shared_memory_where_a_post_is_cheaper_than_a_message():
    for kernel, taken in ((1e-6, SHARED_MEMORY), (1e-3, "tree")):
        constants = machine(1e-5, 1e-9, both_alpha=3e-5, further=1e-5, kernel=kernel)
        assert cheapest("allreduce", 1024, one_host(4), constants, shares_memory=True) == taken
        assert cheapest("allreduce", 1024, one_host(4), constants, shares_memory=False) == "tree"


def test_auto_spares_the_link_between_hosts():
    constants = machine(1e-5, 8e-9, inside=link(1e-6, 1e-10), kernel=1e-6)
    for shares_memory in (True, False):
        for hosts in ((0, 0, 1, 1), (0, 0, 0, 1), (0, 1, 0, 1)):
            assert cheapest("allreduce", 16 << 20, hosts, constants, shares_memory) == HIERARCHICAL
    assert cheapest("broadcast", 16 << 20, (0, 0, 1, 1), constants, True) == "tree"


def test_of_those_that_cost_alike_the_first_is_taken():
    free = machine()
    assert cheapest("allreduce", S, one_host(4), free, True) == SHARED_MEMORY
    assert cheapest("allreduce", S, a_host_each(2), free, True) == HIERARCHICAL
    assert cheapest("broadcast", S, one_host(4), free, False) == "tree"  # naive comes last


@pytest.mark.parametrize("collective", SCHEDULES)
@pytest.mark.parametrize("hosts", [one_host(1), one_host(2), one_host(9), a_host_each(3), (0, 0, 1)])
def test_whatever_auto_takes_is_there(collective, hosts):
    for shares_memory in (True, False):
        names = candidates(collective, hosts, shares_memory)
        assert NATIVE not in names and len(names) == len(set(names))
        assert (SHARED_MEMORY in names) == (shares_memory and len(set(hosts)) == 1)
        for nbytes in (0, 1, 2048, 10**6, 10**8):
            assert cheapest(collective, nbytes, hosts, built_in("MPI", 2), shares_memory) in names


def test_a_choice_is_made_once_for_each_size():
    def program():
        world = init()
        with mock.patch.object(chooser, "cheapest", wraps=auto.cheapest) as choosing:
            for count in (1024, 1024, 512, 1024):
                world.allreduce(np.zeros(count, np.float32))
            return choosing.call_count

    assert run(1, program) == [2]


def test_other_constants_make_other_choices():
    def program():
        world, taken = init(), []
        for alpha, both_alpha in ((1.0, 10.0), (10.0, 1.0)):
            dear = machine(alpha, both_alpha=both_alpha, further=1.0, kernel=1000.0)
            world.chooser.use(constants.Constants(dear, None))
            taken.append(world.chosen("allreduce", 4096, "auto"))
        return taken

    assert run(4, program) == [["tree", "halving_doubling"]] * 4
