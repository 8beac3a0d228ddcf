"""The fused update gives the parameters of the replicated one: the same bits where sums are in rank order.

What the replicated one gives is known from test_data_parallel.py: what one plain rank gets. Here both run the same
program, on threads. What is refused, and how memory is used, is in test_fused_memory.py.
"""

import time
from functools import cache
from itertools import cycle, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs_shared_memory
from worlds import FEATURES, Layers, assert_close, criterion, loader, mlp, parameters, record, run

import npdp
from npdp import kernels, nn, optim
from npdp.parallel.replicas import parameters_sha256
from npdp.parallel.world import World

IN_RANK_ORDER = ["auto", "naive", "shared_memory"] if kernels.backend() == "c" else ["naive"]
OPTIMIZERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.2),
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.2, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "schedule": lambda parameters: optim.SGD(parameters, lr=lambda iteration: 0.3 / (1 + iteration), momentum=0.5),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.05, weight_decay=0.01),
    "adamw": lambda parameters: optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
}


def uses(letter):
    """Return how many of the model's layers this rank uses for a letter; None for all."""
    partly = {"f": 1, "o": 1 if npdp.rank() % 2 else None, "e": None if npdp.rank() % 2 else 1}
    return partly.get(letter.lower())


def follow(plan, model, optimizers, batches):
    """Do what each letter says.

    s: a synced backward. f, o, e: the same without the last layer, on all ranks, odd ones, or even ones.
    A capital letter: under no_sync. z: zero_grad. u: a step of each optimiser. 1, 2: of one.
    """
    for letter in plan:
        if letter == "z":
            for optimizer in optimizers:
                optimizer.zero_grad()
        elif letter in "u12":
            for optimizer in optimizers if letter == "u" else [optimizers[int(letter) - 1]]:
                optimizer.step()
        else:
            inputs, labels = next(batches)
            with model.syncing(letter.islower()):
                layers = uses(letter)
                loss = criterion(model(inputs), labels) if layers is None else (model(inputs, layers) ** 2).mean()
                loss.backward()


def trained(update, plan="zsu" * 6, optimizer="momentum", algorithm="auto", batch_size=4, make=mlp, dtype=np.float64):
    """Follow the plan on this rank; return its parameters, and their hash."""
    npdp.init(algorithm)
    model = make(dtype=dtype)
    optimizers = [OPTIMIZERS[optimizer](model.parameters())]
    model = nn.DataParallel(model, update=update)
    follow(plan, model, optimizers, cycle(loader(batch_size)))
    return parameters(model), parameters_sha256(model.named_parameters())


@cache
def replicated(world_size, program, options):
    """Return what the replicated update gives on rank 0, sums in rank order."""
    return run(world_size, lambda: program("replicated", algorithm="naive", **dict(options)))[0]


def assert_same(world_size, tolerance=0, program=trained, algorithm="auto", world=None, **options):
    """Assert that the fused update gives the same parameters on all ranks: the same bits, or within the tolerance."""
    wanted, wanted_sha256 = replicated(world_size, program, frozenset(options.items()))
    outcomes = run(world_size, lambda: program("fused", algorithm=algorithm, **options), **(world or {}))
    got, sha256 = outcomes[0]
    assert {sha256 for _, sha256 in outcomes} == {sha256}, f"ranks differ, {algorithm}, {options}"
    if tolerance:
        assert_close(got, wanted, f"{world_size} ranks, {algorithm}, {options}", tolerance)
    else:
        off = {name: np.abs(array - wanted[name]).max() for name, array in got.items()}
        assert sha256 == wanted_sha256, f"{world_size} ranks, {algorithm}, {options}: off by {off}"


# Every optimiser, algorithm and size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_gives_the_bits_of_the_replicated_update(optimizer, dtype):
    """A batch of 1 leaves all ranks but one an empty part; one of 7 parts that are uneven."""
    for world_size, algorithm, batch_size in product((2, 3, 4), IN_RANK_ORDER, (1, 7)):
        assert_same(world_size, optimizer=optimizer, algorithm=algorithm, batch_size=batch_size, dtype=dtype)


@pytest.mark.parametrize("algorithm", ["ring", "halving_doubling"])
def test_messages_in_another_order_differ_by_rounding(algorithm):
    for world_size, optimizer in product((2, 3, 4, 5), ("nesterov", "adam")):
        assert_same(world_size, 1e-10, optimizer=optimizer, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["tree", "mpi"])
