"""Ranks that do not train alike are told so: in a backward soon after, or, with the fused update, in the step."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from worlds import run

import npdp
from npdp import nn, optim
from npdp.data import ArrayDataset, DataLoader
from npdp.errors import InputError
from npdp.nn.parameter import lay_flat
from npdp.parallel.buckets import BUCKET_CAP_MB, FIRST_BUCKET_MB, cut_buckets
from npdp.parallel.marks import MARKED_EVERY, mark_of

ODD_RANK = 1  # does something else than the others; of three ranks there is one before it and one behind


def trains(differs, update: str = "replicated") -> None:
    """Train until parameters have been compared again; in the third iteration one rank does `differs`, not its step."""
    world = npdp.init()
    npdp.manual_seed(0)
    model = nn.DataParallel(nn.Linear(3, 2), update=update)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = np.random.default_rng(world.rank).standard_normal((2, 4, 3), dtype=np.float32)
    for iteration in range(2 * MARKED_EVERY):
        optimizer.zero_grad()
        nn.MSELoss()(model(x), y[:, :2]).backward()
        if iteration == 2 and world.rank == ODD_RANK:
            differs(model, optimizer)
        else:
            optimizer.step()


def skips_the_step(model, optimizer) -> None:
    pass


def has_another_learning_rate(model, optimizer) -> None:
    optimizer.lr *= 1.25
    optimizer.step()


def has_another_momentum(model, optimizer) -> None:
    optimizer.momentum /= 2
    optimizer.step()


def sets_a_value(model, optimizer) -> None:
    optimizer.step()
    with npdp.no_grad():
        for parameter in model.parameters():
            parameter += 1


@pytest.mark.parametrize("differs", [skips_the_step, has_another_learning_rate, sets_a_value])
@pytest.mark.parametrize("algorithm", ["auto", "ring"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_whose_parameters_differ_are_told_so(world_size, algorithm, differs):
    with pytest.raises(RuntimeError, match="parameters are not the same any more: of late a rank has skipped"):
        run(world_size, trains, differs, algorithm=algorithm)


def trains_with_values_of_its_own(layers: list[int], which: int) -> None:
    """One rank has set other values in one parameter, which nobody changes since."""
    world = npdp.init()
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in pairwise(layers)))
    wrapped = nn.DataParallel(model)
    with npdp.no_grad():
        parameter = list(model.parameters())[which]
        parameter += float(world.rank == ODD_RANK)
    for _ in range(10 * MARKED_EVERY):
        wrapped(np.ones((4, layers[0]), np.float32)).mean().backward()


@pytest.mark.parametrize("sizes", [[1], [2, 2], [4, 8, 2, 16], [8] * 8, [3, 0, 5]], ids=str)
def test_marks_look_at_all_values_of_all_parameters(sizes):
    parameters = [nn.Parameter(np.zeros(size, np.float32)) for size in sizes]
    (flat,) = lay_flat(parameters)
    (bucket,) = cut_buckets(flat, list(range(len(sizes))), BUCKET_CAP_MB, FIRST_BUCKET_MB)
    flat.data.view(np.int32)[:] = np.arange(flat.data.size)  # marks are a value's last 8 bits
    values = {at for start, size in zip(flat.starts, sizes) for at in range(start, start + size)}
    assert values <= {mark_of(bucket, turn) for turn in range(len(sizes) * max(sizes))}


def trains_rows(differs) -> None:
    """As `trains`, of a large weight the few rows that a batch touches."""
    world = npdp.init()
    npdp.manual_seed(0)
    model = nn.DataParallel(nn.Embedding(10_000, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    numbers = np.random.default_rng(world.rank).integers(0, 10_000, 4)
    for iteration in range(2 * MARKED_EVERY):
        optimizer.zero_grad()
        (model(numbers) ** 2).mean().backward()
        if iteration == 2 and world.rank == ODD_RANK:
            differs(model, optimizer)
        else:
            optimizer.step()


@pytest.mark.parametrize("differs", [skips_the_step, has_another_learning_rate, sets_a_value])
@pytest.mark.parametrize("algorithm", ["auto", "ring"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_whose_sparse_parameters_differ_are_told_so(world_size, algorithm, differs):
    with pytest.raises(RuntimeError, match="parameters are not the same any more: of late a rank has skipped"):
        run(world_size, trains_rows, differs, algorithm=algorithm)


def looks_at_rows_of_which_one_is_its_own(count: int, which: int) -> None:
    """One rank has set other values in one of the rows that each exchange touches, and that nobody changes since."""
    world = npdp.init()
    npdp.manual_seed(0)
    first, second = nn.Embedding(50, 2), nn.Embedding(20, 1)
    model = nn.DataParallel(nn.ModuleList([first, second]))
    with npdp.no_grad():
        first.weight.data[3 * which] += float(world.rank == ODD_RANK)
    for _ in range((count + 1) * MARKED_EVERY):
        model.zero_grad()
        (first(np.arange(count) * 3).mean() + second(np.arange(world.rank)).sum()).backward()


@pytest.mark.parametrize(("count", "which"), [(count, which) for count in (1, 2, 5, 8) for which in {0, 1, count - 1}
                                              if which < count])  # fmt: skip
def test_marks_look_at_all_rows_that_are_touched_in_turn(count, which):
    with pytest.raises(RuntimeError, match="parameters are not the same any more"):
        run(2, looks_at_rows_of_which_one_is_its_own, count, which)


@pytest.mark.parametrize(("layers", "which"), [*(([3, 2, 2], which) for which in range(4)), ([1, 1], 1)], ids=str)
def test_marks_look_at_all_parameters_in_turn(layers, which):
    with pytest.raises(RuntimeError, match="parameters are not the same any more"):
        run(2, trains_with_values_of_its_own, layers, which)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_of_which_one_would_update_its_part_with_another_learning_rate_are_told_so(world_size):
    """Fused, in the step itself: parameters are there once, so that their hash would be the same on all ranks."""
    with pytest.raises(RuntimeError, match=r"SGD.step: rank \d has lr 0.1(25)?, .*, and another rank has other values"):
        run(world_size, trains, has_another_learning_rate, "fused")


def takes_steps_in_another_order() -> None:
    """Two optimisers of alike parameters: in the third iteration one rank steps the second first."""
    world = npdp.init()
    npdp.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizers = [optim.SGD(layer.parameters(), lr=0.1) for layer in model]
    wrapped = nn.DataParallel(model, update="fused")
    x = np.random.default_rng(world.rank).standard_normal((4, 3), dtype=np.float32)
    for iteration in range(4):
        wrapped.zero_grad()
        nn.MSELoss()(wrapped(x), x).backward()
        for optimizer in optimizers[:: -1 if iteration == 2 and world.rank == ODD_RANK else 1]:
            optimizer.step()


@pytest.mark.parametrize("hosts", [None, (0, 1, 2)])
def test_ranks_of_which_one_steps_another_optimiser_are_told_so(hosts):
    with pytest.raises(RuntimeError, match=r"SGD.step: rank \d has lr 0.1, .* or steps another optimiser"):
        run(3, takes_steps_in_another_order, hosts=hosts)


def test_ranks_of_which_one_has_other_settings_by_and_by_are_told_so():
    with pytest.raises(RuntimeError, match=r"rank \d has lr 0.1, momentum 0.(9|45), .* another rank has other values"):
        run(2, trains, has_another_momentum, "fused")


OPTIMISERS = {
    "momentum": lambda odd: {"momentum": 0.5 + 0.25 * odd},
    "weight_decay": lambda odd: {"weight_decay": 0.5 * odd},
    "nesterov": lambda odd: {"momentum": 0.5, "nesterov": odd},
    "lr": lambda odd: {"lr": 0.5 + 0.25 * odd},
    "a schedule": lambda odd: {"lr": optim.learning_rates.step(0.5 + 0.25 * odd, 3)},
    "the class": lambda odd: {},
}


def trains_by_another_optimiser(what: str, update: str = "replicated", strategy=None) -> None:
    odd = npdp.rank() == ODD_RANK
    npdp.manual_seed(0)
    model = nn.Linear(3, 2)
    kind = optim.Adam if what == "the class" and odd else optim.AdamW if what == "the class" else optim.SGD
    optimizer = kind(model.parameters(), **{"lr": 0.1, **OPTIMISERS[what](odd)})
    model = nn.DataParallel(model, update=update, strategy=strategy)
    nn.MSELoss()(model(np.ones((4, 3))), np.ones((4, 2))).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [("fused",), *(("replicated", npdp.ParameterServer(servers, staleness))
                                                for servers in (0, 1) for staleness in (0, 1))], ids=str)  # fmt: skip
@pytest.mark.parametrize(("what", "has"), [
    ("momentum", "SGD with momentum 0.75, rank 0 has SGD with momentum 0.5"),
    ("weight_decay", "SGD with weight_decay 0.5, rank 0 has SGD with weight_decay 0"),
    ("nesterov", "SGD with nesterov True, rank 0 has SGD with nesterov False"),
    ("lr", "SGD with lr 0.75, rank 0 has SGD with lr 0.5"),
    ("a schedule", "SGD with lr 0.75, rank 0 has SGD with lr 0.5"),
    ("the class", "Adam with .*, rank 0 has AdamW with"),
])  # fmt: skip
def test_ranks_that_update_their_parts_by_different_rules_are_told_so(what, has, kind):
    with pytest.raises((RuntimeError, InputError), match=f"optimisers differ between ranks: rank {ODD_RANK} has {has}"):
        run(3, trains_by_another_optimiser, what, *kind)


def sets_its_learning_rate_later(make, lr, servers: int) -> None:
    """Once the model is wrapped one worker sets another learning rate."""
    npdp.manual_seed(0)
    model = make()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model = nn.DataParallel(model, strategy=npdp.ParameterServer(servers))
    if npdp.rank() == ODD_RANK:
        optimizer.lr = lr
    model(np.arange(3)[:, None]).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("servers", [0, 1])
@pytest.mark.parametrize("lr", [0.25, lambda iteration: 0.25], ids=["number", "schedule"])
@pytest.mark.parametrize("make", [lambda: nn.Linear(1, 2), lambda: nn.Embedding(3, 2)], ids=["dense", "sparse"])
def test_workers_with_different_learning_rates_in_the_same_step_are_told_so(make, lr, servers):
    with pytest.raises(RuntimeError, match="learning rates in the same step: worker 0 0.1, worker 1 0.25"):
        run(2 + servers, sets_its_learning_rate_later, make, lr, servers)


def trains_on_a_loader(differs, update: str = "replicated", strategy=None, shuffle: bool = True) -> None:
    """The odd rank's loader draws other batches than the others'."""
    world = npdp.init()
    odd = world.rank == ODD_RANK
    npdp.manual_seed(int(odd) if differs == "manual_seed" else 0)
    x = np.ones((12 - (odd and differs == "samples"), 3), np.float32)
    y = x[:, :2].copy()
    y[5] += odd and differs == "labels"
    loader = DataLoader(
        ArrayDataset(x, y),
        batch_size=3 if odd and differs == "batch_size" else 4,
        shuffle=shuffle,
        seed=7 if odd and differs == "seed" else None,
    )
    if odd and differs == "epoch":
        next(iter(loader))  # to look at the shapes, say
    model = nn.DataParallel(nn.Linear(3, 2), update=update, strategy=strategy)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for inputs, labels in loader:
        optimizer.zero_grad()
        nn.MSELoss()(model(inputs), labels).backward()
        optimizer.step()


DIFFERS = {
    "seed": "seed 7, rank 0 has seed 0",
    "manual_seed": "seed 1, rank 0 has seed 0",
    "samples": "11 samples, rank 0 has 12 samples",
    "labels": r"labels with checksum \d+, rank 0 has labels with checksum \d+",
    "batch_size": "batch_size 3, rank 0 has batch_size 4",
    "epoch": "epoch 1, rank 0 has epoch 0",
}
IN_STEP, LOCALLY = (("replicated",), ("fused",)), ("replicated", npdp.LocalSGD(2))


@pytest.mark.parametrize(("differs", "kind"), [
    *((differs, kind) for differs in DIFFERS for kind in IN_STEP),
    *((differs, LOCALLY) for differs in DIFFERS if differs != "epoch"),
], ids=str)  # fmt: skip
def test_ranks_whose_loaders_draw_other_batches_are_told_so(differs, kind):
    told = f"loaders of the whole data, .* differ between ranks: rank {ODD_RANK} has {DIFFERS[differs]}"
    with pytest.raises(RuntimeError, match=told):
        run(3, trains_on_a_loader, differs, *kind)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_have_a_shard_of_the_data_each_are_told_so(world_size):
    """As a sampler of PyTorch's gives it: they are as long, and each rank would train on a part of its part."""

    def program():
        labels = np.arange(60) % 7
        mine = slice(npdp.rank(), None, npdp.world_size())
        model = nn.DataParallel(nn.Linear(1, 7))
        for x, y in DataLoader(ArrayDataset(np.ones((60, 1), np.float32)[mine], labels[mine]), batch_size=6):
            nn.CrossEntropyLoss()(model(x), y).backward()

    with pytest.raises(RuntimeError, match="loaders of the whole data, .* rank 1 has labels with checksum"):
        run(world_size, program)


