"""The constants of prices: from times, from a file, measured."""

import json
import os
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from test_cost import EVERY, MANY, S, flat, machine, seconds
from worlds import run

import npdp
from npdp import kernels
from npdp.collectives import constants, cost
from npdp.collectives.arena import Arena
from npdp.collectives.communicator import Communicator
from npdp.collectives.cost import posts
from npdp.collectives.machine import Kernel, Link, Machine, Rate, Way, built_in, from_json
from npdp.parallel import calibrate as measuring
from npdp.parallel.calibrate import SEVERAL, calibrate, fit, messages_among
from npdp.parallel.world import init


# From times to constants
def times_of(wanted, hosts):
    """Return the times that a machine of one core a rank has, as calibrate measures them."""
    sizes = (8, 1 << 14, 1 << 16, 1 << 20)
    times = {"call": {0: wanted.call_s}, "add": {0: wanted.add_s}}
    for name, which in (("near", wanted.inside), ("far", wanted.across)):
        flows = 1 if name == "near" else min(map(hosts.count, hosts))
        for kind, way in ((name, which.one_way), (f"{name} both ways", which.both_ways)):
            times[kind] = {n: way.alpha_s + (n > 8) * n * flows * way.beta.at(n * flows) for n in sizes}
        times[f"{name} several"] = {8: which.one_way.alpha_s + (SEVERAL - 1) * which.further_s}
    adding = {n: wanted.add_s + n * wanted.gamma.at(n) for n in sizes[1:]}
    times["near added"] = {8: times["near"][8], **{n: times["near"][n] + adding[n] for n in adding}}
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
    found = fit(times_of(KNOWN, hosts), hosts, machine())
    assert found.inside.one_way.alpha_s == pytest.approx(KNOWN.inside.one_way.alpha_s, rel=1e-3)
    assert found.across.both_ways.beta.at(S) == pytest.approx(9e-9)
    assert found.across.further_s == pytest.approx(4e-6, rel=1e-3)
    assert found.gamma.at(1 << 14) == pytest.approx(2e-10) and found.gamma.at(S) == pytest.approx(4e-10)
    assert found.kernel.post_s == pytest.approx(5e-7, rel=0.2)
    assert found.kernel.staged.at(S) == pytest.approx(1e-10, rel=0.01)
    assert_prices_alike(found, KNOWN, hosts)


def test_what_is_lost_in_the_noise_says_nothing():
    times = times_of(KNOWN, (0, 0))
    times["near"][1 << 14] = times["near"][8] / 2  # quicker than the smallest message
    times["near added"] = {n: 0.0 for n in times["near added"]}
    found = fit(times, (0, 0), machine())
    assert found.inside.one_way.beta.nbytes == (1 << 16, 1 << 20)
    assert 0 < found.gamma.at(S) < 1e-12


# Where constants are kept
@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "npdp"


def constants_here(world_size=3):
    """Return what the ranks of a world of threads believe, which must be the same."""
    found = run(world_size, lambda: init().chooser.constants)
    assert found == [found[0]] * world_size
    return found[0]


def keep(wanted, world_size=3):
    def program():
        world = init()
        return constants.keep(world.transport, world.topology.hosts, wanted if world.rank == 0 else machine())

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
    ("processor", "another"), ("family", "15/107"), ("cores", 77), ("npdp", "9.9"), ("kernels", "fortran"),
    ("ranks of each host", [1, 2]), ("transport", "pigeons"),
])  # fmt: skip
def test_constants_of_another_machine_are_not_taken(part, other, cache):
    file = Path(keep(KNOWN).file)
    document = json.loads(file.read_text())
    assert document["key"][part] != other
    document["key"][part] = other
    file.write_text(json.dumps(document))
    assert constants_here().file is None


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '"x"', '{"key": 1}', b"\xff\xfe", "machine: null", "inside: {}", "cores: 0", "call_s: -1",
    'add_s: "fast"', "call_s: NaN", 'gamma: {"nbytes": [2, 1], "seconds": [1, 1]}',
    'gamma: {"nbytes": [], "seconds": []}', 'gamma: {"nbytes": [1], "seconds": [1, 2]}',
    'gamma: {"nbytes": [1, 2], "seconds": [0, 1]}', "cores: Infinity", "call_s: 1e308",
    "call_s: 1" + 400 * "0", "[" * 10**5,
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


