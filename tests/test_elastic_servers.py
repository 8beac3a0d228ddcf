"""A parameter server on threads that survives: whoever dies when, nothing is lost and nothing is done twice."""

import math
import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mortal import run_mortal
from worlds import CLASSES, FEATURES, TwoDtypes, assert_close, dataset, mlp, parameters

import npdp
from npdp import nn, optim
from npdp.app.epochs import in_batches
from npdp.base.errors import InputError
from npdp.comm.errors import CommunicationError
from npdp.comm.thread_deaths import Death
from npdp.data import DataLoader
from npdp.elastic.ledger import expected_checksum
from npdp.elastic.servers.recovery import Survival, through_deaths
from npdp.elastic.servers.replicas import Replicas, Replicated
from npdp.elastic.servers.shards import Kept
from npdp.elastic.servers.strategy import SurvivingServers, replica_of, roles_of
from npdp.parallel.parameter_server.messages import Request
from npdp.parallel.parameter_server.record import Record
from npdp.parallel.world import init

SAMPLES, BATCH, EPOCHS = 31, 6, 2
MESSAGES = 700  # about as many as a rank of these worlds has
MATTER = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def of_dropout():
    npdp.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 6, dtype=np.float64), nn.Dropout(0.3),
                         nn.Linear(6, CLASSES, dtype=np.float64))  # fmt: skip


def of_groups(model):
    layers = list(model.parameters())
    return optim.SGD([{"params": layers[:1], "lr": 0.05}, {"params": layers[1:]}], lr=0.1, momentum=0.9)


TRAINED = {
    "adam": (mlp, lambda model: optim.Adam(model.parameters(), lr=0.01)),
    "groups": (mlp, of_groups),
    "dropout": (of_dropout, lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9)),
    "two dtypes": (TwoDtypes, lambda model: optim.SGD(model.parameters(), lr=0.1, momentum=0.9)),
}


def batches_of(accumulate):
    return DataLoader(dataset(SAMPLES), BATCH, shuffle=True, seed=0, accumulate=accumulate)


def update(model, optimizer, batch):
    optimizer.zero_grad()
    for inputs, labels in batch:
        nn.CrossEntropyLoss()(model(inputs), labels).backward()
    optimizer.step()


def trained(what="adam", accumulate=1):
    """Return the parameters that a plain rank gets."""

    def program():
        make, make_optimizer = TRAINED[what]
        model = make()
        optimizer, batches = make_optimizer(model), batches_of(accumulate)
        model = nn.DataParallel(model)
        for _ in range(EPOCHS):
            for batch in in_batches(batches, accumulate):
                update(model, optimizer, batch)
        return parameters(model)

    return npdp.run_ranks(1, program)[0]


def survived(servers, staleness, what="adam", accumulate=1):
    """Train through deaths; return the parameters of a rank that ends as a worker, and each shard's report."""
    survival = Survival(init(), staleness == 0)
    make, make_optimizer = TRAINED[what]

    def program():
        model = make()
        optimizer, batches = make_optimizer(model), batches_of(accumulate)
        survival.take_over(model, optimizer, batches)
        model = nn.DataParallel(model, strategy=SurvivingServers(servers, staleness, survival=survival))
        survival.count_on(model, optimizer, batches)
        for _ in range(batches.epoch, EPOCHS):
            for batch in in_batches(batches, accumulate):
                update(model, optimizer, batch)
            npdp.barrier()
            survival.end_epoch()
        model.synchronize()
        end = model.strategy.end_training()
        return parameters(model), model.strategy._client.reports, end

    return through_deaths(init(), survival, program)


def assert_each_sample_once(reports, end):
    for report in reports:
        once = SAMPLES * EPOCHS, expected_checksum(SAMPLES, EPOCHS)
        assert (report["samples"], report["checksum"]) == once, "a shard has lost samples, or used some twice"
    assert end["samples_seen"] == SAMPLES * EPOCHS


@st.composite
def worlds(draw, most=1):
    """Servers and ranks, who dies at which message, and on which hosts they are."""
    servers, workers = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    ranks = max(2, servers + workers)
    number = st.integers(0, ranks - 1)
    dead = draw(st.lists(number, unique=True, min_size=1, max_size=min(most, ranks - 1)))
    hosts = draw(st.sampled_from([None, range(ranks)]))
    return servers, ranks, {rank: draw(st.integers(1, MESSAGES)) for rank in dead}, hosts


# Whoever dies when
@MATTER
@given(worlds(), st.sampled_from(sorted(TRAINED)), st.sampled_from([1, 3]))
def test_with_staleness_0_the_parameters_are_those_of_an_undisturbed_run(world, what, accumulate):
    servers, ranks, deaths, hosts = world
    wanted = trained(what, accumulate)
    found, _ = run_mortal(ranks, deaths, lambda: survived(servers, 0, what, accumulate), hosts)
    workers = [of for of in found.values() if of is not None]
    assert workers
    for got, reports, end in workers:
        assert_close(got, wanted, f"{deaths} die", 1e-6 if what == "two dtypes" else 1e-10)
        assert_each_sample_once(reports, end)


@MATTER
@given(worlds(), st.sampled_from([1, math.inf]), st.sampled_from(sorted(TRAINED)))
def test_with_a_staleness_each_work_item_is_applied_to_each_shard_once(world, staleness, what):
    servers, ranks, deaths, hosts = world
    found, _ = run_mortal(ranks, deaths, lambda: survived(servers, staleness, what), hosts)
    workers = [of for of in found.values() if of is not None]
    assert workers
    for _, reports, end in workers:
        assert_each_sample_once(reports, end)


