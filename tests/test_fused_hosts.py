"""The fused update across hosts, short of memory and with late ranks gives the parameters of the replicated one."""

import time
from itertools import cycle

import numpy as np
import pytest
from fused import IN_RANK_ORDER, assert_same, follow, replicated, trained, wide
from needs import needs_shared_memory
from worlds import loader, mlp, record, run

import npdp
from npdp import nn, optim
from npdp.collectives.communicator import Communicator


@pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1, 2, 2), (0, 1, 2, 3, 4)], ids=str)
def test_on_several_hosts_it_gives_the_parameters_of_the_replicated_update(hosts):
    for algorithm, tolerance in (("auto", 1e-10), ("hierarchical", 1e-10), ("ring", 1e-10), ("naive", 0)):
        for plan in ("zsuzsuzsu", "zsuzouzsuzfuzeu", "zuzfuzsu"):
            assert_same(
                len(hosts), tolerance, algorithm=algorithm, world=dict(hosts=hosts), plan=plan, optimizer="adam"
            )


@needs_shared_memory
@pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1, 1), (0, 1, 1, 0, 0, 1)], ids=str)
def test_on_two_hosts_it_gives_the_bits_of_the_replicated_update(hosts):
    def both(optimizer, make):
        def program():
            return [trained(u, algorithm="auto", optimizer=optimizer, make=make)[1] for u in ("replicated", "fused")]

        return run(len(hosts), program, hosts=hosts)

    for optimizer, make in (("momentum", mlp), ("adam", wide)):
        assert len({sha256 for of_rank in both(optimizer, make) for sha256 in of_rank}) == 1


@needs_shared_memory
@pytest.mark.parametrize(("hosts", "ranks"), [(2, 2), (3, 2), (2, 3)])
def test_on_several_hosts_a_link_carries_what_the_all_reduce_would_and_a_host_holds_one_copy(hosts, ranks):
    where = tuple(host for host in range(hosts) for _ in range(ranks))

    def program():
        model = wide(np.float32)
        optimizer = optim.Adam(model.parameters())
        model = nn.DataParallel(model, update="fused")
        batches = cycle(loader(ranks * hosts))
        follow("zsu", model, [optimizer], batches)
        recorder = record()
        follow("zsu", model, [optimizer], batches)
        (flat,), (group,) = model.strategy.flats, optimizer.groups
        sent = sum(nbytes for peer, nbytes in recorder.sent if where[peer] != where[npdp.rank()])
        memory = npdp.init().memory.host.arena._address  # mapped elsewhere by each rank
        at = [array.ctypes.data - memory for array in (flat.data, group.state["exp_avg"], group.state["exp_avg_sq"])]
        return sent, flat.data.nbytes, at, model.strategy.algorithm

    sent, nbytes, at, algorithm = zip(*run(hosts * ranks, program, hosts=where))
    small = 1000 * len(where)  # who is used, and whether all are there
    for host in range(hosts):
        assert sum(sent[host * ranks :][:ranks]) <= 2 * (hosts - 1) / hosts * nbytes[0] + small
        assert len(set(map(tuple, at[host * ranks :][:ranks]))) == 1
    assert set(algorithm) == {"hierarchical"}


@needs_shared_memory
@pytest.mark.parametrize(("hosts", "tolerance"), [((0, 0, 0), 0), ((0, 1, 1, 0), 1e-10)], ids=["one host", "two hosts"])
@pytest.mark.parametrize("lacks", ["state", "parameters", "gradients"])
def test_it_gives_the_same_parameters_where_there_is_no_room_for_all(lacks, hosts, tolerance, monkeypatch):
    """Of two hosts, on the first."""
    empty = Communicator.host_empty
    given = []

    def no_room(world, count, dtype, one_for_all):
        array = empty(world, count, dtype, one_for_all)
        given.append((world.rank, one_for_all))
        is_state = given.count((world.rank, True)) > 1
        lacking = "gradients" if not one_for_all else "state" if is_state else "parameters"
        return array if lacks != lacking or hosts[world.rank] else None

    monkeypatch.setattr(Communicator, "host_empty", no_room)
    for plan in ("zsuzsuzsu", "zsuzfuzsuzou"):
        replicated(len(hosts), trained, frozenset(dict(plan=plan, optimizer="adam").items()))
        given.clear()
        assert_same(len(hosts), tolerance, plan=plan, optimizer="adam", world=dict(hosts=hosts))


def dawdle(monkeypatch, late):
    """Make rank `late` come later than the others to every collective and every update, and out of it."""

    def slow(function):
        def slowly(*arguments, **options):
            is_late = npdp.rank() == late
            time.sleep(0.003 * is_late)
            outcome = function(*arguments, **options)
            time.sleep(0.003 * is_late)
            return outcome

        return slowly

    collectives = [(Communicator, name) for name in ("allreduce", "sum", "run_across_hosts")]
    for owner, name in [*collectives, (optim.SGD, "update"), (optim.Adam, "update")]:
        monkeypatch.setattr(owner, name, slow(getattr(owner, name)))


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
def test_it_gives_the_same_bits_whoever_comes_late(algorithm, late, monkeypatch):
    """Nobody sums what is not there yet, and nobody computes with parameters that are not all updated."""
    options = dict(plan="zsuzouzsuzeuzsu", optimizer="adam")
    replicated(3, trained, frozenset(options.items()))  # at its own pace
    dawdle(monkeypatch, late)
    assert_same(3, algorithm=algorithm, **options)


@needs_shared_memory
@pytest.mark.parametrize("late", [0, 1, 3])
def test_across_hosts_it_gives_the_same_parameters_whoever_comes_late(late, monkeypatch):
    options = dict(plan="zsuzouzsuzeuzsu", optimizer="adam")
    replicated(4, trained, frozenset(options.items()))
    dawdle(monkeypatch, late)
    assert_same(4, 1e-10, world=dict(hosts=(0, 1, 0, 1)), **options)