@pytest.mark.parametrize("differs", ["seed", "manual_seed", "epoch"])
def test_nothing_of_an_order_matters_where_samples_are_not_shuffled(differs):
    run(2, trains_on_a_loader, differs, "replicated", None, False)


@pytest.mark.parametrize("count", [5, 9, 21])
@pytest.mark.parametrize("kind", [*IN_STEP, ("replicated", npdp.ParameterServer(servers=0))], ids=str)
def test_ranks_that_leave_out_their_empty_parts_are_told_so_before_long(kind, count):
    """They are a batch ahead then, and sums are over parts of several batches, though each has as many steps."""

    def program(update, strategy=None):
        x = np.ones((count, 3), np.float32)
        model = nn.Linear(3, 3)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        wrapped, loader = nn.DataParallel(model, update=update, strategy=strategy), DataLoader(ArrayDataset(x, x), 4)
        batches = (batch for _ in range(9) for batch in loader if len(batch[0]))
        for _, (inputs, labels) in zip(range(2 * len(loader) + 1), batches):
            optimizer.zero_grad()
            nn.MSELoss()(wrapped(inputs), labels).backward()
            optimizer.step()

    with pytest.raises(RuntimeError, match="on its part, be it empty, differ between ranks: rank 1 has batch"):
        run(2, program, *kind)