def test_an_algorithm_without_a_reduce_scatter_is_refused(algorithm):
    with pytest.raises(ValueError, match=f"needs an algorithm that has a reduce-scatter, auto, .*; got {algorithm}"):
        run(2, lambda: trained("fused", algorithm=algorithm))


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
        (flat,), (slab,) = model.exchange.flats, optimizer.slabs
        sent = sum(nbytes for peer, nbytes in recorder.sent if where[peer] != where[npdp.rank()])
        memory = npdp.init().host.arena._address  # mapped elsewhere by each rank
        at = [array.ctypes.data - memory for array in (flat.data, slab.state["m"], slab.state["v"])]
        return sent, flat.data.nbytes, at, model.exchange.algorithm

    sent, nbytes, at, algorithm = zip(*run(hosts * ranks, program, hosts=where))
    small = 1000 * len(where)  # who is used, and whether all are there
    for host in range(hosts):
        assert sum(sent[host * ranks :][:ranks]) <= 2 * (hosts - 1) / hosts * nbytes[0] + small
        assert len(set(map(tuple, at[host * ranks :][:ranks]))) == 1
    assert set(algorithm) == {"hierarchical"}


class Wide(Layers):
    """More than the blocks of C and NumPy hold."""


def wide(dtype):
    npdp.manual_seed(2)
    return Wide(nn.Linear(FEATURES, 3000, dtype=dtype), nn.Tanh(), nn.Linear(3000, 7, dtype=dtype))


@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_so_it_is_for_a_model_of_many_blocks(optimizer, algorithm):
    for world_size in (2, 3):
        assert_same(world_size, plan="zsu" * 3, optimizer=optimizer, algorithm=algorithm, make=wide, dtype=np.float32)


# Several backwards, and parameters that are not always used
PLANS = {
    "accumulated": "zSSsuzSsu",
    "accumulated, then not": "zSsuzsuzSSSsu",
    "two steps with one gradient": "zsuuzsu",
    "a step with no gradient": "uzuzsu",
    "unused at first": "zfuzfuzsuzsu",
    "unused in between": "zsuzfuzsuzfuzsu",
    "unused on odd ranks": "zouzsuzouzsu",
    "unused on even ranks": "zeuzsuzeuzou",
    "unused on some, then on all": "zouzfuzeuzsu",
    "unused on some of an accumulated batch": "zOEsuzFouzSfu",
}


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("plan", PLANS)
def test_plans_with_one_exchange_a_step_give_the_same_bits(plan, algorithm, optimizer):
    for world_size in (2, 3, 4):
        assert_same(world_size, plan=PLANS[plan], optimizer=optimizer, algorithm=algorithm)


@pytest.mark.parametrize("plan", ["zssuzsu", "susu", "zsSsuzsssu", "szsfsuosu"])
def test_gradients_of_several_synced_backwards_add_up_to_rounding(plan):
    """The replicated update sums each over the ranks first; the fused one all of a rank's first."""
    for world_size, algorithm in product((2, 3), ("auto", "ring")):
        assert_same(world_size, 1e-12, plan=plan, algorithm=algorithm)


letters = st.lists(st.sampled_from(["zs", "zSs", "zf", "zo", "ze", "zOs", "zFe", "u", "u", "zsu"]), max_size=9)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), letters, st.sampled_from(sorted(OPTIMIZERS)), st.sampled_from(IN_RANK_ORDER), st.integers(1, 9)
)
def test_any_plan_gives_the_same_bits(world_size, plan, optimizer, algorithm, batch_size):
    plan = "".join(plan) + "zsu"
    assert_same(world_size, plan=plan, optimizer=optimizer, algorithm=algorithm, batch_size=batch_size)


@needs_shared_memory
@pytest.mark.parametrize(("hosts", "tolerance"), [((0, 0, 0), 0), ((0, 1, 1, 0), 1e-10)], ids=["one host", "two hosts"])
@pytest.mark.parametrize("lacks", ["state", "parameters", "gradients"])
def test_it_gives_the_same_parameters_where_there_is_no_room_for_all(lacks, hosts, tolerance, monkeypatch):
    """Of two hosts, on the first."""
    empty = World.empty
    given = []

    def no_room(world, count, dtype, one_for_all):
        array = empty(world, count, dtype, one_for_all)
        given.append((world.rank, one_for_all))
        is_state = given.count((world.rank, True)) > 1
        lacking = "gradients" if not one_for_all else "state" if is_state else "parameters"
        return array if lacks != lacking or hosts[world.rank] else None

    monkeypatch.setattr(World, "empty", no_room)
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

    collectives = [(World, name) for name in ("allreduce", "sum", "run_in_column")]
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