def test_a_pipe_in_its_place_is_as_good_as_none_and_not_written(cache):
    file = Path(keep(KNOWN).file)
    file.unlink()
    os.mkfifo(file)
    assert constants_here() == (built_in("threads", 3), None)
    assert keep(KNOWN) == (KNOWN, None) and file.is_fifo()


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
    found = mock.Mock(side_effect=lambda *_: constants.Constants(KNOWN, None))
    monkeypatch.setattr(constants, "_found", found)
    assert constants_here(5).machine == KNOWN and found.call_count == 1


def test_nothing_is_measured_or_written_by_a_world_that_only_computes(cache, monkeypatch):
    monkeypatch.setattr("npdp.parallel.calibrate.calibrate", lambda *_: pytest.fail("it was measured"))

    def program():
        npdp.allreduce(np.ones(1000, np.float32))
        return init().chooser.constants.file

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
        assert world.chooser.constants is found or world.chooser.constants == found
        return found, before, [world.chosen("allreduce", 1 << power, "auto") for power in range(3, 27)]

    results = run(world_size, program, hosts=[rank * hosts // world_size for rank in range(world_size)])
    assert results == [results[0]] * world_size
    found, _, _ = results[0]
    assert found.file is not None and from_json(json.loads(json.dumps(asdict(found.machine)))) == found.machine
    without = built_in("threads", -(-world_size // hosts))
    measured = [found.machine.inside.one_way.beta != without.inside.one_way.beta,
                found.machine.across.one_way.beta != without.across.one_way.beta]  # fmt: skip
    assert measured == [world_size > hosts, hosts > 1]


@pytest.mark.parametrize("ranks", [[0, 1], [3, 5, 4], [0, 2, 4, 6], [1, 0, 2, 3, 4]])
def test_each_message_that_is_timed_waits_for_the_one_before(ranks):
    """As in a collective, where a rank waits for one that waits for others, and passes on what it got."""
    found = messages_among(ranks)
    for what in ("", " several", " added"):
        assert [len(step) for step in found[what]] == [SEVERAL if what == " several" else 1] * len(ranks)
        assert [step[0].target for step in found[what]] == [*ranks[1:], ranks[0]]
        assert all(one[0].target == other[0].source for one, other in pairwise(found[what]))
        assert {move.accumulate for step in found[what] for move in step} == {what == " added"}
    first, second = found[" both ways"]
    for step in (first, second):
        assert sorted(move.source for move in step) == sorted(move.target for move in step) == sorted(ranks)
        sent = {move.source: move.start for move in step}
        assert all(sent[move.target] != move.start for move in step)  # nobody receives where it sends from
    assert {(move.target, move.start) for move in first} == {(move.source, move.start) for move in second}


@pytest.mark.skipif(kernels.backend() != "c", reason="shared memory needs the C kernels")
def test_many_ranks_of_a_host_take_no_more_memory_than_a_few(cache, monkeypatch):
    monkeypatch.setattr(measuring, "ENOUGH_S", 0.0)
    monkeypatch.setattr(measuring, "HOST_BYTES", 3 << 16)
    found = run(3, lambda: calibrate(init()))[0].machine
    assert max(found.inside.one_way.beta.nbytes) <= 1 << 16 and max(found.kernel.staged.nbytes) <= 1 << 18


def test_where_a_host_has_no_room_for_the_kernels_arrays_no_rank_times_them(cache, monkeypatch):
    monkeypatch.setattr("npdp.parallel.calibrate.ENOUGH_S", 0.0)
    empty = Arena.empty
    monkeypatch.setattr(Arena, "empty", lambda arena, *of: empty(arena, *of) if 0 in arena._ranks else None)
    found = run(3, lambda: calibrate(init()), hosts=(0, 0, 1))
    assert found == [found[0]] * 3 and found[0].machine.kernel == built_in("threads", 2).kernel


def test_a_world_of_one_has_nothing_to_measure():
    with pytest.raises(ValueError, match="this world has one"):
        run(1, lambda: calibrate(init()))
    assert isinstance(init(), Communicator) and init().chooser.constants.file is None
