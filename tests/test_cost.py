"""What collectives cost: the textbook's formulas, what auto then takes, and where the constants come from."""

import json
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
from npdp.collectives import auto, carrier, constants, cost, execute, shared_memory
from npdp.collectives.auto import candidates, cheapest, price
from npdp.collectives.choose import HIERARCHICAL, NATIVE, SCHEDULES, SHARED_MEMORY
from npdp.collectives.cost import Kernel, Link, Machine, Rate, Way, posts, price_of_kernel, shapes
from npdp.collectives.defaults import built_in
from npdp.collectives.fit import SEVERAL, fit
from npdp.parallel.calibrate import KERNEL_SIZES, calibrate
from npdp.parallel.world import World, init

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
        added = max(1, gamma) * chunk + min(1, gamma) * cost.SEGMENT_BYTES
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
    steps = [step for step in SCHEDULES[pair[0]][pair[1]](len(hosts), 0) if step]
    found = shapes(steps, hosts)
    assert sum(found.values()) == len(steps)
    chunks = sum(move.stop - move.start for step in steps for move in step if hosts[move.source] != hosts[move.target])
    if len(set(hosts)) == len(hosts) == 6 and pair[1] == "ring":
        assert sum(times * load.out for shape, times in found.items() for load in shape) * len(hosts) == chunks


def test_a_ring_is_two_shapes_however_many_ranks_there_are():
    for hosts in (one_host(64), a_host_each(64)):
        assert sorted(shapes(SCHEDULES["allreduce"]["ring"](64, 0), hosts).values()) == [63, 63]


def test_what_is_carried_out_is_what_is_priced():
    assert cost.SEGMENT_BYTES == execute.SEGMENT_BYTES and cost.SLOT_BYTES == shared_memory.SLOT_BYTES
    kernel = (ROOT / "csrc" / "shared_memory.c").read_text()
    for name in ("SMALL_BYTES", "SMALL_DIRECT_BYTES"):
        assert re.findall(rf"\b{name} = (\d+)", kernel) == [str(getattr(cost, name))]
    assert KERNEL_SIZES[0] <= cost.SMALL_DIRECT_BYTES < KERNEL_SIZES[1]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("collective", SCHEDULES)