# Several optimisers, dtypes, owners
def in_parts(update, algorithm, order, split, plan="zsu12fu2zou1zsu"):
    """Two optimisers over parts of one model, made before it is wrapped or after."""
    npdp.init(algorithm)
    model = mlp()
    layers = list(model.parameters())
    parts = {"halves": (layers[:2], layers[2:]), "in turn": (layers[::2], layers[1::2])}[split]
    make = lambda: [OPTIMIZERS["nesterov"](parts[0]), OPTIMIZERS["adam"](parts[1])]  # noqa: E731
    optimizers = make() if order == "before" else []
    wrapped = nn.DataParallel(model, update=update)
    follow(plan, wrapped, optimizers or make(), cycle(loader(4)))
    return parameters(model), parameters_sha256(model.named_parameters())


@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("split", ["halves", "in turn"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_two_optimisers_may_have_parts_of_one_model(order, split, algorithm):
    for world_size in (2, 3):
        options = dict(order=order, split=split, algorithm=algorithm)
        assert_same(world_size, 1e-12, program=in_parts, **options)  # "12fu": two backwards before a zero_grad
        assert_same(world_size, program=in_parts, plan="zsuzs1z2zf2u", **options)


class Odd(nn.Module):
    """Of two dtypes; one layer frozen, one used twice, one by nobody, one by rows with a large first feature."""

    def __init__(self):
        npdp.manual_seed(3)
        linear = lambda: nn.Linear(FEATURES, FEATURES, dtype=np.float64)  # noqa: E731
        self.first, self.sometimes, self.never, self.frozen, self.tied = (linear() for _ in range(5))
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False
        self.tied_too = nn.Linear(FEATURES, FEATURES, bias=False, dtype=np.float64)
        self.tied_too.weight = self.tied.weight
        self.narrow = nn.Linear(FEATURES, 2, dtype=np.float32)

    def forward(self, x):
        hidden = self.tied_too(self.tied(self.frozen(self.first(x)).tanh()).tanh())
        if len(x) and x.data[:, 0].max() > 0.5:
            hidden = hidden + self.sometimes(hidden) * ((x.data[:, :1] > 0.5) * 1.0)
        return hidden @ self.narrow.weight.transpose(1, 0) + self.narrow.bias


def odd(update, algorithm, before, batch_size):
    npdp.init(algorithm)
    model = Odd()
    optimizers = [OPTIMIZERS["momentum"](model.parameters())] if before else []
    wrapped = nn.DataParallel(model, update=update)
    optimizers = optimizers or [OPTIMIZERS["momentum"](model.parameters())]
    for inputs, labels in loader(batch_size):
        optimizers[0].zero_grad()
        ((wrapped(inputs) - labels.data[:, None]) ** 2).mean().backward()
        optimizers[0].step()
    return parameters(model), parameters_sha256(model.named_parameters())


@pytest.mark.parametrize("algorithm", IN_RANK_ORDER)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_unused_frozen_and_tied_parameters_of_several_dtypes(before, algorithm):
    for world_size, batch_size in product((2, 3), (1, 3, 13)):
        assert_same(world_size, program=odd, before=before, batch_size=batch_size, algorithm=algorithm)


def test_hooks_see_the_local_gradient_and_may_replace_it():
    def program(update, algorithm):
        npdp.init(algorithm)
        model = mlp()
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        wrapped, seen = nn.DataParallel(model, update=update), []
        model[0].weight.register_hook(lambda gradient: seen.append(float(np.abs(gradient).sum())) or gradient * 2)
        follow("zsuzsu", wrapped, [optimizer], cycle(loader(5)))
        return parameters(model) | {"seen": np.array(seen)}, parameters_sha256(model.named_parameters())

    assert_same(3, program=program, algorithm=IN_RANK_ORDER[0])


def test_a_gradient_of_the_users_own_is_this_ranks_share():
    def program():
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=1.0)
        before = parameters(model)
        nn.DataParallel(model, update="fused")
        for parameter in model.parameters():
            parameter.grad = np.full_like(parameter.data, 1.0 + npdp.rank())
        optimizer.step()
        return {name: before[name] - after for name, after in parameters(model).items()}

    for moved in run(3, program):
        assert_close(moved, {name: np.full_like(array, 6.0) for name, array in moved.items()})


def test_two_models_each_with_its_own_update_behind_one_loss():
    def program(update, algorithm):
        npdp.init(algorithm)
        first, second = mlp(1), mlp(2)
        optimizers = [OPTIMIZERS["adam"](first.parameters()), OPTIMIZERS["momentum"](second.parameters())]
        one, two = nn.DataParallel(first, update=update), nn.DataParallel(second, update="replicated")
        for inputs, labels in loader(5):
            for optimizer in optimizers:
                optimizer.zero_grad()
            criterion(one(inputs) + two(inputs), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
        whole = nn.Sequential(first, second)
        return parameters(whole), parameters_sha256(whole.named_parameters())

    for world_size in (2, 3):
        assert_same(world_size, program=program, algorithm=IN_RANK_ORDER[0])