def test_a_rank_that_does_not_shuffle_is_told_so():
    def program():
        trains_on_a_loader("", shuffle=npdp.rank() != ODD_RANK)

    with pytest.raises(RuntimeError, match=f"rank {ODD_RANK} has shuffle=False, rank 0 has seed 0"):
        run(3, program)


def of_a_shard(world) -> None:
    """Horovod's way: a loader for each rank's own shard, in an order of its own; ranks count alike."""
    x = np.ones((8 + world.rank, 3), np.float32)
    loader = DataLoader(ArrayDataset(x, x), 4, shuffle=True, seed=world.rank, rank=0, world_size=1)
    model = nn.Linear(3, 3)
    optimizer = npdp.DistributedOptimizer(optim.SGD(model.parameters(), lr=0.1))
    for _, (inputs, labels) in zip(range(2), loader):
        optimizer.zero_grad()
        nn.MSELoss()(model(inputs), labels).backward()
        optimizer.step()


def without_a_batch(world) -> None:
    """Local SGD's ranks meet after as many steps; one of them leaves a batch out, and begins the next epoch later."""
    x = np.ones((12, 3), np.float32)
    loader = DataLoader(ArrayDataset(x, x), 4, shuffle=True)
    model = nn.DataParallel(nn.Linear(3, 3), strategy=npdp.LocalSGD(2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        for number, (inputs, labels) in enumerate(loader):
            if world.rank == ODD_RANK and (epoch, number) == (0, 1):
                continue
            optimizer.zero_grad()
            nn.MSELoss()(model(inputs), labels).backward()
            optimizer.step()
    model.synchronize()


def with_zeros_of_its_own(world) -> None:
    """A rank whose part is empty makes its loss of the parameters."""
    x = np.ones((world.world_size - 1, 3), np.float32)
    model = nn.DataParallel(nn.Linear(3, 3))
    for inputs, labels in DataLoader(ArrayDataset(x, x), world.world_size - 1):
        outputs = model(inputs)
        loss = nn.MSELoss()(outputs, labels) if len(inputs) else sum((p * 0).sum() for p in model.parameters())
        loss.backward()


@pytest.mark.parametrize("trains", [of_a_shard, without_a_batch, with_zeros_of_its_own])
def test_ranks_that_may_differ_are_not_told_so(trains):
    run(3, lambda: trains(npdp.init()))


class Measuring(optim.SGD):
    """Keeps things of its own."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.rank, self.last_loss = npdp.rank(), 0.0


@pytest.mark.parametrize("kind", [("fused",), ("replicated", npdp.ParameterServer(servers=0))], ids=str)
def test_what_an_optimizer_keeps_of_its_own_may_differ(kind):
    def program(update, strategy=None):
        npdp.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = Measuring(model.parameters(), lr=0.1)
        wrapped = nn.DataParallel(model, update=update, strategy=strategy)
        for step in range(3):
            optimizer.zero_grad()
            nn.MSELoss()(wrapped(np.ones((2, 3), np.float32)), np.zeros((2, 2), np.float32)).backward()
            optimizer.last_loss = float(step)
            optimizer.step()

    run(2, program, *kind)


class Weighted(nn.Module):
    """A criterion that has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(2, np.float32))

    def forward(self, outputs, labels):
        return ((outputs - labels) ** 2 * self.weight).mean()


def trains_with_a_criterion(update: str, wrap: bool) -> np.ndarray:
    """Train a model, and a criterion that is wrapped or not; return the criterion's parameter."""
    world = npdp.init()
    npdp.manual_seed(0)
    model, criterion = nn.DataParallel(nn.Linear(3, 2), update=update), Weighted()
    weight = criterion.weight
    if wrap:
        criterion = nn.DataParallel(criterion, update=update)
    optimizer = optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
    x, y = np.random.default_rng(world.rank).standard_normal((2, 4, 3), dtype=np.float32)
    for _ in range(3):
        optimizer.zero_grad()
        criterion(model(x), y[:, :2]).backward()
        optimizer.step()
    return weight.data.copy()


@pytest.mark.parametrize("update", ["replicated", "fused"])
def test_parameters_that_nobody_exchanges_are_warned_of(update):
    with pytest.warns(UserWarning, match=r"in no DataParallel \(1, the first of shape \(2,\)\): each rank") as said:
        run(3, trains_with_a_criterion, update, False)
    assert len(said) == 1


@pytest.mark.parametrize("update", ["replicated", "fused"])
def test_a_criterion_may_be_wrapped_as_well(update):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, *others = run(3, trains_with_a_criterion, update, True)
    assert not np.array_equal(first, np.ones(2))
    assert all(np.array_equal(first, other) for other in others)