@pytest.mark.parametrize("staged", [False, True])
def test_the_kernel_posts_as_often_as_is_priced(ranks, collective, staged):
    if not npdp.run_ranks(2, lambda: init().shares_memory)[0]:
        pytest.skip("there is no shared memory here")

    def program(nbytes):
        world = init()
        array = np.zeros(nbytes // 4, np.float32) if staged else world.shared_empty(nbytes // 4, np.dtype(np.float32))
        before = world.host.kernel._host.posted
        world.host.collective(collective, array)
        return world.host.kernel._host.posted - before

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


def test_mpis_own_has_no_price():
    assert price("allreduce", NATIVE, S, one_host(2), machine(1, 1, 1), True) is None


def test_a_choice_is_made_once_for_each_size():
    def program():
        world = init()
        with mock.patch.object(carrier, "cheapest", wraps=auto.cheapest) as choosing:
            for _ in range(3):
                world.chosen("allreduce", 4096, "auto")
            return choosing.call_count

    assert run(1, program) == [1]


def test_other_constants_make_other_choices():
    def program():
        world, taken = init(), []
        for alpha, both_alpha in ((1.0, 10.0), (10.0, 1.0)):
            world.use(constants.Constants(machine(alpha, both_alpha=both_alpha, further=1.0, kernel=1000.0), None))
            taken.append(world.chosen("allreduce", 4096, "auto"))
        return taken

    assert run(4, program) == [["tree", "halving_doubling"]] * 4


# From times to constants
def times_of(wanted, hosts, tree=1.0, ring=1.0):
    """Return the times that a machine of one core a rank has, as calibrate measures them."""
    sizes = (8, 1 << 14, 1 << 16, 1 << 20)
    times = {"call": {0: wanted.call_s}, "add": {0: wanted.add_s}}
    for name, which in (("near", wanted.inside), ("far", wanted.across)):
        flows = 1 if name == "near" else min(map(hosts.count, hosts))
        for kind, way in ((name, which.one_way), (f"{name} both ways", which.both_ways)):
            times[kind] = {n: way.alpha_s + (n > 8) * n * flows * way.beta.at(n * flows) for n in sizes}
        times[f"{name} several"] = {8: which.one_way.alpha_s + (SEVERAL - 1) * which.further_s}
    adding = {n: wanted.add_s + n * wanted.gamma.at(n) for n in sizes[1:]}
    times["near added"] = {8: 2 * times["near"][8], **{n: 2 * times["near"][n] + adding[n] for n in adding}}
    for name, factor in (("tree", tree), ("ring", ring)):
        times[name] = {512: factor * price("allreduce", name, 512, hosts, wanted, False)}
    kernel, ranks = wanted.kernel, max(map(hosts.count, hosts))
    for name, staged in (("direct", False), ("staged", True)):
        beta = kernel.staged if staged else kernel.direct
        touched = cost.bytes_touched("allreduce", ranks, staged)
        times[name] = {
            n: kernel.first_s + kernel.post_s * (posts("allreduce", n, staged) - 1) + n * touched * beta.at(n)
            for n in (4096, *sizes[1:])
        }
        times[name] = {8: kernel.first_s, **times[name]}
    return times


KNOWN = Machine(
    inside=Link(Way(2e-6, flat(2e-10)), Way(3e-6, flat(3e-10)), 1e-6),
    across=Link(Way(1e-5, flat(8e-9)), Way(2e-5, flat(9e-9)), 4e-6),
    call_s=2e-6,
    add_s=1e-6,
    gamma=Rate((1 << 14, 1 << 20), (2e-10, 4e-10)),
    kernel=Kernel(1e-6, 5e-7, Rate((1 << 16, 1 << 20), (1e-11, 1e-11)), Rate((1 << 16, 1 << 20), (1e-10, 1e-10))),
    cores=MANY,
)


def assert_prices_alike(one, other, hosts):
    for collective, algorithm in EVERY:
        for nbytes in (1 << 16, 1 << 20, 3 << 20):
            prices = [seconds(collective, algorithm, hosts, each, nbytes) for each in (one, other)]
            assert prices[0] == pytest.approx(prices[1], rel=0.02), (collective, algorithm, nbytes)


@pytest.mark.parametrize("hosts", [(0, 0, 1, 1), (0, 0, 1)])
def test_constants_are_found_again_in_the_times_that_they_give(hosts):
    found = fit(times_of(KNOWN, hosts), hosts, MANY, machine())
    assert found.inside.one_way.alpha_s == pytest.approx(KNOWN.inside.one_way.alpha_s, rel=1e-3)
    assert found.across.both_ways.beta.at(S) == pytest.approx(9e-9)
    assert found.across.further_s == pytest.approx(4e-6, rel=1e-3)
    assert found.gamma.at(1 << 14) == pytest.approx(2e-10) and found.gamma.at(S) == pytest.approx(4e-10)
    assert found.kernel.post_s == pytest.approx(5e-7, rel=0.2)
    assert found.kernel.staged.at(S) == pytest.approx(1e-10, rel=0.01)
    assert_prices_alike(found, KNOWN, hosts)


def test_latencies_are_those_of_whole_collectives():
    found = fit(times_of(KNOWN, (0, 0), tree=3.0), (0, 0), MANY, machine())
    assert seconds("allreduce", "tree", (0, 0), found, 512) == pytest.approx(
        3 * seconds("allreduce", "tree", (0, 0), KNOWN, 512), rel=1e-3
    )
    assert seconds("allreduce", "ring", (0, 0), found, 512) == pytest.approx(
        seconds("allreduce", "ring", (0, 0), KNOWN, 512), rel=1e-3
    )


def test_what_is_lost_in_the_noise_says_nothing():
    times = times_of(KNOWN, (0, 0))
    times["near"][1 << 14] = times["near"][8] / 2  # quicker than the smallest message
    times["near added"] = {n: 0.0 for n in times["near added"]}
    found = fit(times, (0, 0), MANY, machine())
    assert found.inside.one_way.beta.nbytes == (1 << 16, 1 << 20)
    assert 0 < found.gamma.at(S) < 1e-12


# Where constants are kept
@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "npdp"


def constants_here(world_size=3):
    """Return what the ranks of a world of threads believe, which must be the same."""
    found = run(world_size, lambda: init().constants)
    assert found == [found[0]] * world_size
    return found[0]


def keep(wanted, world_size=3):
    def program():
        world = init()
        return constants.keep(world.transport, world.hosts, wanted if world.rank == 0 else machine())

    found = run(world_size, program)
    assert found == [found[0]] * world_size
    return found[0]


def test_what_is_kept_is_found_again_by_all_ranks_and_only_in_such_a_world(cache):
    assert constants_here() == (built_in("threads", 3), None)
    kept = keep(KNOWN)
    assert kept.machine == KNOWN and Path(kept.file).parent == cache
    assert constants_here() == kept
    assert constants_here(world_size=2).file is None
    assert [path.name for path in cache.iterdir()] == [Path(kept.file).name]  # nothing is left beside it


@pytest.mark.parametrize(("part", "other"), [
    ("processor", "another"), ("cores", 77), ("npdp", "9.9"), ("kernels", "fortran"), ("ranks of each host", [1, 2]),
    ("transport", "pigeons"),
])  # fmt: skip
def test_constants_of_another_machine_are_not_taken(part, other, cache):
    file = Path(keep(KNOWN).file)
    document = json.loads(file.read_text())
    document["key"][part] = other
    file.write_text(json.dumps(document))
    assert constants_here().file is None


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '"x"', '{"key": 1}', b"\xff\xfe", "machine: null", "inside: {}", "cores: 0", "call_s: -1",
    'add_s: "fast"', "call_s: NaN", 'gamma: {"nbytes": [2, 1], "seconds": [1, 1]}',
    'gamma: {"nbytes": [], "seconds": []}', 'gamma: {"nbytes": [1], "seconds": [1, 2]}',
    'gamma: {"nbytes": [1, 2], "seconds": [0, 1]}',
])  # fmt: skip
def test_a_broken_file_is_as_good_as_none(text, cache):
    file = Path(keep(KNOWN).file)
    if isinstance(text, str) and ": " in text and not text.startswith("{"):
        document = json.loads(file.read_text())
        name, _, value = text.partition(": ")
        (document if name == "machine" else document["machine"])[name] = json.loads(value)
        text = json.dumps(document)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert constants_here() == (built_in("threads", 3), None)
    assert keep(KNOWN).file == str(file) and constants_here().machine == KNOWN