@MATTER
@given(worlds(most=3), st.sampled_from([0, math.inf]))
def test_of_several_deaths_training_either_survives_whole_or_says_what_is_lost(world, staleness):
    servers, ranks, deaths, hosts = world
    assume(len(deaths) > 1)
    try:
        found, _ = run_mortal(ranks, deaths, lambda: survived(servers, staleness), hosts)
    except CommunicationError as error:
        assert "shards of the parameters are lost" in str(error)
        return
    for _, reports, end in filter(None, found.values()):
        assert_each_sample_once(reports, end)


@pytest.mark.parametrize("memory", [True, False])
def test_a_shard_that_is_an_update_ahead_goes_back_and_the_iteration_is_done_again(memory):
    wanted, ahead, forwarded, apply = trained(), threading.Semaphore(0), Replicated.apply, Kept.apply

    def applied(self, pushes, version):
        apply(self, pushes, version)
        if (self.place, version) == ((0, 0), 4):
            ahead.release()

    def dies_when_the_other_is_ahead(self, pushes, version):
        if (self.kept.place, version) == ((0, 1), 4) and not died:
            for _ in range(2):  # the shard and its replica
                assert ahead.acquire(timeout=20)
            died.append(self)
            raise Death
        forwarded(self, pushes, version)

    died, whole, chosen = [], Survival._choose, []

    def choose(self, everyones):
        found = whole(self, everyones)
        chosen.append({everyones[rank]["held"][index]["version"] for rank, index in found.values()})
        return found

    on_servers = mock.patch.object(Replicated, "apply", dies_when_the_other_is_ahead)
    with on_servers, mock.patch.object(Kept, "apply", applied), mock.patch.object(Survival, "_choose", choose):
        found, _ = run_mortal(4, {}, lambda: survived(2, 0), None if memory else range(4))
    assert chosen == [{4}] * 3
    for got, reports, end in filter(None, found.values()):
        assert_close(got, wanted, tolerance=1e-10)
        assert_each_sample_once(reports, end)


# Replicas
@pytest.mark.parametrize(("servers", "ranks"), [(2, 4), (1, 3), (0, 3)])
@pytest.mark.parametrize("staleness", [0, math.inf])
@pytest.mark.parametrize("memory", [True, False])
def test_a_replica_is_the_same_to_the_last_bit_as_its_shard(servers, ranks, staleness, memory):
    made, whole = [], Kept.__init__

    def note(self, *arguments, **named):
        whole(self, *arguments, **named)
        made.append(self)

    with mock.patch.object(Kept, "__init__", note):
        run_mortal(ranks, {}, lambda: survived(servers, staleness), None if memory else range(ranks))
    for place in {kept.place for kept in made}:
        one, other = (kept for kept in made if kept.place == place)
        assert one.record.version > 0
        assert one.snapshots()[0].describe() == other.snapshots()[0].describe()
        for name, array in one.shard.arrays().items():
            assert np.array_equal(array, other.shard.arrays()[name])


def test_a_push_is_answered_after_its_replica_has_applied_it():
    replicas, apply, answer = {}, Replicas._apply, Replicated.answer

    def applied(self, kept, count, source):
        replicas[kept.place] = kept
        apply(self, kept, count, source)

    def answered(self, reply):
        assert not reply.version or replicas[self.kept.place].record.version >= reply.version
        return answer(self, reply)

    with mock.patch.object(Replicas, "_apply", applied), mock.patch.object(Replicated, "answer", answered):
        for staleness in (0, math.inf):
            replicas.clear()
            run_mortal(4, {}, lambda staleness=staleness: survived(2, staleness))
            assert replicas


# Roles
@given(st.integers(1, 12), st.integers(0, 5), st.integers(1, 6))
def test_whoever_is_left_there_is_a_worker_each_range_has_a_server_and_its_replica_is_elsewhere(ranks, servers, ranges):
    for rank in range(ranks):
        roles = roles_of(rank, ranks, servers, ranges)
        assert 1 <= roles.workers <= ranks and len(roles.servers) == ranges
        assert sum(len(roles.served(other)) for other in range(ranks)) == ranges
        dedicated = set(range(roles.workers, ranks))
        assert len(dedicated) == min(servers, ranks - 1)
        assert not dedicated or set(roles.servers) <= dedicated
        for server in range(ranges):
            replica = replica_of(roles, server)
            assert (replica is None) == (ranks == 1)
            assert replica != roles.servers[server]


@given(st.lists(st.lists(st.integers(0, 9), unique=True), min_size=1, max_size=3))
def test_what_any_shard_has_not_applied_is_left(applied):
    survival, request = Survival(npdp.init(), False), Request(0, 3, 10, 2)
    for number, items in enumerate(applied):
        record = Record()
        if items:  # a shard that has applied nothing knows nothing of the pass
            record.applied.passes[0, 3] = request, set(range(10)) - set(items)
        survival.begun_with[number, 0] = mock.Mock(record=record)
    everywhere = set.intersection(*map(set, applied))
    wanted = {(0, 3): (request, sorted(set(range(10)) - everywhere))} if any(applied) else {}
    assert survival.left() == wanted


# Refused
def test_a_model_with_buffers_is_refused():
    model = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="without buffers, got 1.running_mean"):
        Survival(npdp.init(), True).take_over(model, optim.SGD(model.parameters(), lr=0.1), batches_of(1))


def test_sparse_parameters_are_refused():
    def program():
        model = nn.Sequential(nn.Embedding(9, 4, sparse=True))
        optim.SGD(model.parameters(), lr=0.1)
        nn.DataParallel(model, strategy=SurvivingServers(1, 0, survival=Survival(init(), True)))

    with pytest.raises(ValueError, match="wanted dense parameters, got 1 sparse"):
        npdp.run_ranks(2, program)