@pytest.mark.parametrize("place", ["a file", "a file/below", "no room"])
def test_without_a_place_to_write_constants_hold_for_this_run(place, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    if place == "no room":
        monkeypatch.setattr("os.fsync", mock.Mock(side_effect=OSError(28, "No space left on device")))
    assert keep(KNOWN) == (KNOWN, None)
    assert constants_here().file is None
    assert not (tmp_path / "no room" / "npdp").exists() or not list((tmp_path / "no room" / "npdp").iterdir())


def test_the_cache_is_in_the_home_directory_unless_the_environment_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("", "relative"):  # a relative one counts for nothing, says the standard
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        assert Path(keep(KNOWN).file).parent == tmp_path / ".cache" / "npdp"
    monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError("no home")))
    assert keep(KNOWN).file is None and constants_here().file is None


def test_constants_come_from_rank_0_whatever_others_find(monkeypatch):
    found = mock.Mock(side_effect=lambda *_: {"machine": constants.as_json(KNOWN), "file": None})
    monkeypatch.setattr(constants, "_found", found)
    assert constants_here(5).machine == KNOWN and found.call_count == 1


def test_nothing_is_measured_or_written_by_a_world_that_only_computes(cache, monkeypatch):
    monkeypatch.setattr("npdp.parallel.calibrate.calibrate", lambda *_: pytest.fail("it was measured"))

    def program():
        npdp.allreduce(np.ones(1000, np.float32))
        return init().constants.file

    assert run(3, program) == [None] * 3 and not cache.exists()


# Measuring
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_world_measures_itself_and_then_chooses_by_it(world_size, hosts, cache, monkeypatch):
    monkeypatch.setattr("npdp.parallel.calibrate.ENOUGH_S", 0.0)  # once is enough here

    def program():
        world = init()
        before = world.chosen("allreduce", 64, "auto")
        found = calibrate(world)
        assert world.constants is found or world.constants == found
        return found, before, [world.chosen("allreduce", 1 << power, "auto") for power in range(3, 27)]

    results = run(world_size, program, hosts=[rank * hosts // world_size for rank in range(world_size)])
    assert results == [results[0]] * world_size
    found, _, _ = results[0]
    assert found.file is not None and constants.from_json(constants.as_json(found.machine)) == found.machine
    without = built_in("threads", -(-world_size // hosts))
    measured = [found.machine.inside.one_way.beta != without.inside.one_way.beta,
                found.machine.across.one_way.beta != without.across.one_way.beta]  # fmt: skip
    assert measured == [world_size > hosts, hosts > 1]


def test_where_a_host_has_no_room_for_the_kernels_arrays_no_rank_times_them(cache, monkeypatch):
    monkeypatch.setattr("npdp.parallel.calibrate.ENOUGH_S", 0.0)
    empty = shared_memory.Host.empty
    monkeypatch.setattr(shared_memory.Host, "empty", lambda host, *of: empty(host, *of) if 0 in host.ranks else None)
    found = run(3, lambda: calibrate(init()), hosts=(0, 0, 1))
    assert found == [found[0]] * 3 and found[0].machine.kernel == built_in("threads", 2).kernel


def test_a_world_of_one_has_nothing_to_measure():
    with pytest.raises(ValueError, match="this world has one"):
        run(1, lambda: calibrate(init()))
    assert isinstance(init(), World) and init().constants.file is None
